//! A job as it stands.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AttemptView, OutcomeView, SubmitJob};
use crate::api_types::{EndingView, INTEGER_MAX, WillWaitView};
use crate::attempt::Outcome;
use crate::explain::Ending;
use crate::ids::{AccountId, JobId, UserId, WorkerId};
use crate::job::{CancelRequest, CancelledBy, Job, JobState, StateName};
use crate::time::Timestamp;

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    pub id: JobId,
    pub account: AccountId,
    pub submitted_by: UserId,
    pub name: Option<String>,
    /// One line that a person recognises.
    pub command: String,
    pub image: String,
    pub state: StateName,
    /// Why it failed, else how its last ended attempt ended.
    pub outcome: Option<OutcomeView>,
    /// Of a job that has ended: what happened, by whom, and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<EndingView>,
    /// In the answer to a submission alone: why it will wait, where that is known by then. `explain` says it at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WillWaitView>,
    /// Of the last attempt, where it ended by itself.
    pub exit_code: Option<i32>,
    pub cancel: Option<CancelView>,
    /// Where it runs or ran last.
    pub worker: Option<WorkerId>,
    pub created_at: Timestamp,
    /// While it is scheduled: when it will be queued.
    pub scheduled_for: Option<Timestamp>,
    /// While it is queued: since when.
    pub queued_at: Option<Timestamp>,
    /// Of the last attempt's process.
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// The last 16 attempts, oldest first.
    pub attempts: Vec<AttemptView>,
    #[schema(maximum = 4294967295u64)]
    pub attempts_total: u32,
    #[schema(maximum = 4294967295u64)]
    pub user_retries: u32,
    #[schema(maximum = 4294967295u64)]
    pub infra_retries: u32,
    /// For administrators: counts the changes of the row, each one more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9007199254740991u64)]
    pub revision: Option<u64>,
    /// For administrators: the term of the leader that wrote the row last; never falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9007199254740991u64)]
    pub epoch: Option<u64>,
    /// The request, with defaults filled in.
    pub spec: SubmitJob,
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let last = job.last_attempt();
        let last_end = last.and_then(|attempt| attempt.end.as_ref());
        let outcome = match &job.state {
            JobState::Failed { cause, .. } => Some(&cause.outcome),
            JobState::Scheduled { .. }
            | JobState::Queued { .. }
            | JobState::Assigned { .. }
            | JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Cancelled { .. } => last_end.map(|end| &end.outcome),
        };
        Self {
            id: job.id,
            account: job.account.clone(),
            submitted_by: job.submitted_by.clone(),
            name: job.spec.name.clone(),
            command: job.spec.command.summary(),
            image: job.spec.image.clone(),
            state: job.state.name(),
            outcome: outcome.map(OutcomeView::from),
            ending: Ending::of_job(job).map(EndingView::from),
            waiting: None,
            exit_code: outcome.and_then(Outcome::exit_code),
            cancel: job.cancel.as_ref().map(CancelView::from),
            worker: last.map(|attempt| attempt.lease.worker.clone()),
            created_at: job.created_at,
            scheduled_for: match job.state {
                JobState::Scheduled { at } => Some(at),
                _ => None,
            },
            queued_at: match job.state {
                JobState::Queued { since } => Some(since),
                _ => None,
            },
            started_at: last.and_then(|attempt| attempt.started_at),
            ended_at: job.state.ended_at(),
            attempts: job
                .attempts
                .iter()
                .map(|attempt| AttemptView::of(job, attempt))
                .collect(),
            attempts_total: job.attempts_total,
            user_retries: job.user_retries,
            infra_retries: job.infra_retries,
            revision: None,
            epoch: None,
            spec: SubmitJob::from(&*job.spec),
        }
    }
}

impl JobView {
    /// With what is nobody's business but an administrator's: who wrote the row, and to whom its attempts were given.
    pub fn for_administrator(job: &Job) -> Self {
        let mut view = Self {
            revision: Some(job.revision.0.min(INTEGER_MAX)),
            epoch: Some(job.epoch.0.min(INTEGER_MAX)),
            ..Self::from(job)
        };
        for (shown, attempt) in view.attempts.iter_mut().zip(&job.attempts) {
            shown.session = Some(attempt.lease.session);
        }
        view
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelView {
    /// The user, or `system`.
    pub by: String,
    pub why: Option<String>,
    pub at: Timestamp,
}

impl From<&CancelRequest> for CancelView {
    fn from(request: &CancelRequest) -> Self {
        Self {
            by: by_word(&request.by),
            why: request.why.clone(),
            at: request.at,
        }
    }
}

fn by_word(by: &CancelledBy) -> String {
    match by {
        CancelledBy::User(user) => user.to_string(),
        CancelledBy::System => "system".to_owned(),
    }
}
