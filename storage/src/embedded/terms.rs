//! The leader's term: one number that only rises.

use std::sync::Arc;

use async_trait::async_trait;
use common::job::Epoch;
use common::store::{LeaderTerms, StoreError};
use rusqlite::{Connection, OptionalExtension};

use super::readers::Readers;
use super::sqlite::sql;
use super::writer::Lane;

pub(super) struct Terms {
    lane: Lane<Connection>,
    readers: Arc<Readers>,
}

impl Terms {
    pub(super) fn new(lane: Lane<Connection>, readers: Arc<Readers>) -> Self {
        Self { lane, readers }
    }
}

#[async_trait]
impl LeaderTerms for Terms {
    async fn begin(&self) -> Result<Epoch, StoreError> {
        let next = |db: &mut Connection| {
            let epoch: i64 = db
                .prepare_cached(
                    "INSERT INTO terms (one, epoch) VALUES (1, 1)
                     ON CONFLICT (one) DO UPDATE SET epoch = epoch + 1 RETURNING epoch",
                )
                .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
                .map_err(sql)?;
            Ok(Epoch(epoch.cast_unsigned()))
        };
        self.lane.write(1, next).await
    }

    async fn current(&self) -> Result<Epoch, StoreError> {
        let current = |db: &Connection| {
            let epoch: Option<i64> = db
                .prepare_cached("SELECT epoch FROM terms")
                .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
                .map_err(sql)?;
            Ok(Epoch(epoch.unwrap_or(0).cast_unsigned()))
        };
        self.readers.read(current).await
    }
}
