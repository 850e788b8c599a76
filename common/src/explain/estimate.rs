//! When a waiting job may start, where that can be told, and how it was found out.
//!
//! What runs now ends after the time that such jobs took lately, or else when its own limit of time ends it; jobs of
//! the same account and class that stand before are taken to be like this one; room goes to them in order. Other
//! accounts and classes that wait are not part of it, since nobody knows whose turn will come: the sentence says so.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{Facts, Holding, Reason};
use crate::fit::{self, Offer, Wanted};
use crate::job::Job;
use crate::queue::ClassKey;
use crate::time::Timestamp;
use crate::words::{count, show_duration};

/// Jobs before it that are played through; with more, the end is too far away to be told.
const BEFORE_MAX: u64 = 1_000;

/// Attempts that a time typical of a class needs.
const SAMPLES_MIN: usize = 3;

/// An expected start, under the assumptions that `sentence` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Estimate {
    pub at: Timestamp,
    pub method: Method,
    pub sentence: String,
}

/// How it was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// It is queued at a known time, and starts then at the earliest.
    Scheduled,
    /// From the limits of time of what runs: no later than this.
    RunLimits,
    /// From how long jobs of its account and class took lately.
    ObservedRunTimes,
}

impl Method {
    pub const ALL: [Self; 3] = [Self::Scheduled, Self::RunLimits, Self::ObservedRunTimes];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::RunLimits => "run_limits",
            Self::ObservedRunTimes => "observed_run_times",
        }
    }
}

/// How long jobs of one account and class took lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Typical {
    pub median: Duration,
    pub samples: usize,
}

impl Typical {
    /// The median of what ended jobs of `job`'s account and class took; none of too few.
    pub fn of<'j>(job: &Job, ended: impl IntoIterator<Item = &'j Job>) -> Option<Self> {
        let class = ClassKey::of(&job.spec);
        let mut took: Vec<Duration> = ended
            .into_iter()
            .filter(|other| other.account == job.account && ClassKey::of(&other.spec) == class)
            .filter_map(|other| {
                let last = other.last_attempt()?;
                Some(last.end.as_ref()?.at.since(last.started_at?))
            })
            .collect();
        took.sort_unstable();
        let samples = took.len();
        let median = *took.get(samples / 2)?;
        (samples >= SAMPLES_MIN).then_some(Self { median, samples })
    }
}

pub(super) fn scheduled(at: Timestamp, now: Timestamp) -> Estimate {
    Estimate {
        at: at.max(now),
        method: Method::Scheduled,
        sentence: "It is queued then, and starts no earlier.".to_owned(),
    }
}

pub(super) fn queued(job: &Job, reason: Reason, facts: &Facts<'_>) -> Option<Estimate> {
    let place = facts.place?;
    // suspects are kept apart, which is not played through
    if facts.fleet.is_cut() || place.before > BEFORE_MAX || job.is_suspect() {
        return None;
    }
    let clock = Clock { job, facts };
    let at = match reason {
        Reason::WorkersBusy | Reason::WaitingForTurn => clock.room_at(place.before)?,
        Reason::AccountLimit => clock.limit_frees_at(place.before)?,
        // by then nobody knows who comes back, or it is given out at once
        Reason::NoWorkers
        | Reason::NoWorkerFits
        | Reason::WorkersAway
        | Reason::WorkersDraining
        | Reason::WorkersNotReady
        | Reason::Reserved
        | Reason::NextInLine
        | Reason::Backoff
        | Reason::NotBefore
        | Reason::ImagePulling
        | Reason::Starting => return None,
    };
    let others = match place.all.saturating_sub(place.of) {
        0 => String::new(),
        others => format!(
            " {} of other classes or accounts wait too and may come first.",
            count(others, "job")
        ),
    };
    let (method, how) = match facts.typical {
        Some(typical) => (
            Method::ObservedRunTimes,
            format!(
                "Jobs of its account and class took {} lately (median of {}); other jobs are taken to run to their limit.",
                show_duration(typical.median),
                typical.samples
            ),
        ),
        None => (
            Method::RunLimits,
            "No later than this, if what is before it runs to its limit of time.".to_owned(),
        ),
    };
    Some(Estimate {
        at,
        method,
        sentence: format!("{how}{others}"),
    })
}

