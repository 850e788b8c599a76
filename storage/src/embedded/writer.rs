//! The writer of a database: one thread, group commit.
//!
//! While one group's commit is under way the next collects in a bounded channel; a group is one transaction, and each
//! of its requests is answered after the commit. Invariants: an answered request is durable; a request that fails
//! changes nothing and spoils no other (the group is undone and each request of it is made alone, which is why work
//! is `FnMut`); a failed commit is answered to the whole group. Once closed, or should the thread die, callers get
//! [`StoreError::Unavailable`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use common::store::StoreError;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::folder::Folder;
use super::sqlite;
use super::wal_room::WalRoom;

/// What a writer thread owns.
pub(super) trait State: Send + 'static {
    fn db(&self) -> &Connection;

    /// Everything that has to be durable before the commit is.
    fn before_commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn committed(&mut self) {}

    fn rolled_back(&mut self) {}
}

impl State for Connection {
    fn db(&self) -> &Connection {
        self
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Requests that may wait.
    pub(super) queue: usize,
    /// Most requests in one group.
    pub(super) group: usize,
    /// A group is closed once its requests weigh this much together.
    pub(super) weight: usize,
}

/// The way to a writer thread, which ends when the last of these is dropped.
pub(super) struct Lane<S>(mpsc::Sender<Message<S>>);

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

enum Message<S> {
    Work(Box<dyn Request<S>>),
    Close(oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
#[error("the store is closed")]
pub(super) struct Closed;

impl<S: State> Lane<S> {
    /// The folder stays locked as long as the thread lives.
    pub(super) fn start(
        name: &'static str,
        state: S,
        size: Size,
        folder: Arc<Folder>,
        mut room: Option<WalRoom>,
    ) -> Result<Self, StoreError> {
        let (sender, receiver) = mpsc::channel(size.queue);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let closing = serve(receiver, state, size, room.as_mut());
                drop(folder);
                if let Some(reply) = closing {
                    // Whoever closes may have gone away; the lane is closed all the same.
                    let _ = reply.send(());
                }
            })
            .map_err(sqlite::io)?;
        Ok(Self(sender))
    }

    /// Does `work` in a transaction and answers after its commit. `work` may run twice, the first run being undone.
    pub(super) async fn write<T, F>(&self, weight: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_then(weight, work, |_| ()).await
    }

    /// As [`Lane::write`]; once the outcome stands, and before it is answered, `after` sees it. It runs on the writer's
    /// thread, in the order of commits, also where the caller has gone away.
    pub(super) async fn write_then<T, F, A>(&self, weight: usize, work: F, after: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S) -> Result<T, StoreError> + Send + 'static,
        A: FnOnce(&Result<T, StoreError>) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            weight,
            work,
            after,
            outcome: None,
            reply,
        };
        self.0
            .send(Message::Work(Box::new(call)))
            .await
            .map_err(|_| StoreError::Unavailable(Box::new(Closed)))?;
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(Box::new(Closed))))
    }

    /// Waits for what is under way, then ends the thread.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.0.send(Message::Close(reply)).await.is_ok() {
            // An error means that the thread is gone, which is what was asked for.
            let _ = closed.await;
        }
    }
}

trait Request<S>: Send {
    fn weight(&self) -> usize;
    /// False when it failed.
    fn run(&mut self, state: &mut S) -> bool;
    /// Tells the caller the outcome of the last run.
    fn answer(self: Box<Self>);
    fn refuse(self: Box<Self>, error: StoreError);
}

struct Call<T, F, A> {
    weight: usize,
    work: F,
    after: A,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<S, T, F, A> Request<S> for Call<T, F, A>
where
    T: Send,
    F: FnMut(&mut S) -> Result<T, StoreError> + Send,
    A: FnOnce(&Result<T, StoreError>) + Send,
{
    fn weight(&self) -> usize {
        self.weight
    }

    fn run(&mut self, state: &mut S) -> bool {
        self.outcome.insert((self.work)(state)).is_ok()
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            (self.after)(&outcome);
            // A caller that has gone away needs no answer.
            let _ = self.reply.send(outcome);
        }
    }

    fn refuse(self: Box<Self>, error: StoreError) {
        let _ = self.reply.send(Err(error));
    }
}

type Group<S> = Vec<Box<dyn Request<S>>>;

/// Until closed; gives back who wants to know that it is.
fn serve<S: State>(
    mut receiver: mpsc::Receiver<Message<S>>,
    mut state: S,
    size: Size,
    mut room: Option<&mut WalRoom>,
) -> Option<oneshot::Sender<()>> {
    loop {
        let mut next = receiver.blocking_recv();
        let mut group: Group<S> = Vec::new();
        let mut weight = 0;
        let closing = loop {
            match next {
                None => break if group.is_empty() { Some(None) } else { None },
                Some(Message::Close(reply)) => break Some(Some(reply)),
                Some(Message::Work(request)) => {
                    weight += request.weight();
                    group.push(request);
                }
            }
            if group.len() >= size.group || weight >= size.weight {
                break None;
            }
            next = receiver.try_recv().ok();
        };
        if !group.is_empty() && catch_unwind(AssertUnwindSafe(|| run(&mut state, group))).is_err() {
            tracing::error!("a request to the store panicked; its group is undone and unanswered");
            roll_back(&mut state);
        }
        // After the answers: nobody waits for it.
        if let Some(room) = &mut room {
            room.keep_ahead();
        }
        if let Some(reply) = closing {
            return reply;
        }
    }
}

