//! The leader's term: one document with one number that only rises.
//!
//! Sent twice, a term is skipped, which harms nobody: terms are compared, never counted.

use std::sync::Arc;

use async_trait::async_trait;
use common::job::Epoch;
use common::store::{LeaderTerms, StoreError};
use mongodb::bson::doc;

use super::link::{Link, Question, in_time};
use super::schema;
use super::trouble::{Trouble, is_duplicate};

const LEADER: &str = "leader";
/// The very first term alone may meet another first one.
const TRIES: usize = 3;

pub(super) struct Terms(pub(super) Arc<Link>);

#[async_trait]
impl LeaderTerms for Terms {
    async fn begin(&self) -> Result<Epoch, StoreError> {
        Ok(in_time(self.next()).await?)
    }

    async fn current(&self) -> Result<Epoch, StoreError> {
        let question = Question::new(schema::TERMS, doc! { "_id": LEADER });
        let epoch = self.0.ask_one(question, |row| Ok(row.get_i64("epoch")?)).await?;
        Ok(Epoch(epoch.unwrap_or(0).cast_unsigned()))
    }
}

impl Terms {
    async fn next(&self) -> Result<Epoch, Trouble> {
        for _ in 0..TRIES {
            let command = doc! {
                "findAndModify": schema::TERMS, "query": { "_id": LEADER },
                "update": { "$inc": { "epoch": 1_i64 } }, "upsert": true, "new": true,
            };
            match self.0.find_and_modify(command).await {
                Ok(Some(leader)) => return Ok(Epoch(leader.get_i64("epoch")?.cast_unsigned())),
                // Of two that make the document one is told of the other's, or (by some servers) of none.
                Ok(None) => {}
                Err(Trouble::Refused { code, .. }) if is_duplicate(code) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Err(Trouble::Contended)
    }
}
