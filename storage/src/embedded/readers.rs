//! Reading connections: a small pool. Queries run on blocking threads, so that none holds up the runtime; a look by key
//! ([`Readers::look`]) runs where it is asked, since it takes less time than waking another thread.
//!
//! Invariant: a connection is held by a query that runs, never by a caller. A query that was asked for runs in its turn
//! and gives its connection to the next one whether or not its caller still polls for the answer, so callers that wait
//! for something else meanwhile, even for another query, hold up nobody. A query whose caller has gone is not run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{Notify, oneshot};

use super::sqlite;
use super::writer::Closed;

/// Queries that wait for a connection: several for each connection that the listeners let in, some 10 MB.
const WAITING_MAX: usize = 32 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("more than {WAITING_MAX} queries wait")]
struct TooMany;

/// Gets a connection, or why there is none.
type Query = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

pub(super) struct Readers {
    path: PathBuf,
    most: usize,
    pool: Mutex<Pool>,
    /// Told when nothing runs any more.
    quiet: Notify,
}

#[derive(Default)]
struct Pool {
    /// Open and unused. A connection whose query panicked does not come back; the next query opens another.
    idle: Vec<Connection>,
    running: usize,
    /// Not empty only while as many run as may.
    waiting: VecDeque<Query>,
    closed: bool,
}

impl Readers {
    pub(super) fn new(path: PathBuf, most: usize) -> Arc<Self> {
        Arc::new(Self {
            path,
            most,
            pool: Mutex::default(),
            quiet: Notify::new(),
        })
    }

    pub(super) async fn read<T, F>(self: &Arc<Self>, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.ask(Box::new(move |db| {
            if !reply.is_closed() {
                // Whoever goes away just now needs no answer either.
                let _ = reply.send(db.and_then(query));
            }
        }))?;
        // Without an answer the query has panicked, or the runtime is ending.
        answer
            .await
            .unwrap_or_else(|lost| Err(StoreError::Unavailable(Box::new(lost))))
    }

    /// A look by key, on the caller's thread: for queries that touch a few pages of an index, whatever the size of the
    /// table. They lie in memory nearly always, and a writer never holds up a reader, so this takes some 10 us, where
    /// two changes of thread take some 100. Without an unused connection it is an ordinary [`Readers::read`].
    pub(super) async fn look<T, F>(self: &Arc<Self>, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        if let Some(db) = self.take_unused() {
            let mut turn = Turn {
                readers: self,
                db: None,
            };
            let answer = query(&db);
            turn.db = Some(db);
            return answer;
        }
        self.read(query).await
    }

    /// Waits for the queries under way and lets no more in.
    pub(super) async fn close(&self) {
        self.pool().closed = true;
        loop {
            let quiet = self.quiet.notified();
            {
                let mut pool = self.pool();
                if pool.running == 0 {
                    pool.idle.clear();
                    return;
                }
            }
            quiet.await;
        }
    }

    fn ask(self: &Arc<Self>, query: Query) -> Result<(), StoreError> {
        let mut pool = self.pool();
        if pool.closed {
            return Err(StoreError::Unavailable(Box::new(Closed)));
        }
        if pool.running < self.most {
            pool.running += 1;
            let db = pool.idle.pop();
            drop(pool);
            self.run(db, query);
        } else if pool.waiting.len() < WAITING_MAX {
            pool.waiting.push_back(query);
        } else {
            return Err(StoreError::Unavailable(Box::new(TooMany)));
        }
        Ok(())
    }

    /// An open connection, with the turn that belongs to it.
    fn take_unused(&self) -> Option<Connection> {
        let mut pool = self.pool();
        if pool.closed || pool.running >= self.most {
            return None;
        }
        let db = pool.idle.pop()?;
        pool.running += 1;
        Some(db)
    }

