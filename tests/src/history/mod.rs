//! What happened in a run, line by line, and the laws that every run has to keep.
//!
//! A [`History`] holds what four witnesses saw, on one clock (the host's monotonic one): the client that submits and
//! cancels; the kernel, which tells of the jobs' own processes past everything that is under test; the rows as they
//! were read, again and again; and the agents' journals and the gateway's log. Each law ([`Invariant`]) is a pure
//! function over it that names whatever breaks it, so that a law is tested on histories made by hand.

mod attempts;
mod cancels;
mod containers;
mod jobs;
mod logs;
pub mod owners;
mod recorder;
mod results;
mod row;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use common::ids::{AttemptId, JobId, WorkerId};
use common::log::Stream;
use serde::{Deserialize, Serialize};

pub use self::recorder::Recorder;
pub use self::row::{AttemptRow, Row};

/// Lines of one job that a failure shows.
const LINES_SHOWN: usize = 40;

/// Nanoseconds of `CLOCK_MONOTONIC`, which the kernel's own reports carry too.
pub type Nanos = u64;

/// The name that the client gave to a job before anybody acknowledged it.
pub type Key = String;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub at: Nanos,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The client asks for something.
    Asked {
        call: u64,
        request: Request,
    },
    /// What the client was told. A call without an answer may have been heard or not.
    Answered {
        call: u64,
        answer: Answer,
    },
    /// The first process of a job began in this container.
    RunBegan {
        key: Key,
        container: String,
    },
    /// The last process of the job in this container is gone.
    RunEnded {
        key: Key,
        container: String,
    },
    Row {
        row: Box<Row>,
    },
    /// An agent's journal, at the end: what it holds, and in which containers.
    Holds {
        worker: WorkerId,
        attempts: Vec<AttemptId>,
        containers: Vec<String>,
    },
    /// A gateway refused the result of this attempt as stale.
    Refused {
        attempt: AttemptId,
    },
    /// What is stored of a stream of a job's accepted attempt, beside what the job itself says that it wrote.
    Output {
        key: Key,
        stream: Stream,
        stored: Digest,
        written: Digest,
    },
    /// Containers of ours that are at the engine.
    Containers {
        ids: Vec<String>,
    },
    /// A container of somebody else's, as the engine describes it.
    Foreign {
        container: String,
        described: String,
    },
    Fault {
        what: String,
    },
    /// No fault from here on.
    Healed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Submit { key: Key },
    Cancel { job: JobId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ok {
        job: JobId,
    },
    /// Refused for certain, with the status.
    Fail {
        status: u16,
    },
    /// Nobody knows whether it was done.
    Info,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub bytes: u64,
    pub sha256: String,
}

/// A law, with the bounds that the scenario gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// No acknowledged job is lost.
    I1,
    /// No job comes from nowhere, and a key makes one job.
    I2,
    /// One result is accepted, and what has ended never changes.
    I3,
    /// Never two accepted attempts at a time.
    I4,
    /// Two runs of one job overlap for no longer than this; where the agents stay scheduled, not at all.
    I4b(Duration),
    /// After the last fault every job ends within this time, and so does a new one.
    I5 { all: Duration, canary: Duration },
    /// Late results are refused, changed nothing, and were dropped; at least so many were seen.
    I6 { seen: usize },
    /// The log of every job that succeeded is what the job wrote.
    I7,
    /// A cancel wins or loses as its answer said; no process outlives one that won by more than this.
    I8(Duration),
    /// No job is tried more often than its budget allows.
    I11,
    /// No container of a run is left that no journal holds, and nobody else's was touched.
    I14,
}