struct Clock<'a> {
    job: &'a Job,
    facts: &'a Facts<'a>,
}

impl Clock<'_> {
    /// When a worker has room for the job, after `before` jobs like it.
    fn room_at(&self, before: u64) -> Option<Timestamp> {
        let (facts, wanted) = (self.facts, Wanted::of(&self.job.spec));
        let mut workers: Vec<_> = facts
            .fleet
            .workers()
            .iter()
            .filter(|seen| {
                fit::could_ever(wanted, &seen.worker)
                    && fit::absence(&seen.worker, seen.silent(facts.now), facts.contact).is_none()
            })
            .map(|seen| (&seen.worker, seen.used))
            .collect();
        let places: std::collections::HashMap<_, _> = workers
            .iter()
            .enumerate()
            .map(|(place, (worker, _))| (&worker.id, place))
            .collect();
        let mut ends: BinaryHeap<Reverse<(Timestamp, usize, Size)>> = facts
            .fleet
            .held()
            .iter()
            .filter_map(|holding| {
                let worker = *places.get(&holding.worker)?;
                Some(Reverse((
                    self.end_of(holding),
                    worker,
                    Size::of(&holding.resources),
                )))
            })
            .collect();
        let mut left = before;
        let mut now = facts.now;
        let mut looked_at: Vec<usize> = (0..workers.len()).collect();
        loop {
            for place in looked_at {
                while fit::fits(wanted, Offer::of(workers[place].0, workers[place].1)) {
                    if left == 0 {
                        return Some(now);
                    }
                    left -= 1;
                    workers[place].1 = workers[place].1.with(&wanted.resources);
                    ends.push(Reverse((
                        now.after(self.run_time()),
                        place,
                        Size::of(&wanted.resources),
                    )));
                }
            }
            let Reverse((at, place, size)) = ends.pop()?;
            now = now.max(at);
            workers[place].1 = workers[place].1.without(&size.resources());
            looked_at = vec![place];
        }
    }

    /// When so many of the account's own attempts have ended that it may have this one too.
    fn limit_frees_at(&self, before: u64) -> Option<Timestamp> {
        let account = &self.job.account;
        let mut ends: Vec<Timestamp> = self
            .facts
            .fleet
            .held()
            .iter()
            .filter(|holding| holding.account == *account)
            .map(|holding| self.end_of(holding))
            .collect();
        ends.sort_unstable();
        let above = (ends.len() as u64).checked_sub(u64::from(self.facts.running_max?))?;
        let needed = usize::try_from(above.saturating_add(before)).ok()?;
        ends.get(needed).copied()
    }

    fn end_of(&self, holding: &Holding) -> Timestamp {
        let typical = self
            .facts
            .typical
            .filter(|_| holding.account == self.job.account && holding.class == ClassKey::of(&self.job.spec));
        let by_limit = holding.since.after(holding.run_limit);
        let end = match typical.map(|typical| holding.since.after(typical.median)) {
            // one that takes longer than others do is judged by its limit
            Some(usual) if usual > self.facts.now => usual.min(by_limit),
            Some(_) | None => by_limit,
        };
        end.max(self.facts.now)
    }

    fn run_time(&self) -> Duration {
        let limit = self.job.spec.limits.run;
        self.facts
            .typical
            .map_or(limit, |typical| typical.median.min(limit))
    }
}

/// Resources in an order, for the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Size(u32, u32, u32);

impl Size {
    const fn of(resources: &crate::job::Resources) -> Self {
        Self(resources.cpu_millis, resources.memory_mib, resources.disk_mib)
    }

    const fn resources(self) -> crate::job::Resources {
        crate::job::Resources {
            cpu_millis: self.0,
            memory_mib: self.1,
            disk_mib: self.2,
        }
    }
}
