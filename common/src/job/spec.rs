//! The request itself: what to run, with what, within which limits.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{FileId, PoolName};
use crate::retry::RetryPolicy;
use crate::time::Timestamp;

/// A checked request. Text that comes from outside passes [`validate()`](super::validate()) first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: Option<String>,
    pub command: Command,
    /// Replaces the image's ENTRYPOINT; an empty list removes it.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// The container image; the installation's default where none was named, filled in at submission.
    pub image: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Replaces the image's WORKDIR. `/workspace` where neither says anything.
    #[serde(default)]
    pub workdir: Option<String>,
    #[serde(default)]
    pub inputs: Vec<InputFile>,
    /// Globs below `/workspace`; what matches is kept, also after a failure.
    #[serde(default)]
    pub artifacts: Vec<String>,
    pub resources: Resources,
    pub limits: Limits,
    pub retry: RetryPolicy,
    #[serde(default)]
    pub pool: PoolName,
    /// Labels that a worker must carry to be given this job.
    #[serde(default)]
    pub worker_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default)]
    pub not_before: Option<Timestamp>,
    /// The submitter's own marks, for lists and filters.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// Given to `/bin/sh -c` of the image, whatever its ENTRYPOINT.
    Shell(String),
    /// Arguments as they are, after the image's ENTRYPOINT. Empty: the image's CMD.
    Argv(Vec<String>),
}

impl Command {
    /// For lists and tables: one line that a person recognises.
    pub fn summary(&self) -> String {
        match self {
            Self::Shell(line) => line.clone(),
            Self::Argv(argv) => argv.join(" "),
        }
    }
}

/// An uploaded file that the job finds in its working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    pub file: FileId,
    /// Where below `/workspace`; for an archive the folder that it is unpacked into.
    pub path: String,
    /// Unpack a zip or tar.gz instead of placing the file itself.
    #[serde(default)]
    pub unpack: bool,
}

/// What the job reserves on its worker; also what it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    pub memory_mib: u32,
    /// Size of `/workspace`.
    pub disk_mib: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_millis: 1_000,
            memory_mib: 256,
            disk_mib: 1_024,
        }
    }
}

/// Limits of time, each an answer of its own when it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Longest wait in the queue, each time anew after a retry; none: for ever.
    #[serde(default, with = "millis_option", rename = "queue_ms")]
    pub queue: Option<Duration>,
    /// Longest wait of one attempt for its image, the pull and waiting for another job's pull of it included.
    #[serde(default = "pull_default", with = "millis", rename = "pull_ms")]
    pub pull: Duration,
    /// Longest run of one attempt, from the start of its process.
    #[serde(with = "millis", rename = "run_ms")]
    pub run: Duration,
    /// From the stop signal to the kill.
    #[serde(with = "millis", rename = "grace_ms")]
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: None,
            pull: pull_default(),
            run: Duration::from_secs(3_600),
            grace: Duration::from_secs(10),
        }
    }
}

/// 20 GiB at 12 MiB/s.
const fn pull_default() -> Duration {
    Duration::from_secs(1_800)
}

/// Order within an account's own jobs: higher first. Never across accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Priority(pub i8);

impl Priority {
    pub const MIN: Self = Self(-10);
    pub const MAX: Self = Self(10);
}

/// Durations travel and rest as whole milliseconds.
pub mod millis {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// As [`millis`], where there may be none.
pub mod millis_option {
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value
            .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(<Option<u64>>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