fn run<S: State>(state: &mut S, mut group: Group<S>) {
    match attempt(state, &mut group) {
        Fate::Committed => group.into_iter().for_each(|request| request.answer()),
        Fate::Failed(why) => group.into_iter().for_each(|request| request.refuse(why.error())),
        Fate::Spoilt => {
            for mut request in group {
                match attempt(state, std::slice::from_mut(&mut request)) {
                    Fate::Committed | Fate::Spoilt => request.answer(),
                    Fate::Failed(why) => request.refuse(why.error()),
                }
            }
        }
    }
}

enum Fate {
    Committed,
    /// A request failed halfway; everything was undone.
    Spoilt,
    /// The transaction itself failed.
    Failed(Why),
}

fn attempt<S: State>(state: &mut S, group: &mut [Box<dyn Request<S>>]) -> Fate {
    if let Err(error) = execute(state, "BEGIN IMMEDIATE") {
        return Fate::Failed(Why::of(&error));
    }
    for request in group {
        let before = state.db().total_changes();
        if !request.run(state) && (state.db().total_changes() != before || state.db().is_autocommit()) {
            roll_back(state);
            return Fate::Spoilt;
        }
    }
    match state.before_commit().and_then(|()| execute(state, "COMMIT")) {
        Ok(()) => {
            state.committed();
            Fate::Committed
        }
        Err(error) => {
            roll_back(state);
            Fate::Failed(Why::of(&error))
        }
    }
}

fn roll_back<S: State>(state: &mut S) {
    if !state.db().is_autocommit()
        && let Err(error) = execute(state, "ROLLBACK")
    {
        tracing::error!(%error, "a transaction could not be undone");
    }
    state.rolled_back();
}

fn execute<S: State>(state: &S, statement: &str) -> Result<(), StoreError> {
    state
        .db()
        .prepare_cached(statement)
        .and_then(|mut statement| statement.execute([]))
        .map(drop)
        .map_err(sqlite::sql)
}

/// Why a transaction failed, for each of its requests.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
struct Why {
    full: bool,
    text: String,
}

impl Why {
    fn of(error: &StoreError) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self {
            full: matches!(error, StoreError::Full(_)),
            text,
        }
    }

    fn error(&self) -> StoreError {
        let source = Box::new(self.clone());
        if self.full {
            StoreError::Full(source)
        } else {
            StoreError::Unavailable(source)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sqlite::sql;
    use super::*;

    const SIZE: Size = Size {
        queue: 64,
        group: 64,
        weight: 64,
    };

    async fn lane() -> (tempfile::TempDir, Lane<Connection>) {
        let place = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(place.path()).unwrap());
        let db = Connection::open(place.path().join("test.sqlite")).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER UNIQUE, bytes BLOB)")
            .unwrap();
        let lane = Lane::start("test", db, SIZE, folder, None).unwrap();
        (place, lane)
    }

    fn insert(db: &Connection, number: i64, bytes: i64) -> Result<(), StoreError> {
        db.execute(
            "INSERT INTO t VALUES (?1, zeroblob(?2))",
            rusqlite::params![number, bytes],
        )
        .map(drop)
        .map_err(sql)
    }

    async fn numbers(lane: &Lane<Connection>) -> Vec<i64> {
        let read = |db: &mut Connection| {
            let mut statement = db.prepare("SELECT n FROM t ORDER BY n").map_err(sql)?;
            let rows = statement.query_map([], |row| row.get(0)).map_err(sql)?;
            rows.collect::<Result<Vec<i64>, _>>().map_err(sql)
        };
        lane.write(1, read).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_that_fails_halfway_changes_nothing_and_spoils_no_other() {
        let (_place, lane) = lane().await;
        let requests = (0..40).map(|number| {
            let lane = lane.clone();
            async move {
                let work = move |db: &mut Connection| {
                    insert(db, number, 0)?;
                    // Every third fails after its first change.
                    if number % 3 == 0 {
                        insert(db, number, 0)
                    } else {
                        Ok(())
                    }
                };
                (number, lane.write(1, work).await)
            }
        });
        let answers = futures_util::future::join_all(requests).await;
        let mut stored = Vec::new();
        for (number, answer) in answers {
            if number % 3 == 0 {
                assert!(matches!(answer, Err(StoreError::Exists)));
            } else {
                assert!(answer.is_ok());
                stored.push(number);
            }
        }
        assert_eq!(numbers(&lane).await, stored);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_passes() {
        let (_place, lane) = lane().await;
        let limit = |pages: u32| {
            lane.write(1, move |db: &mut Connection| {
                db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                    .map_err(sql)
            })
        };
        limit(20).await.unwrap();
        let mut kept = Vec::new();
        for number in 0..1_000 {
            match lane.write(1, move |db| insert(db, number, 3_000)).await {
                Ok(()) => kept.push(number),
                Err(StoreError::Full(_)) => break,
                Err(other) => panic!("expected a full disk: {other}"),
            }
        }
        assert!(!kept.is_empty() && kept.len() < 1_000);
        assert_eq!(numbers(&lane).await, kept);
        limit(1_000).await.unwrap();
        let more = i64::try_from(kept.len()).unwrap();
        lane.write(1, move |db| insert(db, more, 3_000)).await.unwrap();
        kept.push(more);
        assert_eq!(numbers(&lane).await, kept);
    }

    #[tokio::test]
    async fn a_panic_costs_its_own_group_alone() {
        let (_place, lane) = lane().await;
        let answer: Result<(), StoreError> = lane
            .write(1, |db: &mut Connection| {
                insert(db, 1, 0)?;
                panic!("a fault of ours");
            })
            .await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))));
        lane.write(1, |db| insert(db, 2, 0)).await.unwrap();
        assert_eq!(numbers(&lane).await, [2]);
    }

    #[tokio::test]
    async fn a_closed_lane_answers_that_it_is() {
        let (_place, lane) = lane().await;
        lane.close().await;
        lane.close().await;
        let answer = lane.write(1, |db| insert(db, 1, 0)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))));
    }
}
