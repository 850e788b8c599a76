//! One run of a job on one worker, and how it ended.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{AttemptId, FileId};
use crate::job::{CancelledBy, Lease};
use crate::log::{LogEnd, MissingLogs};
use crate::time::Timestamp;

/// Longest explanation that an agent may send, in characters; longer ones are cut.
pub const MESSAGE_LEN_MAX: usize = 2_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub id: AttemptId,
    /// 1 for the first.
    pub number: u32,
    pub lease: Lease,
    pub assigned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub end: Option<AttemptEnd>,
}

/// The accepted end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    pub at: Timestamp,
    pub outcome: Outcome,
    /// Of the report as the agent sent it: the same report again is accepted again. None where the control plane
    /// ended the attempt.
    pub report_hash: Option<ReportHash>,
    pub usage: Usage,
    pub timings: Timings,
    pub logs: LogEnd,
    /// What of the logs is known to be missing; empty for a whole log.
    #[serde(default)]
    pub logs_missing: MissingLogs,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    #[serde(default)]
    pub artifacts_refused: Vec<RefusedArtifact>,
    #[serde(default)]
    pub image_digest: Option<String>,
}

impl AttemptEnd {
    /// An end that nobody reported: the outcome, and nothing else is known.
    pub fn unreported(at: Timestamp, outcome: Outcome) -> Self {
        Self {
            at,
            outcome,
            report_hash: None,
            usage: Usage::default(),
            timings: Timings::default(),
            logs: LogEnd::default(),
            logs_missing: MissingLogs::default(),
            artifacts: Vec::new(),
            artifacts_refused: Vec::new(),
            image_digest: None,
        }
    }
}

/// What an agent says of an attempt that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    pub outcome: Outcome,
    #[serde(default)]
    pub usage: Usage,
    #[serde(default)]
    pub timings: Timings,
    #[serde(default)]
    pub logs: LogEnd,
    #[serde(default)]
    pub artifacts: Vec<Artifact>,
    #[serde(default)]
    pub artifacts_refused: Vec<RefusedArtifact>,
    #[serde(default)]
    pub image_digest: Option<String>,
}

impl AttemptReport {
    /// A report that carries an outcome and nothing else.
    pub fn bare(outcome: Outcome) -> Self {
        Self {
            outcome,
            usage: Usage::default(),
            timings: Timings::default(),
            logs: LogEnd::default(),
            artifacts: Vec::new(),
            artifacts_refused: Vec::new(),
            image_digest: None,
        }
    }

    /// Tells whether two reports are the same one sent twice.
    pub fn hash(&self) -> ReportHash {
        let text = serde_json::to_vec(self).expect("a report is plain data");
        ReportHash(data_encoding::HEXLOWER.encode(&Sha256::digest(text)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReportHash(String);

/// How an attempt ended: a closed list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Outcome {
    Exited {
        code: i32,
    },
    /// The command never ran, and would not run elsewhere either.
    NotStarted {
        reason: NotStartedReason,
        message: String,
    },
    /// Ended by a signal of its own or its children's making.
    Signaled {
        signal: i32,
    },
    OomKilled,
    RunTimeout,
    QueueTimeout,
    ImageUnavailable {
        message: String,
    },
    /// The node's owner or its condition said no.
    RejectedByWorker {
        message: String,
    },
    Cancelled {
        by: CancelledBy,
        why: Option<String>,
    },
    /// The session ended, or the container ended itself because its lease was not renewed.
    WorkerLost,
    InfraError {
        message: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotStartedReason {
    NoSuchCommand,
    NotExecutable,
    WrongArchitecture,
    BadWorkingDirectory,
    BadInputs,
    Other,
}

/// Outcomes as the retry policy sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    Success,
    NonzeroExit,
    NotStarted,
    Signal,
    OutOfMemory,
    Timeout,
    /// Never retried: nobody waits for it any more.
    QueueTimeout,
    Cancelled,
    /// Counted apart from the user's retries.
    Infrastructure,
}

impl Outcome {
    pub const fn class(&self) -> OutcomeClass {
        match self {
            Self::Exited { code: 0 } => OutcomeClass::Success,
            Self::Exited { .. } => OutcomeClass::NonzeroExit,
            Self::NotStarted { .. } => OutcomeClass::NotStarted,
            Self::Signaled { .. } => OutcomeClass::Signal,
            Self::OomKilled => OutcomeClass::OutOfMemory,
            Self::RunTimeout => OutcomeClass::Timeout,
            Self::QueueTimeout => OutcomeClass::QueueTimeout,
            Self::Cancelled { .. } => OutcomeClass::Cancelled,
            Self::ImageUnavailable { .. }
            | Self::RejectedByWorker { .. }
            | Self::WorkerLost
            | Self::InfraError { .. } => OutcomeClass::Infrastructure,
        }
    }

    /// The stable word for pages, filters and metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::NotStarted { .. } => "not_started",
            Self::Signaled { .. } => "signaled",
            Self::OomKilled => "oom_killed",
            Self::RunTimeout => "run_timeout",
            Self::QueueTimeout => "queue_timeout",
            Self::ImageUnavailable { .. } => "image_unavailable",
            Self::RejectedByWorker { .. } => "rejected_by_worker",
            Self::Cancelled { .. } => "cancelled",
            Self::WorkerLost => "worker_lost",
            Self::InfraError { .. } => "infra_error",
        }
    }

    pub const fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code } => Some(*code),
            Self::NotStarted { .. }
            | Self::Signaled { .. }
            | Self::OomKilled
            | Self::RunTimeout
            | Self::QueueTimeout
            | Self::ImageUnavailable { .. }
            | Self::RejectedByWorker { .. }
            | Self::Cancelled { .. }
            | Self::WorkerLost
            | Self::InfraError { .. } => None,
        }
    }
}

/// What the attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time of all its processes.
    pub cpu_ms: u64,
    pub memory_peak_bytes: u64,
}

/// How long each step took on the agent, in milliseconds; absent where the step was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    pub inputs_ms: Option<u64>,
    pub pull_ms: Option<u64>,
    /// Creation and start of the container; near zero for a prepared one.
    pub create_ms: Option<u64>,
    /// From the start of the process to its first byte of output.
    pub first_byte_ms: Option<u64>,
    pub run_ms: Option<u64>,
    /// Collecting and storing logs and artifacts after the end.
    pub store_ms: Option<u64>,
}

/// A file that the job left and its globs named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Below `/workspace`.
    pub path: String,
    pub file: FileId,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedArtifact {
    pub path: String,
    pub reason: String,
}
