//! Whether a worker could run a job: ever, by its pool, labels and size; and now, by what is free on it and whether it
//! may be given work at all. Pure.
//!
//! Placement, submission and explanation ask here, so that none of them can say what another denies. Nothing is
//! allocated while nothing is asked but yes or no.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::PoolName;
use crate::job::{Job, JobSpec, Resources};
use crate::worker::{Capacity, Condition, Worker};

/// What a job asks of its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    pub resources: Resources,
    pub pool: &'a PoolName,
    /// Labels that the worker must carry.
    pub labels: &'a BTreeMap<String, String>,
    /// [`Job::is_suspect`]
    pub suspect: bool,
}

impl<'a> Wanted<'a> {
    /// Of a job that was never begun.
    pub fn of(spec: &'a JobSpec) -> Self {
        Self {
            resources: spec.resources,
            pool: &spec.pool,
            labels: &spec.worker_labels,
            suspect: false,
        }
    }

    pub fn of_job(job: &'a Job) -> Self {
        Self {
            suspect: job.is_suspect(),
            ..Self::of(&job.spec)
        }
    }
}

/// What a worker has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer<'a> {
    pub pool: &'a PoolName,
    pub labels: &'a BTreeMap<String, String>,
    pub capacity: Capacity,
    pub used: Capacity,
    /// It has a suspect, and takes no other.
    pub suspect: bool,
}

impl<'a> Offer<'a> {
    /// Of a worker that runs nothing: what it could ever give.
    pub fn idle(worker: &'a Worker) -> Self {
        Self::of(worker, Capacity::NOTHING)
    }

    /// Of a worker that has no suspect.
    pub fn of(worker: &'a Worker, used: Capacity) -> Self {
        let description = &worker.description;
        Self {
            pool: &description.pool,
            labels: &description.labels,
            capacity: description.capacity,
            used,
            suspect: false,
        }
    }
}

/// One thing that stands between a job and a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack<'a> {
    Pool {
        wanted: &'a PoolName,
        found: &'a PoolName,
    },
    Label {
        name: &'a str,
        wanted: &'a str,
        found: Option<&'a str>,
    },
    Size {
        what: Size,
        needs: u32,
        free: u32,
        of: u32,
    },
    /// Both the job and another that the worker has are suspects.
    Apart,
}

/// What is counted on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    CpuMillis,
    MemoryMib,
    DiskMib,
    /// Attempts at the same time.
    Slots,
}

/// All that stands between the two; nothing for a worker that fits.
pub fn lacks<'a>(wanted: Wanted<'a>, offer: Offer<'a>) -> impl Iterator<Item = Lack<'a>> {
    let pool = (wanted.pool != offer.pool).then_some(Lack::Pool {
        wanted: wanted.pool,
        found: offer.pool,
    });
    let labels = wanted.labels.iter().filter_map(move |(name, wanted)| {
        let found = offer.labels.get(name);
        (found != Some(wanted)).then(|| Lack::Label {
            name,
            wanted,
            found: found.map(String::as_str),
        })
    });
    let (needs, capacity, used) = (wanted.resources, offer.capacity, offer.used);
    let sizes = [
        (
            Size::CpuMillis,
            needs.cpu_millis,
            capacity.cpu_millis,
            used.cpu_millis,
        ),
        (
            Size::MemoryMib,
            needs.memory_mib,
            capacity.memory_mib,
            used.memory_mib,
        ),
        (Size::DiskMib, needs.disk_mib, capacity.disk_mib, used.disk_mib),
        (Size::Slots, 1, capacity.slots, used.slots),
    ];
    let sizes = sizes.into_iter().filter_map(|(what, needs, of, used)| {
        let free = of.saturating_sub(used);
        (free < needs).then_some(Lack::Size {
            what,
            needs,
            free,
            of,
        })
    });
    let apart = (wanted.suspect && offer.suspect).then_some(Lack::Apart);
    pool.into_iter().chain(labels).chain(sizes).chain(apart)
}

/// Whether the job would run there now, were the worker given work.
pub fn fits(wanted: Wanted<'_>, offer: Offer<'_>) -> bool {
    lacks(wanted, offer).next().is_none()
}

/// Whether the worker could ever run it, with nothing else on it.
pub fn could_ever(wanted: Wanted<'_>, worker: &Worker) -> bool {
    fits(wanted, Offer::idle(worker))
}

/// Why a worker is given no work at all now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence<'a> {
    /// Not heard for so long; none where its session is over.
    Away { silent: Option<Duration> },
    /// An administrator's wish.
    Draining,
    /// By its own word; each reason is a sentence.
    NotReady { reasons: &'a [String] },
}

