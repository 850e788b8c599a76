//! Where a job stands. A variant holds exactly the data that is legal in it.

use serde::{Deserialize, Serialize};

use crate::attempt::Outcome;
use crate::ids::{AttemptId, SessionId, UserId, WorkerId};
use crate::time::Timestamp;

/// A worker session's time-limited right to an attempt. It has no end of its own: it lives as long as the session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    pub worker: WorkerId,
    pub session: SessionId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum JobState {
    /// Not before `at`: a start time asked for, or the pause before a retry.
    Scheduled {
        at: Timestamp,
    },
    Queued {
        since: Timestamp,
    },
    /// Given to a worker that has not yet said that it runs.
    Assigned {
        attempt: AttemptId,
        lease: Lease,
        since: Timestamp,
    },
    Running {
        attempt: AttemptId,
        lease: Lease,
        since: Timestamp,
    },
    Succeeded {
        at: Timestamp,
    },
    Failed {
        at: Timestamp,
        cause: FailureCause,
    },
    Cancelled {
        at: Timestamp,
        by: CancelledBy,
    },
}

/// The state without its data, for filters, indexes and pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Scheduled,
    Queued,
    Assigned,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl StateName {
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Queued,
        Self::Assigned,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Assigned => "assigned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
            Self::Scheduled | Self::Queued | Self::Assigned | Self::Running => false,
        }
    }
}

impl std::fmt::Display for StateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for StateName {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|name| name.as_str() == text)
            .ok_or(UnknownState)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of scheduled, queued, assigned, running, succeeded, failed, cancelled")]
pub struct UnknownState;

impl JobState {
    pub const fn name(&self) -> StateName {
        match self {
            Self::Scheduled { .. } => StateName::Scheduled,
            Self::Queued { .. } => StateName::Queued,
            Self::Assigned { .. } => StateName::Assigned,
            Self::Running { .. } => StateName::Running,
            Self::Succeeded { .. } => StateName::Succeeded,
            Self::Failed { .. } => StateName::Failed,
            Self::Cancelled { .. } => StateName::Cancelled,
        }
    }

    pub const fn is_terminal(&self) -> bool {
        self.name().is_terminal()
    }

    /// The attempt that holds the job, with its lease.
    pub const fn held(&self) -> Option<(AttemptId, &Lease)> {
        match self {
            Self::Assigned { attempt, lease, .. } | Self::Running { attempt, lease, .. } => {
                Some((*attempt, lease))
            }
            Self::Scheduled { .. }
            | Self::Queued { .. }
            | Self::Succeeded { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. } => None,
        }
    }

    pub fn attempt(&self) -> Option<AttemptId> {
        self.held().map(|(attempt, _)| attempt)
    }

    pub fn lease(&self) -> Option<&Lease> {
        self.held().map(|(_, lease)| lease)
    }

    /// When a job ended.
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match self {
            Self::Succeeded { at } | Self::Failed { at, .. } | Self::Cancelled { at, .. } => Some(*at),
            Self::Scheduled { .. } | Self::Queued { .. } | Self::Assigned { .. } | Self::Running { .. } => {
                None
            }
        }
    }
}

/// Why a job failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCause {
    /// How its last attempt ended; `queue_timeout` where there was none.
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelledBy {
    User(UserId),
    /// The installation itself, such as a deleted account.
    System,
}

/// Cancel was asked for; the first request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    pub by: CancelledBy,
    pub why: Option<String>,
    pub at: Timestamp,
}
