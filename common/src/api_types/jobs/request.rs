//! A job as it is asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api_types::millis;
use crate::attempt::OutcomeClass;
use crate::ids::{FileId, PoolName};
use crate::job::{Command, InputFile, JobSpec, Limits, Priority, Resources};
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
    /// Longest wait of one attempt for its image. Default half an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400000u64)]
    pub pull_ms: Option<u64>,
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
                pull: self.limits.pull_ms.map_or(limits.pull, Duration::from_millis),
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
                queue_ms: spec.limits.queue.map(millis),
                pull_ms: Some(millis(spec.limits.pull)),
                run_ms: Some(millis(spec.limits.run)),
                grace_ms: Some(millis(spec.limits.grace)),
            },
            retry: RetryBody {
                max_retries: Some(spec.retry.max_retries),
                on: Some(spec.retry.on.clone()),
                backoff_ms: Some(millis(spec.retry.backoff)),
                backoff_max_ms: Some(millis(spec.retry.backoff_max)),
            },
            pool: Some(spec.pool.clone()),
            worker_labels: spec.worker_labels.clone(),
            priority: spec.priority.0,
            not_before: spec.not_before,
            labels: spec.labels.clone(),
        }
    }
}
