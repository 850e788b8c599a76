//! The MongoDB backend keeps the laws of every backend. What is not its own (lock, queue, hints, limits, nonces) is the
//! embedded one's here.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use common::config::StoreConfig;
use common::store::Stores;
use common::time::{ManualClock, Timestamp};
use storage::conformance::mongo_server::Database;
use storage::conformance::{Backend, Ending};
use storage::mongo;

storage::conformance_suite!(fresh);

async fn fresh() -> Mongo {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let database = Database::shared().await;
    let (stores, closing, folder) = open(&database, &clock).await;
    Mongo {
        stores,
        closing: Some(closing),
        abandoned: Vec::new(),
        clock,
        database,
        folders: vec![folder],
    }
}

struct Mongo {
    stores: Stores,
    closing: Option<mongo::Closing>,
    /// Stores that nobody closed.
    abandoned: Vec<(Stores, Option<mongo::Closing>)>,
    clock: Arc<ManualClock>,
    database: Database,
    folders: Vec<tempfile::TempDir>,
}

async fn open(database: &Database, clock: &Arc<ManualClock>) -> (Stores, mongo::Closing, tempfile::TempDir) {
    let rows = mongo::connect(&database.uri(), Arc::clone(clock) as _)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig::Embedded {
        folder: folder.path().to_owned(),
    };
    let others = storage::open(&config, Arc::clone(clock) as _).await.unwrap();
    let stores = Stores {
        jobs: rows.jobs,
        workers: rows.workers,
        terms: rows.terms,
        logs: rows.logs,
        files: rows.files,
        identity: rows.identity,
        ..others
    };
    (stores, rows.closing, folder)
}

#[async_trait::async_trait]
impl Backend for Mongo {
    fn stores(&self) -> Stores {
        self.stores.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn reopen(&mut self, ending: Ending) {
        let mut closing = self.closing.take();
        match ending {
            Ending::Closed => closing.take().unwrap().close().await,
            // A killed program leaves its connections to the server, and nothing else.
            Ending::Killed => {}
        }
        let (stores, next, folder) = open(&self.database, &self.clock).await;
        let old = std::mem::replace(&mut self.stores, stores);
        self.abandoned.push((old, closing));
        self.closing = Some(next);
        self.folders.push(folder);
    }
}
