//! A group of requests as one transaction: committed whole, or undone and made one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::store::StoreError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::sqlite;
use super::super::wal_room::WalRoom;
use super::State;

/// A commit that took longer shows a disk that no thread of the runtime should wait for. Several times what one takes
/// whose disk answers at once.
const PROMPT: Duration = Duration::from_millis(1);

pub(super) struct Writer<S> {
    pub(super) state: S,
    pub(super) room: Option<WalRoom>,
}

impl<S: State> Writer<S> {
    /// Commits and answers; whether it was done promptly.
    pub(super) fn write(&mut self, group: Group<S>) -> bool {
        let begun = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| run(&mut self.state, group))).is_err() {
            tracing::error!("a request to the store panicked; its group is undone and unanswered");
            roll_back(&mut self.state);
        }
        begun.elapsed() <= PROMPT
    }
}

pub(super) trait Request<S>: Send {
    fn weight(&self) -> usize;
    /// False when it failed.
    fn run(&mut self, state: &mut S) -> bool;
    /// Tells the caller the outcome of the last run.
    fn answer(self: Box<Self>);
    fn refuse(self: Box<Self>, error: StoreError);
}

pub(super) struct Call<T, F, A> {
    pub(super) weight: usize,
    pub(super) work: F,
    pub(super) after: A,
    pub(super) outcome: Option<Result<T, StoreError>>,
    pub(super) reply: oneshot::Sender<Result<T, StoreError>>,
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

pub(super) type Group<S> = Vec<Box<dyn Request<S>>>;

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
