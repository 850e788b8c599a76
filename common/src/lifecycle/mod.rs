//! What becomes of a job. [`step()`] is pure and is the only writer of a job's state.
//!
//! Every change of a job is: load the row, `step`, commit by compare-and-set on the revision. On a changed revision
//! the writer loads again and **decides again**; a refusal counts only when the row as loaded refuses. What has to
//! hold for each operation is the safety argument of the system (`docs/ARCHITECTURE.md`, "Who may write what").

mod step;
pub mod testing;

pub use self::step::{step, step_by};

use crate::attempt::{AttemptReport, ReportHash};
use crate::ids::{AttemptId, JobId, WorkerId};
use crate::job::{CancelRequest, CancelledBy, Epoch, Job, Lease, StateName};
use crate::log::MissingLogs;

/// Something happened, or is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// The leader: its time has come, `scheduled` becomes `queued`.
    Due,
    /// The leader gives it to a worker's session.
    Claimed {
        attempt: AttemptId,
        lease: Lease,
        epoch: Epoch,
    },
    /// A gateway: the agent has started the process.
    Started { attempt: AttemptId },
    /// A gateway: the agent's report. `logs_missing` is what the store lacks of the reported chunks.
    Finished {
        attempt: AttemptId,
        report: Box<AttemptReport>,
        logs_missing: MissingLogs,
    },
    /// A gateway: the session that should run it does not know it.
    Absent { attempt: AttemptId },
    /// The leader: the attempt's session is lost, or unknown.
    Expired { attempt: AttemptId, epoch: Epoch },
    /// The leader: queued for longer than the job's own limit.
    QueueDeadlinePassed,
    /// A new leader marks what it takes over, before anything else.
    TakenOver { epoch: Epoch },
    /// Cancel was asked for.
    CancelAsked(CancelRequest),
    /// Its owner deleted it: hidden, and cancelled if it has not ended.
    Deleted { by: CancelledBy },
}

/// The job as it should be stored, and what to do after it was. Effects may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub job: Job,
    pub effects: Vec<Effect>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The job waits in the queue from now on.
    Enqueue,
    /// The job left the queue without a claim.
    Dequeue,
    /// The worker's gateway finds something new in the rows: an assignment, a cancel.
    WakeWorker(WorkerId),
    /// Capacity of a worker has become free.
    SlotFreed(WorkerId),
    /// Readers of the job see something new.
    JobChanged(JobId),
}

/// Why an event does not apply to a job as it stands. Expected in the ordinary course: a stale agent, a lost race.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the attempt is not the job's current one")]
    StaleAttempt,
    /// This very report was accepted before.
    #[error("this result was accepted before")]
    AlreadyAccepted,
    #[error("written by a later leader's term ({found:?})")]
    StaleEpoch { found: Epoch },
    #[error("cancel was asked for")]
    CancelPending,
    /// The event changes nothing: it already holds.
    #[error("it already holds")]
    Unchanged,
    #[error("the job has ended: {0}")]
    Ended(StateName),
    #[error("not while the job is {0}")]
    WrongState(StateName),
}

/// Which checks are made. All of them; a mutant of the proof or the negative control leaves one out, to show that the
/// check is what holds an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Agents are fenced by the attempt's id.
    pub check_attempt: bool,
    /// Leaders are fenced by the term.
    pub check_epoch: bool,
    /// Expire refuses a row of a later term only; the mutant demands an equal one.
    pub expire_older_terms: bool,
    /// A take-over raises the revision, so that what the old leader read is void.
    pub take_over_raises_revision: bool,
    /// A finish under a cancel ends as cancelled.
    pub finish_honours_cancel: bool,
}

/// Off in the build that is the negative control alone (`make faults`).
pub const FENCED: bool = !cfg!(feature = "without-fences");

impl Default for Rules {
    fn default() -> Self {
        Self {
            check_attempt: FENCED,
            check_epoch: FENCED,
            expire_older_terms: true,
            take_over_raises_revision: true,
            finish_honours_cancel: true,
        }
    }
}

/// Whether `report` of `attempt` was accepted before; then it is acknowledged again and changes nothing.
pub fn accepted_before(job: &Job, attempt: AttemptId, hash: &ReportHash) -> bool {
    job.attempt(attempt)
        .and_then(|attempt| attempt.end.as_ref())
        .and_then(|end| end.report_hash.as_ref())
        .is_some_and(|stored| stored == hash)
}
