//! The seam between the agent and what runs containers.
//!
//! The agent decides *what* and *until when*; an [`Executor`] knows *how*. One run goes
//! `prepare → (the agent journals the container) → Prepared::run → Running::next … Ended → collect → finish`.
//! The split before `run` is what lets the agent write container and attempt to its journal, synced, before anything
//! of the job can run.
//!
//! Laws that every implementation keeps:
//! - A dropped [`Prepared`] or [`Running`] leaves its container as it is: it is adopted or removed later. Only
//!   [`Prepared::destroy`], [`Running::finish`], [`Executor::remove`] and a [`Prepared::run`] that fails end and remove.
//!   What cannot be removed at once is asked for until it is gone.
//! - No two containers of one agent that are there have one host user.
//! - [`Running::next`] may be dropped at any await point and loses nothing.
//! - Chunks come in order of `seq`, without gaps and without repeats within one [`Running`]; after [`Executor::adopt`]
//!   they go on after `spooled_seq`.
//! - What was not acknowledged is kept by the container's init within its ring, so an executor holds no more than a
//!   few chunks itself.
//! - Exactly one [`ExecEvent::Ended`] comes, last; losing the attach stream is mended inside (attach again, resume)
//!   for as long as the container lives.
//! - Names and errors never carry values of the job's environment.

pub mod docker;
pub mod fake;
pub mod simulated;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use common::attempt::{NotStartedReason, RefusedArtifact, Usage};
use common::ids::AttemptId;
use common::job::InputFile;
use common::log::Stream;
use common::protocol::Assignment;
use common::time::{Mono, Timestamp};
use common::worker::Condition;
use serde::{Deserialize, Serialize};

/// What runs containers for the agent.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Facts for the worker's description; asked for at each start of the agent.
    async fn describe(&self) -> Description;

    /// Whether it can start jobs now. Asked for every few heartbeats, so it answers within a second or so.
    async fn condition(&self) -> Condition;

    /// Whether the attempt's `prepare` waits for an image that is being fetched. An executor without images never does.
    fn is_pulling(&self, _attempt: AttemptId) -> bool {
        false
    }

    /// Everything up to, and without, the start of the job: the node's policy, image, workspace with its inputs,
    /// container started with init attached and waiting.
    ///
    /// # Errors
    /// [`StartFailure`]; nothing of the attempt is left behind then.
    async fn prepare(&self, request: PrepareRequest) -> Result<Box<dyn Prepared>, StartFailure>;

    /// Takes over a container of an earlier life of this agent. A container that has ended meanwhile is adopted too
    /// where its ending can still be told: its first event may be [`ExecEvent::Ended`].
    ///
    /// # Errors
    /// [`AdoptFailure`].
    async fn adopt(&self, request: AdoptRequest) -> Result<Box<dyn Running>, AdoptFailure>;

    /// Every container, running or not, that this agent (by its node's mark) ever made and that is still there,
    /// prepared spare ones of this process left out.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn owned(&self) -> Result<Vec<OwnedContainer>, ExecutorError>;

    /// Kills and removes a container of ours with its workspace and anonymous volumes. One that is gone is no error.
    ///
    /// # Errors
    /// It is not removed yet: the engine refuses, and is asked again by itself; or it does not answer.
    async fn remove(&self, container: &ContainerRef) -> Result<(), ExecutorError>;
}

/// A container that waits for its `run`.
#[async_trait]
pub trait Prepared: Send {
    fn container(&self) -> &ContainerRef;

    fn facts(&self) -> PreparedFacts;

    /// Starts the job; it ends itself when the host's boot clock passes `deadline`.
    ///
    /// # Errors
    /// When init cannot be told. The container is removed then, before the answer unless the engine refuses.
    async fn run(self: Box<Self>, deadline: Mono) -> Result<Box<dyn Running>, StartFailure>;

    /// Ends and removes it, unused.
    async fn destroy(self: Box<Self>);
}

/// A job in its container.
#[async_trait]
pub trait Running: Send {
    fn container(&self) -> &ContainerRef;

    /// The next thing that happened; cancel-safe. After [`ExecEvent::Ended`] it is not called again.
    async fn next(&mut self) -> ExecEvent;

    /// Everything up to and including `seq` is in the agent's spool or dropped past the cap. Queued and merged when
    /// the container cannot be reached.
    async fn ack(&mut self, seq: u64);

    /// The new end of the lease, on the host's boot clock. Also renews what was set while the engine was away.
    async fn set_deadline(&mut self, deadline: Mono);

