//! Reading connections: a small pool, used on blocking threads, so that no query ever holds up the runtime.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use common::store::StoreError;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::sqlite;

pub(super) struct Readers {
    path: PathBuf,
    most: usize,
    permits: Semaphore,
    /// Open and unused. A connection whose query panicked does not come back; the next reader opens another.
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, most: usize) -> Arc<Self> {
        Arc::new(Self {
            path,
            most,
            permits: Semaphore::new(most),
            idle: Arc::default(),
        })
    }

    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|closed| StoreError::Unavailable(Box::new(closed)))?;
        let idle = Arc::clone(&self.idle);
        let path = self.path.clone();
        blocking(move || {
            let ready = lock(&idle).pop();
            let db = match ready {
                Some(db) => db,
                None => sqlite::open_reader(&path)?,
            };
            let answer = query(&db);
            lock(&idle).push(db);
            answer
        })
        .await
    }

    /// Waits for the queries under way and lets no more in.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let permits = self.permits.acquire_many(all).await;
        self.permits.close();
        drop(permits);
        lock(&self.idle).clear();
    }
}

fn lock(idle: &Mutex<Vec<Connection>>) -> std::sync::MutexGuard<'_, Vec<Connection>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => answer,
        Err(ended) => Err(StoreError::Unavailable(Box::new(ended))),
    }
}
