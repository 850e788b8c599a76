//! The writer of a database: one at a time, group commit.
//!
//! While one group's commit is under way the next collects in a bounded channel, which a thread empties; a group is one
//! transaction, and each of its requests is answered after the commit. Whoever finds nobody writing commits a small
//! request where it stands ([`Lane::at_once`]), since to wake the thread and be woken by it takes as long as the commit.
//! Invariants: an answered request is durable; none overtakes one that waits; a request that fails changes nothing and
//! spoils no other (the group is undone and each request of it is made alone, which is why work is `FnMut`); a failed
//! commit is answered to the whole group. Once closed, or should the thread die, callers get [`StoreError::Unavailable`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::store::StoreError;
use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::folder::Folder;
use super::sqlite;
use super::wal_room::WalRoom;

/// A commit that took longer shows a disk that no thread of the runtime should wait for. Several times what one takes
/// whose disk answers at once.
const PROMPT: Duration = Duration::from_millis(1);

/// What is written to.
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
    /// A request of no more weight may be committed on its caller's thread.
    pub(super) at_once: usize,
}

/// The way to a writer, whose thread ends when the last of these is dropped.
pub(super) struct Lane<S> {
    to_thread: mpsc::Sender<Message<S>>,
    shared: Arc<Shared<S>>,
    at_once: usize,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            to_thread: self.to_thread.clone(),
            shared: Arc::clone(&self.shared),
            at_once: self.at_once,
        }
    }
}

struct Shared<S> {
    /// None once closed.
    writer: Mutex<Option<Writer<S>>>,
    /// Requests on their way to the thread, or with it.
    waiting: AtomicUsize,
    /// Whether the last group was committed within [`PROMPT`].
    prompt: AtomicBool,
}

impl<S> Shared<S> {
    fn writer(&self) -> MutexGuard<'_, Option<Writer<S>>> {
        // A panic of a request is caught below, and its group undone.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of [`Shared::waiting`] for as long as it lives.
struct Ticket<S>(Arc<Shared<S>>);

impl<S> Ticket<S> {
    fn of(shared: &Arc<Shared<S>>) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Message<S> {
    Work(Box<dyn Request<S>>, Ticket<S>),
    /// The log has no room left.
    Room,
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
        room: Option<WalRoom>,
    ) -> Result<Self, StoreError> {
        let (to_thread, receiver) = mpsc::channel(size.queue);
        let shared = Arc::new(Shared {
            writer: Mutex::new(Some(Writer { state, room })),
            waiting: AtomicUsize::new(0),
            prompt: AtomicBool::new(true),
        });
        let lane = Self {
            to_thread,
            shared: Arc::clone(&shared),
            at_once: size.at_once,
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let closing = serve(receiver, &shared, size);
                drop(shared.writer().take());
                drop(folder);
                if let Some(reply) = closing {
                    // Whoever closes may have gone away; the lane is closed all the same.
                    let _ = reply.send(());
                }
            })
            .map_err(sqlite::io)?;
        Ok(lane)
    }

    /// Does `work` in a transaction and answers after its commit. `work` may run twice, the first run being undone.
    pub(super) async fn write<T, F>(&self, weight: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_then(weight, work, |_| ()).await
    }

    /// As [`Lane::write`]; once the outcome stands, and before it is answered, `after` sees it, in the order of commits,
    /// also where the caller has gone away.
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
        if let Some(request) = self.at_once(Box::new(call)) {
            let ticket = Ticket::of(&self.shared);
            self.to_thread
                .send(Message::Work(request, ticket))
                .await
                .map_err(|_| StoreError::Unavailable(Box::new(Closed)))?;
        }
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(Box::new(Closed))))
    }

    /// Commits `request` on this very thread where nobody writes or waits, the disk answers promptly, and the runtime
    /// has another thread that goes on meanwhile. Gives it back otherwise.
    ///
    /// Once in some thousand commits SQLite also moves its log into the database here, which takes some 50 ms.
    fn at_once(&self, request: Box<dyn Request<S>>) -> Option<Box<dyn Request<S>>> {
        let shared = &self.shared;
        let fit = request.weight() <= self.at_once
            && shared.prompt.load(Ordering::Relaxed)
            && shared.waiting.load(Ordering::SeqCst) == 0
            && others_go_on();
        if !fit {
            return Some(request);
        }
        let Ok(mut writer) = shared.writer.try_lock() else {
            return Some(request);
        };
        let Some(open) = writer.as_mut() else {
            return Some(request);
        };
        shared.prompt.store(open.write(vec![request]), Ordering::Relaxed);
        let used_up = open.room.as_ref().is_some_and(WalRoom::is_used_up);
        drop(writer);
        if used_up {
            // Where the thread has something to do it sees to the room by itself.
            let _ = self.to_thread.try_send(Message::Room);
        }
        None
    }

    /// Waits for what is under way, then ends the thread.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.to_thread.send(Message::Close(reply)).await.is_ok() {
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

