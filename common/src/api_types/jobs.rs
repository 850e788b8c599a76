//! Jobs as they are asked for ([`SubmitJob`]) and as they stand ([`JobView`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ArtifactView, INTEGER_MAX};
use crate::attempt::{Attempt, NotStartedReason, Outcome, OutcomeClass, Timings};
use crate::ids::{AccountId, AttemptId, FileId, JobId, PoolName, UserId, WorkerId};
use crate::job::{
    CancelRequest, CancelledBy, Command, InputFile, Job, JobSpec, JobState, Limits, Priority, Resources,
    StateName,
};
use crate::log::{LogEnd, MissingLogs, Stream};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// A job to run. Only `command` is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitJob {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    #[schema(value_type = Command)]
    pub command: CommandBody,
    /// Replaces the image's entry point; an empty list removes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Without: the installation's default image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub image: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Absolute. Without: the image's, else `/workspace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub inputs: Vec<InputBody>,
    /// Patterns below `/workspace`; files that match are kept, also after a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub artifacts: Vec<String>,
    #[serde(default)]
    pub resources: ResourcesBody,
    #[serde(default)]
    pub limits: LimitsBody,
    #[serde(default)]
    pub retry: RetryBody,
    /// Without: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolName>,
    /// Labels that the worker must carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub worker_labels: BTreeMap<String, String>,
    /// Order among the account's own jobs, higher first.
    #[serde(default)]
    #[schema(minimum = -10, maximum = 10)]
    pub priority: i8,
    /// Does not start before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A line for `/bin/sh -c`, or arguments as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum CommandBody {
    Shell(String),
    Argv(Vec<String>),
}

/// A file of the account, placed below `/workspace` before the job starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputBody {
    pub file: FileId,
    /// Relative to `/workspace`; for an archive the folder that it is unpacked into.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub path: String,
    /// Unpack a zip or tar.gz instead of placing the file itself.
    #[serde(default)]
    pub unpack: bool,
}

/// What is absent is the installation's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourcesBody {
    /// Thousandths of a CPU. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 1024000)]
    pub cpu_millis: Option<u32>,
    /// Default 256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16, maximum = 16777216)]
    pub memory_mib: Option<u32>,
    /// Size of `/workspace`. Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 8, maximum = 16777216)]
    pub disk_mib: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    /// Longest wait in the queue. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000000u64)]
    pub queue_ms: Option<u64>,
    /// Longest run of one attempt. Default one hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2592000000u64)]
    pub run_ms: Option<u64>,
    /// From the stop signal to the kill. Default 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 600000)]
    pub grace_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBody {
    /// 3 makes at most 4 attempts. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 100)]
    pub max_retries: Option<u32>,
    /// Default: nonzero_exit, signal, out_of_memory, timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<OutcomeClass>>,
    /// The first pause, doubled for each further one. Default 1 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400000)]
    pub backoff_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 86400000)]
    pub backoff_max_ms: Option<u64>,
}

impl SubmitJob {
    /// A job that asks for nothing but its command.
    pub fn of(command: CommandBody) -> Self {
        Self {
            name: None,
            command,
            entrypoint: None,
            image: None,
            env: BTreeMap::new(),
            workdir: None,
            inputs: Vec::new(),
            artifacts: Vec::new(),
            resources: ResourcesBody::default(),
            limits: LimitsBody::default(),
            retry: RetryBody::default(),
            pool: None,
            worker_labels: BTreeMap::new(),
            priority: 0,
            not_before: None,
            labels: BTreeMap::new(),
        }
    }