/// Whether `worker` may be given work. `silent`: how long its session was not heard; none where it is lost, or where
/// there never was one.
pub fn absence(worker: &Worker, silent: Option<Duration>, contact: Duration) -> Option<Absence<'_>> {
    if silent.is_none_or(|silent| silent >= contact) {
        return Some(Absence::Away { silent });
    }
    if worker.draining {
        return Some(Absence::Draining);
    }
    match &worker.condition {
        Condition::Ready => None,
        Condition::Unready { reasons } => Some(Absence::NotReady { reasons }),
    }
}

impl fmt::Display for Lack<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Pool { wanted, found } => write!(f, "pool: wants {wanted}, is in {found}"),
            Self::Label {
                name,
                wanted,
                found: None,
            } => write!(f, "label {name}={wanted} is missing"),
            Self::Label {
                name,
                wanted,
                found: Some(found),
            } => write!(f, "label {name}: wants {wanted}, is {found}"),
            Self::Apart => {
                f.write_str("busy: it has another job that was lost repeatedly, and such are kept apart")
            }
            Self::Size {
                what: Size::Slots,
                of: 0,
                ..
            } => f.write_str("slots: the worker takes no jobs"),
            Self::Size {
                what: Size::Slots,
                of,
                ..
            } => write!(f, "busy: {of} of {of} slots are taken"),
            Self::Size {
                what,
                needs,
                free,
                of,
            } => {
                let (name, unit) = what.words();
                if needs > of {
                    write!(f, "{name}: needs {needs} {unit}, the worker has {of} {unit}")
                } else {
                    write!(f, "busy: needs {needs} {unit} of {name}, {free} free of {of}")
                }
            }
        }
    }
}

impl Size {
    /// Its name and its unit.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::CpuMillis => ("CPU", "millicpu"),
            Self::MemoryMib => ("memory", "MiB"),
            Self::DiskMib => ("disk", "MiB"),
            Self::Slots => ("slots", "slots"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::{spec, worker};

    fn words(wanted: Wanted<'_>, offer: Offer<'_>) -> Vec<String> {
        lacks(wanted, offer).map(|lack| lack.to_string()).collect()
    }

    #[test]
    fn everything_that_is_missing_is_named_with_both_numbers() {
        let (mut spec, worker) = (spec(), worker("w"));
        spec.resources.memory_mib = 32_000;
        spec.pool = PoolName::new("gpu").unwrap();
        spec.worker_labels.insert("zone".into(), "eu".into());
        assert_eq!(
            words(Wanted::of(&spec), Offer::idle(&worker)),
            [
                "pool: wants gpu, is in default",
                "label zone=eu is missing",
                "memory: needs 32000 MiB, the worker has 4096 MiB",
            ]
        );
        assert!(!could_ever(Wanted::of(&spec), &worker));
    }

    #[test]
    fn what_is_taken_is_told_from_what_is_too_small() {
        let (mut spec, worker) = (spec(), worker("w"));
        spec.resources.cpu_millis = 2_000;
        let used = Capacity {
            cpu_millis: 3_500,
            slots: 2,
            ..Capacity::NOTHING
        };
        let offer = Offer::of(&worker, used);
        assert_eq!(
            words(Wanted::of(&spec), offer),
            [
                "busy: needs 2000 millicpu of CPU, 500 free of 4000",
                "busy: 2 of 2 slots are taken"
            ]
        );
        assert!(could_ever(Wanted::of(&spec), &worker));
    }

    #[test]
    fn a_worker_that_has_a_suspect_takes_whom_else_it_fits() {
        let (spec, worker) = (spec(), worker("w"));
        let with_one = Offer {
            suspect: true,
            ..Offer::idle(&worker)
        };
        let suspect = Wanted {
            suspect: true,
            ..Wanted::of(&spec)
        };
        assert!(fits(Wanted::of(&spec), with_one) && fits(suspect, Offer::idle(&worker)));
        assert_eq!(lacks(suspect, with_one).collect::<Vec<_>>(), [Lack::Apart]);
        assert!(could_ever(suspect, &worker));
    }

    #[test]
    fn a_worker_is_away_before_it_is_anything_else() {
        let (mut worker, contact) = (worker("w"), Duration::from_secs(15));
        let soon = Some(Duration::from_secs(1));
        assert_eq!(absence(&worker, soon, contact), None);
        worker.condition = Condition::Unready {
            reasons: vec!["no engine".into()],
        };
        assert!(matches!(
            absence(&worker, soon, contact),
            Some(Absence::NotReady { .. })
        ));
        worker.draining = true;
        assert_eq!(absence(&worker, soon, contact), Some(Absence::Draining));
        for silent in [None, Some(contact)] {
            assert_eq!(absence(&worker, silent, contact), Some(Absence::Away { silent }));
        }
    }
}