/// Whether a runtime runs us that has more threads than this one.
fn others_go_on() -> bool {
    Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
    })
}

/// Until closed; gives back who wants to know that it is.
fn serve<S: State>(
    mut receiver: mpsc::Receiver<Message<S>>,
    shared: &Shared<S>,
    size: Size,
) -> Option<oneshot::Sender<()>> {
    while let Some(first) = receiver.blocking_recv() {
        let (mut group, mut tickets): (Group<S>, Vec<Ticket<S>>) = Default::default();
        let (mut weight, mut closing) = (0, None);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Work(request, ticket) => {
                    weight += request.weight();
                    group.push(request);
                    tickets.push(ticket);
                }
                Message::Room => {}
                Message::Close(reply) => {
                    closing = Some(reply);
                    break;
                }
            }
            if group.len() >= size.group || weight >= size.weight {
                break;
            }
            next = receiver.try_recv().ok();
        }
        if let Some(writer) = shared.writer().as_mut() {
            if !group.is_empty() {
                shared.prompt.store(writer.write(group), Ordering::Relaxed);
            }
            // After the answers: nobody waits for it.
            if let Some(room) = &mut writer.room {
                room.keep_ahead();
            }
        }
        drop(tickets);
        if closing.is_some() {
            return closing;
        }
    }
    None
}

struct Writer<S> {
    state: S,
    room: Option<WalRoom>,
}

impl<S: State> Writer<S> {
    /// Commits and answers; whether it was done promptly.
    fn write(&mut self, group: Group<S>) -> bool {
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| run(&mut self.state, group))).is_err() {
            tracing::error!("a request to the store panicked; its group is undone and unanswered");
            roll_back(&mut self.state);
        }
        begun.elapsed() <= PROMPT
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
        at_once: 1,
    };

    async fn lane() -> (tempfile::TempDir, Lane<Connection>) {
        lane_with(false)
    }

    fn lane_with(room: bool) -> (tempfile::TempDir, Lane<Connection>) {
        let place = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(place.path()).unwrap());
        let path = place.path().join("test.sqlite");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER UNIQUE, bytes BLOB)")
            .unwrap();
        let room = room.then(|| WalRoom::of(&path));
        let lane = Lane::start("test", db, SIZE, folder, room).unwrap();
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

    async fn outlives_a_panic(lane: Lane<Connection>) {
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
    async fn a_panic_costs_its_own_group_alone() {
        let (_place, lane) = lane().await;
        outlives_a_panic(lane).await;
    }

    /// Threads that wrote, each as often as it did.
    async fn writers(lane: &Lane<Connection>, times: i64) -> Vec<std::thread::ThreadId> {
        let mut threads = Vec::new();
        for number in 0..times {
            let written = lane.write(1, move |db| {
                insert(db, number, 0)?;
                Ok(std::thread::current().id())
            });
            threads.push(written.await.unwrap());
        }
        threads
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_writes_alone_commits_on_its_own_thread() {
        let (place, lane) = lane().await;
        // A slow disk sends some of them to the other thread.
        let (threads, mine) = (writers(&lane, 200).await, std::thread::current().id());
        assert!(
            threads.contains(&mine),
            "none of 200 was committed where it was asked for"
        );
        // What was answered is there for another connection.
        let other = Connection::open(place.path().join("test.sqlite")).unwrap();
        let count: i64 = other
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 200);
        lane.close().await;
        let answer = lane.write(1, |db| insert(db, 201, 0)).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_thread_makes_room_for_those_who_write_by_themselves_and_stays() {
        let (place, lane) = lane_with(true);
        let log = place.path().join("test.sqlite-wal");
        // 3 kB each: past the first megabyte, whoever commits them.
        for number in 0..500 {
            lane.write(1, move |db| insert(db, number, 3_000)).await.unwrap();
        }
        // Too heavy for its caller's thread, so the lane's own answers; after the room that was asked for before.
        let heavy = SIZE.at_once + 1;
        lane.write(heavy, |db| insert(db, 500, 0)).await.unwrap();
        assert_eq!(numbers(&lane).await.len(), 501);
        assert!(std::fs::metadata(&log).unwrap().len() > 1024 * 1024);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_panic_on_the_callers_thread_costs_the_caller_alone() {
        let (_place, lane) = lane().await;
        outlives_a_panic(lane).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_who_write_at_once_are_all_answered_in_either_way() {
        let (_place, lane) = lane().await;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..16 {
            let lane = lane.clone();
            tasks.spawn(async move {
                for number in 0..50 {
                    let n = task * 50 + number;
                    lane.write(1, move |db| insert(db, n, 0)).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        assert_eq!(numbers(&lane).await, (0..800).collect::<Vec<i64>>());
        assert_eq!(lane.shared.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn without_another_thread_of_the_runtime_the_lanes_own_writes() {
        let (_place, lane) = lane().await;
        let mine = std::thread::current().id();
        assert!(!writers(&lane, 20).await.contains(&mine));
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
