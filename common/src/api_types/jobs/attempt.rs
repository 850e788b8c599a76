//! An attempt, and how it ended.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api_types::{ArtifactView, EndingView, INTEGER_MAX};
use crate::attempt::{Attempt, NotStartedReason, Outcome, Timings};
use crate::explain::Ending;
use crate::ids::{AttemptId, SessionId, WorkerId};
use crate::job::Job;
use crate::log::{LogEnd, MissingLogs, Stream};
use crate::time::Timestamp;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeView {
    /// One of exited, not_started, signaled, oom_killed, run_timeout, queue_timeout, image_unavailable,
    /// rejected_by_worker, cancelled, worker_lost, infra_error.
    pub kind: String,
    /// With `exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// With `signaled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// With `not_started`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<NotStartedReason>,
    /// A sentence, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<&Outcome> for OutcomeView {
    fn from(outcome: &Outcome) -> Self {
        let mut view = Self {
            kind: outcome.word().to_owned(),
            code: outcome.exit_code(),
            signal: None,
            reason: None,
            message: None,
        };
        match outcome {
            Outcome::NotStarted { reason, message } => {
                view.reason = Some(*reason);
                view.message = Some(message.clone());
            }
            Outcome::Signaled { signal } => view.signal = Some(*signal),
            Outcome::ImageUnavailable { message }
            | Outcome::RejectedByWorker { message }
            | Outcome::InfraError { message } => view.message = Some(message.clone()),
            Outcome::Cancelled { why, .. } => view.message = why.clone(),
            Outcome::Exited { .. }
            | Outcome::OomKilled
            | Outcome::RunTimeout
            | Outcome::QueueTimeout
            | Outcome::WorkerLost => {}
        }
        view
    }
}

/// One run of the job on one worker. What stands behind `ended_at` is there once it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    pub id: AttemptId,
    /// 1 for the first.
    #[schema(maximum = 4294967295u64)]
    pub number: u32,
    pub worker: WorkerId,
    /// For administrators: the worker's session that it was given to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    pub assigned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub outcome: Option<OutcomeView>,
    /// What happened, by whom, and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<EndingView>,
    pub usage: Option<UsageView>,
    pub timings: Option<TimingsView>,
    /// What the agent says of its output.
    #[schema(value_type = Option<Object>)]
    pub logs: Option<LogEnd>,
    /// Ranges of chunk numbers that should be stored and are not.
    #[schema(value_type = Option<Object>)]
    pub logs_missing: Option<MissingLogs>,
    /// The middle of its output was dropped past the cap of the account: head and tail are kept.
    #[serde(default)]
    pub log_truncated: bool,
    /// Some of its output should be stored and is not.
    #[serde(default)]
    pub log_incomplete: bool,
    pub artifacts: Vec<ArtifactView>,
    pub artifacts_refused: Vec<RefusedArtifactView>,
    pub image_digest: Option<String>,
}

impl AttemptView {
    /// Of an attempt of this job.
    pub fn of(job: &Job, attempt: &Attempt) -> Self {
        let end = attempt.end.as_ref();
        Self {
            id: attempt.id,
            number: attempt.number,
            worker: attempt.lease.worker.clone(),
            session: None,
            assigned_at: attempt.assigned_at,
            started_at: attempt.started_at,
            ended_at: end.map(|end| end.at),
            outcome: end.map(|end| OutcomeView::from(&end.outcome)),
            ending: Ending::of_attempt(job, attempt).map(EndingView::from),
            usage: end.map(|end| UsageView {
                cpu_ms: end.usage.cpu_ms.min(INTEGER_MAX),
                memory_peak_bytes: end.usage.memory_peak_bytes.min(INTEGER_MAX),
            }),
            timings: end.map(|end| TimingsView::from(end.timings)),
            logs: end.map(|end| end.logs),
            logs_missing: end
                .filter(|end| !end.logs_missing.is_empty())
                .map(|end| end.logs_missing.clone()),
            log_truncated: end.is_some_and(|end| {
                Stream::ALL
                    .iter()
                    .any(|stream| end.logs.of(*stream).dropped.is_some())
            }),
            log_incomplete: end.is_some_and(|end| !end.logs_missing.is_empty()),
            artifacts: end
                .map(|end| end.artifacts.iter().map(ArtifactView::from).collect())
                .unwrap_or_default(),
            artifacts_refused: end
                .map(|end| end.artifacts_refused.iter().map(Into::into).collect())
                .unwrap_or_default(),
            image_digest: end.and_then(|end| end.image_digest.clone()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    #[schema(maximum = 9007199254740991u64)]
    pub cpu_ms: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub memory_peak_bytes: u64,
}

/// Milliseconds of each step on the agent; absent where it was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimingsView {
    #[schema(maximum = 9007199254740991u64)]
    pub inputs_ms: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    pub pull_ms: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    pub create_ms: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    pub first_byte_ms: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    pub run_ms: Option<u64>,
    #[schema(maximum = 9007199254740991u64)]
    pub store_ms: Option<u64>,
}

impl From<Timings> for TimingsView {
    fn from(timings: Timings) -> Self {
        let held = |value: Option<u64>| value.map(|value| value.min(INTEGER_MAX));
        Self {
            inputs_ms: held(timings.inputs_ms),
            pull_ms: held(timings.pull_ms),
            create_ms: held(timings.create_ms),
            first_byte_ms: held(timings.first_byte_ms),
            run_ms: held(timings.run_ms),
            store_ms: held(timings.store_ms),
        }
    }
}

/// A file that matched but was not kept, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedArtifactView {
    pub path: String,
    pub reason: String,
}

impl From<&crate::attempt::RefusedArtifact> for RefusedArtifactView {
    fn from(refused: &crate::attempt::RefusedArtifact) -> Self {
        Self {
            path: refused.path.clone(),
            reason: refused.reason.clone(),
        }
    }
}