/// What broke a law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The job that it is about, where it is about one.
    pub job: Option<JobId>,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.job {
            Some(job) => write!(f, "{job}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// A job's processes in one container, from the first to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub key: Key,
    pub container: String,
    pub began: Nanos,
    /// None: it was not seen to end.
    pub ended: Option<Nanos>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    lines: Vec<Line>,
}

impl History {
    /// In the order of time, whoever told first.
    pub fn new(mut lines: Vec<Line>) -> Self {
        lines.sort_by_key(|line| line.at);
        Self { lines }
    }

    pub fn violations(&self, law: Invariant) -> Vec<Violation> {
        match law {
            Invariant::I1 => jobs::none_is_lost(self),
            Invariant::I2 => jobs::none_comes_from_nowhere(self),
            Invariant::I3 => results::one_is_accepted(self),
            Invariant::I4 => attempts::one_at_a_time(self),
            Invariant::I4b(most) => attempts::runs_overlap_at_most(self, most),
            Invariant::I5 { all, canary } => jobs::none_is_stuck(self, all, canary),
            Invariant::I6 { seen } => results::late_ones_are_refused(self, seen),
            Invariant::I7 => logs::are_whole(self),
            Invariant::I8(gone_within) => cancels::win_or_lose(self, gone_within),
            Invariant::I11 => attempts::within_budget(self),
            Invariant::I14 => containers::none_is_orphaned(self),
        }
    }

    /// # Errors
    /// Every violation of these laws, each with what is known of its job.
    pub fn check(&self, laws: &[Invariant]) -> Result<()> {
        let mut broken = Vec::new();
        for law in laws {
            for violation in self.violations(*law) {
                broken.push(format!("{law:?}: {violation}"));
                broken.extend(self.about(violation.job));
            }
        }
        if !broken.is_empty() {
            bail!("the history breaks its laws:\n{}", broken.join("\n"));
        }
        Ok(())
    }

    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The jobs that the client was told to be stored, by the names that it gave them.
    pub fn acknowledged(&self) -> BTreeMap<Key, JobId> {
        let keys: BTreeMap<u64, &Key> = self
            .lines
            .iter()
            .filter_map(|line| match &line.event {
                Event::Asked {
                    call,
                    request: Request::Submit { key },
                } => Some((*call, key)),
                _ => None,
            })
            .collect();
        self.lines
            .iter()
            .filter_map(|line| match &line.event {
                Event::Answered {
                    call,
                    answer: Answer::Ok { job },
                } => keys.get(call).map(|key| ((*key).clone(), *job)),
                _ => None,
            })
            .collect()
    }

    /// Every reading of every row, by job, in the order of time.
    pub fn readings(&self) -> BTreeMap<JobId, Vec<(Nanos, &Row)>> {
        let mut readings: BTreeMap<JobId, Vec<(Nanos, &Row)>> = BTreeMap::new();
        for line in &self.lines {
            if let Event::Row { row } = &line.event {
                readings.entry(row.job).or_default().push((line.at, row.as_ref()));
            }
        }
        readings
    }

    /// The rows as they were read last.
    pub fn rows(&self) -> BTreeMap<JobId, &Row> {
        self.readings()
            .into_iter()
            .filter_map(|(job, rows)| rows.last().map(|(_, row)| (job, *row)))
            .collect()
    }

    /// Every run that the kernel told of, by when it began.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for line in &self.lines {
            let (Event::RunBegan { key, container } | Event::RunEnded { key, container }) = &line.event
            else {
                continue;
            };
            let known = runs
                .iter_mut()
                .find(|run| run.container == *container && run.key == *key);
            match (&line.event, known) {
                (Event::RunEnded { .. }, Some(run)) => run.ended = Some(line.at),
                (Event::RunBegan { .. }, None) => runs.push(Run {
                    key: key.clone(),
                    container: container.clone(),
                    began: line.at,
                    ended: None,
                }),
                _ => {}
            }
        }
        runs
    }

    pub fn runs_of(&self, key: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.key == key).collect()
    }

    /// Attempts whose results were refused as stale, each as often as it was.
    pub fn refused(&self) -> Vec<AttemptId> {
        self.lines
            .iter()
            .filter_map(|line| match &line.event {
                Event::Refused { attempt } => Some(*attempt),
                _ => None,
            })
            .collect()
    }

    pub fn healed_at(&self) -> Option<Nanos> {
        self.lines
            .iter()
            .rfind(|line| line.event == Event::Healed)
            .map(|line| line.at)
    }

    /// The last lines about a job, in seconds from the beginning, for a person who has to understand a failure.
    fn about(&self, job: Option<JobId>) -> Vec<String> {
        let Some(job) = job else { return Vec::new() };
        let begin = self.lines.first().map_or(0, |line| line.at);
        let key = self.rows().get(&job).map(|row| row.key.clone());
        let concerned: Vec<String> = self
            .lines
            .iter()
            .filter(|line| match &line.event {
                Event::Row { row } => row.job == job,
                Event::RunBegan { key: of, .. }
                | Event::RunEnded { key: of, .. }
                | Event::Output { key: of, .. } => Some(of) == key.as_ref(),
                Event::Asked {
                    request: Request::Cancel { job: of },
                    ..
                } => *of == job,
                Event::Fault { .. } | Event::Healed | Event::Refused { .. } => true,
                _ => false,
            })
            .map(|line| {
                let text = serde_json::to_string(&line.event).unwrap_or_default();
                let since = Duration::from_nanos(line.at - begin).as_secs_f64();
                format!("    {since:8.3} {text}")
            })
            .collect();
        let from = concerned.len().saturating_sub(LINES_SHOWN);
        concerned[from..].to_vec()
    }
}
