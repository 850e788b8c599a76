//! The home of workers, their sessions, and the leader's term.

use async_trait::async_trait;

use super::StoreError;
use crate::ids::{SessionId, WorkerId};
use crate::job::Epoch;
use crate::time::Timestamp;
use crate::worker::{Condition, Load, Session, Worker};

/// Persistent home of workers and sessions. A session is a row of its own; renewing is `beat + 1`, never a time.
///
/// A worker's row has two halves with a writer each: the wish (`draining`), which only [`Self::set_draining`] writes,
/// and the agent's words, which only [`Self::put`] and [`Self::refresh`] write. So neither can undo the other.
#[async_trait]
pub trait WorkerStore: Send + Sync {
    /// Stores what a hello says. Of a row that exists `draining`, `registered_at` and `load` stay as they are.
    ///
    /// False, and nothing is written, when an older connection speaks: the row's session is neither `replaces` (what
    /// was read before the new session began) nor the new one, or is the new one with a higher `conn`.
    async fn put(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, StoreError>;

    /// Stores what a heartbeat says. False, and nothing is written, when the row is not of this session and connection
    /// any more.
    async fn refresh(&self, id: &WorkerId, words: &AgentWords) -> Result<bool, StoreError>;

    /// Stores an administrator's wish, and gives the row as it is now; none for an unknown worker.
    async fn set_draining(&self, id: &WorkerId, draining: bool) -> Result<Option<Worker>, StoreError>;

    async fn get(&self, id: &WorkerId) -> Result<Option<Worker>, StoreError>;
    async fn list(&self) -> Result<Vec<Worker>, StoreError>;

    /// A new session of `worker`, with `beat` and `conn` 1.
    async fn open_session(
        &self,
        id: SessionId,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Session, StoreError>;

    /// The same session through another connection: `conn + 1` and `beat + 1`, unless it is lost, unknown or another
    /// worker's (none).
    async fn resume_session(&self, id: SessionId, worker: &WorkerId) -> Result<Option<Session>, StoreError>;

    /// Renews sessions: `beat + 1` where the session is not lost and `conn` is still this connection's. Answers in the
    /// order of `beats`.
    async fn beat(&self, beats: &[Beat]) -> Result<Vec<BeatAnswer>, StoreError>;

    /// Declares a session lost if its beat is still the one seen; false when it was heard again, or is unknown.
    async fn declare_lost(&self, id: SessionId, beat: u64) -> Result<bool, StoreError>;

    /// Every session that is not lost.
    async fn live_sessions(&self) -> Result<Vec<Session>, StoreError>;

    /// Those of `ids` that exist.
    async fn sessions(&self, ids: &[SessionId]) -> Result<Vec<Session>, StoreError>;
}

/// What a heartbeat says of its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentWords {
    pub session: SessionId,
    pub conn: u64,
    pub heard_at: Timestamp,
    /// What is new of its state; most heartbeats only say that the worker lives.
    pub state: Option<(Condition, Load)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub session: SessionId,
    pub conn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeatAnswer {
    Renewed,
    /// Lost or unknown: the agent stops all and begins anew.
    Lost,
    /// A newer connection speaks for the session: this one closes.
    Superseded,
}

/// The leader's term, kept with the rows and never with the lock, so that a wiped lock cannot turn it back.
#[async_trait]
pub trait LeaderTerms: Send + Sync {
    /// Begins the next term.
    async fn begin(&self) -> Result<Epoch, StoreError>;
    /// The term begun last; 0 before the first.
    async fn current(&self) -> Result<Epoch, StoreError>;
}
