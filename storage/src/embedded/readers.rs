//! Reading connections: a small pool. Queries run on blocking threads, so that none holds up the runtime; a look by key
//! ([`Readers::look`]) runs where it is asked, since it takes less time than waking another thread.

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

    /// A look by key, on the caller's thread: for queries that touch a few pages of an index, whatever the size of the
    /// table. They lie in memory nearly always, and a writer never holds up a reader, so this takes some 10 us, where
    /// two changes of thread take some 100. Without an unused connection it is an ordinary [`Readers::read`].
    pub(super) async fn look<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        if let Ok(_permit) = self.permits.try_acquire() {
            let ready = lock(&self.idle).pop();
            if let Some(db) = ready {
                let answer = query(&db);
                lock(&self.idle).push(db);
                return answer;
            }
        }
        self.read(query).await
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