    /// Runs a query on a blocking thread, then those that wait.
    fn run(self: &Arc<Self>, db: Option<Connection>, query: Query) {
        let readers = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || {
            let mut next = Some((db, query));
            while let Some((db, query)) = next {
                // A panic costs its own query and its connection.
                let db = catch_unwind(AssertUnwindSafe(|| readers.answer(db, query))).unwrap_or(None);
                next = readers.next(db);
            }
        }));
    }

    fn answer(&self, db: Option<Connection>, query: Query) -> Option<Connection> {
        match db.map_or_else(|| sqlite::open_reader(&self.path), Ok) {
            Ok(db) => {
                query(Ok(&db));
                Some(db)
            }
            Err(error) => {
                query(Err(error));
                None
            }
        }
    }

    /// Ends a turn: its connection goes to the query that has waited longest, if one does.
    fn next(&self, db: Option<Connection>) -> Option<(Option<Connection>, Query)> {
        let mut pool = self.pool();
        if let Some(query) = pool.waiting.pop_front() {
            return Some((db, query));
        }
        pool.running -= 1;
        pool.idle.extend(db);
        if pool.running == 0 {
            self.quiet.notify_waiters();
        }
        None
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of a query on the caller's thread; it ends when dropped, by a panic too.
struct Turn<'a> {
    readers: &'a Arc<Readers>,
    db: Option<Connection>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((db, query)) = self.readers.next(self.db.take()) {
            self.readers.run(db, query);
        }
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn one_reader() -> (tempfile::TempDir, Arc<Readers>) {
        let folder = tempfile::tempdir().unwrap();
        drop(sqlite::open_writer(folder.path(), &sqlite::JOBS).unwrap());
        let readers = Readers::new(folder.path().join(sqlite::JOBS.file), 1);
        (folder, readers)
    }

    /// A query that lasts until the other end is let go.
    fn held<T: Send + 'static>(answer: T) -> (impl FnOnce(&Connection) -> Result<T, StoreError>, Sender<()>) {
        let (let_go, held) = std::sync::mpsc::channel();
        let query = move |_: &Connection| {
            // An end of the other side lets go as well.
            let _ = held.recv();
            Ok(answer)
        };
        (query, let_go)
    }

    async fn soon<T>(answer: impl Future<Output = T>) -> T {
        tokio::time::timeout(DEADLINE, answer).await.expect("no answer")
    }

    #[tokio::test]
    async fn callers_that_wait_for_something_else_hold_up_no_query() {
        let (_folder, readers) = one_reader();
        // Both have asked, one for the connection and one for its place in the row; neither is polled again for now.
        let (query, let_go) = held(1);
        let mut first = Box::pin(readers.read(query));
        let mut second = Box::pin(readers.read(|_| Ok(2)));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        let_go.send(()).unwrap();
        assert_eq!(soon(readers.read(|_| Ok(3))).await.unwrap(), 3);
        assert_eq!(soon(readers.look(|_| Ok(4))).await.unwrap(), 4);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (1, 2));
    }

    #[tokio::test]
    async fn a_query_whose_caller_has_gone_is_not_run_and_the_next_one_is() {
        let (_folder, readers) = one_reader();
        let (query, let_go) = held(());
        let mut slow = Box::pin(readers.read(query));
        assert!(slow.as_mut().now_or_never().is_none());
        let abandoned: Option<Result<(), StoreError>> =
            readers.read(|_| panic!("nobody wants to know")).now_or_never();
        assert!(abandoned.is_none());
        let mut last = Box::pin(readers.read(|_| Ok(())));
        assert!(last.as_mut().now_or_never().is_none());
        let_go.send(()).unwrap();
        soon(last).await.unwrap();
        soon(slow).await.unwrap();
    }

    #[tokio::test]
    async fn a_query_that_panics_costs_neither_its_turn_nor_the_others() {
        let (_folder, readers) = one_reader();
        for _ in 0..3 {
            let answer: Result<(), StoreError> = soon(readers.read(|_| panic!("a fault of ours"))).await;
            assert!(matches!(answer, Err(StoreError::Unavailable(_))));
            soon(readers.read(|_| Ok(()))).await.unwrap();
            let looked = AssertUnwindSafe(readers.look::<(), _>(|_| panic!("another"))).catch_unwind();
            // On our own thread, or on another where the query before has not given its turn back yet.
            assert!(matches!(soon(looked).await, Err(_) | Ok(Err(_))));
        }
        soon(readers.look(|_| Ok(()))).await.unwrap();
    }

    #[tokio::test]
    async fn a_close_waits_for_what_was_asked_and_lets_no_more_in() {
        let (_folder, readers) = one_reader();
        let (query, let_go) = held(0);
        let mut first = Box::pin(readers.read(query));
        assert!(first.as_mut().now_or_never().is_none());
        let mut behind: Vec<_> = (1..3)
            .map(|number| Box::pin(readers.read(move |_| Ok(number))))
            .collect();
        for answer in &mut behind {
            assert!(answer.as_mut().now_or_never().is_none());
        }
        let mut closing = Box::pin(readers.close());
        assert!(closing.as_mut().now_or_never().is_none());
        let_go.send(()).unwrap();
        soon(closing).await;
        assert_eq!(first.now_or_never().unwrap().unwrap(), 0);
        for (answer, number) in behind.into_iter().zip(1..) {
            assert_eq!(answer.now_or_never().unwrap().unwrap(), number);
        }
        assert!(readers.read(|_| Ok(())).await.is_err());
        assert!(readers.look(|_| Ok(())).await.is_err());
    }
}