    /// The specification, with the installation's defaults for what was left out. Not yet checked.
    pub fn into_spec(self, default_image: &str) -> JobSpec {
        let (resources, limits, retry) = (Resources::default(), Limits::default(), RetryPolicy::default());
        JobSpec {
            name: self.name,
            command: match self.command {
                CommandBody::Shell(line) => Command::Shell(line),
                CommandBody::Argv(argv) => Command::Argv(argv),
            },
            entrypoint: self.entrypoint,
            image: self.image.unwrap_or_else(|| default_image.to_owned()),
            env: self.env,
            workdir: self.workdir,
            inputs: self
                .inputs
                .into_iter()
                .map(|input| InputFile {
                    file: input.file,
                    path: input.path,
                    unpack: input.unpack,
                })
                .collect(),
            artifacts: self.artifacts,
            resources: Resources {
                cpu_millis: self.resources.cpu_millis.unwrap_or(resources.cpu_millis),
                memory_mib: self.resources.memory_mib.unwrap_or(resources.memory_mib),
                disk_mib: self.resources.disk_mib.unwrap_or(resources.disk_mib),
            },
            limits: Limits {
                queue: self.limits.queue_ms.map(Duration::from_millis),
                run: self.limits.run_ms.map_or(limits.run, Duration::from_millis),
                grace: self.limits.grace_ms.map_or(limits.grace, Duration::from_millis),
            },
            retry: RetryPolicy {
                max_retries: self.retry.max_retries.unwrap_or(retry.max_retries),
                on: self.retry.on.unwrap_or(retry.on),
                backoff: self.retry.backoff_ms.map_or(retry.backoff, Duration::from_millis),
                backoff_max: self
                    .retry
                    .backoff_max_ms
                    .map_or(retry.backoff_max, Duration::from_millis),
            },
            pool: self.pool.unwrap_or_default(),
            worker_labels: self.worker_labels,
            priority: Priority(self.priority),
            not_before: self.not_before,
            labels: self.labels,
        }
    }
}

impl From<&JobSpec> for SubmitJob {
    fn from(spec: &JobSpec) -> Self {
        Self {
            name: spec.name.clone(),
            command: match &spec.command {
                Command::Shell(line) => CommandBody::Shell(line.clone()),
                Command::Argv(argv) => CommandBody::Argv(argv.clone()),
            },
            entrypoint: spec.entrypoint.clone(),
            image: Some(spec.image.clone()),
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
            inputs: spec
                .inputs
                .iter()
                .map(|input| InputBody {
                    file: input.file,
                    path: input.path.clone(),
                    unpack: input.unpack,
                })
                .collect(),
            artifacts: spec.artifacts.clone(),
            resources: ResourcesBody {
                cpu_millis: Some(spec.resources.cpu_millis),
                memory_mib: Some(spec.resources.memory_mib),
                disk_mib: Some(spec.resources.disk_mib),
            },
            limits: LimitsBody {
                queue_ms: spec.limits.queue.map(whole_millis),
                run_ms: Some(whole_millis(spec.limits.run)),
                grace_ms: Some(whole_millis(spec.limits.grace)),
            },
            retry: RetryBody {
                max_retries: Some(spec.retry.max_retries),
                on: Some(spec.retry.on.clone()),
                backoff_ms: Some(whole_millis(spec.retry.backoff)),
                backoff_max_ms: Some(whole_millis(spec.retry.backoff_max)),
            },
            pool: Some(spec.pool.clone()),
            worker_labels: spec.worker_labels.clone(),
            priority: spec.priority.0,
            not_before: spec.not_before,
            labels: spec.labels.clone(),
        }
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(INTEGER_MAX)
        .min(INTEGER_MAX)
}

/// Up to 1,000 jobs; all are stored, or none where any breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitBulk {
    #[schema(min_items = 1, max_items = 1000)]
    pub jobs: Vec<SubmitJob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkAnswer {
    /// In the order of the request.
    pub ids: Vec<JobId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequestBody {
    /// For people; at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub why: Option<String>,
}

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
            attempts: job.attempts.iter().map(AttemptView::from).collect(),
            attempts_total: job.attempts_total,
            user_retries: job.user_retries,
            infra_retries: job.infra_retries,
            spec: SubmitJob::from(&*job.spec),
        }
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
    pub assigned_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub outcome: Option<OutcomeView>,
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

impl From<&Attempt> for AttemptView {
    fn from(attempt: &Attempt) -> Self {
        let end = attempt.end.as_ref();
        Self {
            id: attempt.id,
            number: attempt.number,
            worker: attempt.lease.worker.clone(),
            assigned_at: attempt.assigned_at,
            started_at: attempt.started_at,
            ended_at: end.map(|end| end.at),
            outcome: end.map(|end| OutcomeView::from(&end.outcome)),
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobView>,
    /// `cursor` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How many of the account's jobs are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct StateCounts {
    #[schema(maximum = 9007199254740991u64)]
    pub scheduled: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub queued: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub assigned: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub running: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub succeeded: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub failed: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub cancelled: u64,
}
