//! What a user asked for ([`JobSpec`]) and all that is known of it ([`Job`], the aggregate).
//!
//! A [`Job`] is one row and is changed by compare-and-set on its [`Revision`] alone; its state is written by
//! [`crate::lifecycle::step`] and by nothing else.

mod spec;
mod state;
mod validate;

use serde::{Deserialize, Serialize};
use std::sync::Arc;

pub use self::spec::{Command, InputFile, JobSpec, Limits, Priority, Resources, millis, millis_option};
pub use self::state::{CancelRequest, CancelledBy, FailureCause, JobState, Lease, StateName};
pub use self::validate::{FieldError, validate, validate_path};

use crate::attempt::Attempt;
use crate::ids::{AccountId, AttemptId, JobId, UserId};
use crate::retry::SUSPECT_FROM;
use crate::time::Timestamp;

/// How many attempts a job keeps whole; older ones are only counted, so that a row cannot grow without end.
pub const ATTEMPTS_KEPT: usize = 16;

/// Largest encoded specification, in bytes; larger inputs are files.
pub const SPEC_BYTES_MAX: usize = 48 * 1024;

/// The leader's term number. It fences leaders, and stands in no agent's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Counts the changes of one row; makes check and write one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A job and everything that was decided about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub account: AccountId,
    pub submitted_by: UserId,
    pub spec: Arc<JobSpec>,
    pub created_at: Timestamp,
    pub state: JobState,
    /// The last [`ATTEMPTS_KEPT`] attempts, oldest first; the current one, if any, is the last.
    pub attempts: Vec<Attempt>,
    /// How many attempts were ever begun.
    pub attempts_total: u32,
    /// Retries that the user's policy paid for.
    pub user_retries: u32,
    /// Retries after failures of the infrastructure, counted apart.
    pub infra_retries: u32,
    /// Cancel is a flag, not a state: the attempt's agent has yet to confirm it.
    pub cancel: Option<CancelRequest>,
    /// The term of the leader that wrote here last.
    pub epoch: Epoch,
    pub revision: Revision,
    /// Deleted for its owner, kept for the record.
    pub hidden: bool,
}

impl Job {
    /// A job as it stands right after submission.
    pub fn submitted(
        id: JobId,
        account: AccountId,
        submitted_by: UserId,
        spec: JobSpec,
        now: Timestamp,
    ) -> Self {
        let state = match spec.not_before {
            Some(at) if at > now => JobState::Scheduled { at },
            Some(_) | None => JobState::Queued { since: now },
        };
        Self {
            id,
            account,
            submitted_by,
            spec: Arc::new(spec),
            created_at: now,
            state,
            attempts: Vec::new(),
            attempts_total: 0,
            user_retries: 0,
            infra_retries: 0,
            cancel: None,
            epoch: Epoch::default(),
            revision: Revision(1),
            hidden: false,
        }
    }

    /// Whether attempts of it were lost, or failed by the infrastructure's doing, so often that it may itself be the
    /// cause. Two suspects are never given to one worker at a time: a job that has nothing wrong then shares the
    /// fate of one that ends its workers no oftener than it can bear.
    pub const fn is_suspect(&self) -> bool {
        self.infra_retries >= SUSPECT_FROM
    }

    /// The attempt that may still report: the one of an `assigned` or `running` job.
    pub fn current_attempt(&self) -> Option<&Attempt> {
        self.state.attempt().and_then(|id| self.attempt(id))
    }

    pub fn attempt(&self, id: AttemptId) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|attempt| attempt.id == id)
    }

    /// The attempt whose logs and files a reader means who names none.
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.attempts.last()
    }

    /// When a queued job gives up waiting, if it does.
    pub fn queue_deadline(&self) -> Option<Timestamp> {
        match (&self.state, self.spec.limits.queue) {
            (JobState::Queued { since }, Some(limit)) => Some(since.after(limit)),
            _ => None,
        }
    }
}