    /// Asks init to end the job: its stop signal, its grace, then the kill. A repeat is harmless; the first reason
    /// stands. The ending comes by [`Running::next`], by force from outside if init does not answer in time.
    async fn stop(&mut self, why: StopWhy);

    /// After the ending: what the job left below `/workspace` that matches. Callable once.
    ///
    /// # Errors
    /// When the workspace cannot be read at all; single files are refused one by one.
    async fn collect(&mut self, globs: &[String]) -> Result<Collected, ExecutorError>;

    /// Tells init that it may go and removes container and workspace, whatever state they are in. Called after the
    /// end's report was journaled, or to give up.
    async fn finish(self: Box<Self>);
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    pub os: String,
    pub architecture: String,
    /// Facts such as `no_disk_quota`, `runc 1.1.5`.
    pub notes: Vec<String>,
}

/// What an executor calls a container, good across restarts of the agent (the engine's id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerRef(pub String);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedContainer {
    pub container: ContainerRef,
    pub created_at: Timestamp,
    /// Made since this agent started: an attempt may be about to note it.
    pub of_this_life: bool,
}

#[derive(Debug, Clone)]
pub struct PrepareRequest {
    pub assignment: Arc<Assignment>,
    /// In order of `spec.inputs`, fetched and checked.
    pub inputs: Vec<LocalInput>,
}

/// An input on the agent's disk. The executor copies or unpacks it; the agent deletes it after `prepare` has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalInput {
    pub wanted: InputFile,
    pub local: PathBuf,
}

#[derive(Debug, Clone)]
pub struct AdoptRequest {
    pub container: ContainerRef,
    pub assignment: Arc<Assignment>,
    /// The last `seq` in the spool; 0 for none.
    pub spooled_seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PreparedFacts {
    pub image_digest: Option<String>,
    pub pull_ms: Option<u64>,
    pub create_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// The job's process runs. May come again after attaching anew.
    Started,
    Chunk(Chunk),
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Over both streams, from 1; what [`Running::ack`] names.
    pub seq: u64,
    pub stream: Stream,
    /// From 0 within the stream; the log's `seq`.
    pub stream_seq: u64,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Of the frame that told it; none where the container ended without one.
    pub seq: Option<u64>,
    pub end: End,
    pub usage: Usage,
    /// From the start of the process to its end.
    pub run_ms: Option<u64>,
}

/// How a run ended, as seen from outside the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The main process ended.
    Process { status: Status, by: EndedBy, oom: bool },
    /// `exec` failed, or the run was stopped before it.
    NotStarted {
        reason: NotStartedReason,
        message: String,
    },
    /// `stop` or the deadline came before the process was started.
    StoppedBefore { by: EndedBy },
    /// The container ended, or is gone, without word of the job's ending.
    Silent {
        /// The engine or the host restarted meanwhile, so it is not the job's doing.
        engine_restarted: bool,
        /// The engine saw the kernel end it for memory.
        oom: bool,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Code(i32),
    Signal(i32),
}

/// Who made it end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    Itself,
    Stop(StopWhy),
    /// The lease was not renewed in time.
    Deadline,
    /// The engine asked for it while nobody of ours had.
    Engine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopWhy {
    Cancelled,
    RunTimeout,
    LeaseLost,
    Drain,
}

/// Files that the job left.
#[derive(Debug, Default)]
pub struct Collected {
    pub files: Vec<CollectedFile>,
    pub refused: Vec<RefusedArtifact>,
}

/// A regular file that nothing of the job can change any more, readable until [`Running::finish`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedFile {
    /// Below `/workspace`.
    pub path: String,
    pub local: PathBuf,
    pub bytes: u64,
}

/// Why a run was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    #[error("the image cannot be had: {message}")]
    ImageUnavailable { message: String },
    /// The node's owner or its condition said no.
    #[error("this worker does not take it: {message}")]
    Rejected { message: String },
    /// It would not run elsewhere either.
    #[error("it cannot be started: {message}")]
    NotStarted {
        reason: NotStartedReason,
        message: String,
    },
    #[error("{message}")]
    Infra { message: String },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptFailure {
    /// There is no such container any more and nothing of it can be told.
    #[error("the container of {attempt} is gone")]
    Gone { attempt: AttemptId },
    /// The engine does not answer; worth another try.
    #[error("the engine does not answer: {message}")]
    Unavailable { message: String },
}

/// The engine does not answer, or refuses.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExecutorError {
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ExecutorError {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
        }
    }
}
