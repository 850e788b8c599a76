//! The fleet as the rows show it: who is registered, and what is taken of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::fit::Offer;
use crate::ids::{AccountId, SessionId, WorkerId};
use crate::job::{Job, JobState, Resources};
use crate::queue::ClassKey;
use crate::time::Timestamp;
use crate::worker::{Capacity, Worker};

/// Every registered worker, also those out of contact.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    workers: Vec<Seen>,
    held: Vec<Holding>,
    running: HashMap<AccountId, u32>,
    /// There are more attempts than were looked at.
    cut: bool,
}

/// A worker, and what is taken of it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub worker: Worker,
    /// Its session is not lost.
    pub live: bool,
    pub used: Capacity,
    /// It has a suspect.
    pub suspect: bool,
}

impl Seen {
    /// What it has to give now, beside what it runs.
    pub fn offer(&self) -> Offer<'_> {
        Offer {
            suspect: self.suspect,
            ..Offer::of(&self.worker, self.used)
        }
    }

    /// How long its session was not heard; none where it is lost.
    pub fn silent(&self, now: Timestamp) -> Option<Duration> {
        self.live.then(|| now.since(self.worker.heard_at))
    }
}

/// An attempt that a worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    pub worker: WorkerId,
    pub account: AccountId,
    pub class: ClassKey,
    pub resources: Resources,
    /// [`Job::is_suspect`]
    pub suspect: bool,
    pub run_limit: Duration,
    /// When its process started, or, where it has not yet, when it was given out.
    pub since: Timestamp,
    pub started: bool,
}

impl Holding {
    /// Of a job that a worker has.
    pub fn of(job: &Job) -> Option<Self> {
        let (lease, since, started) = match &job.state {
            JobState::Assigned { lease, since, .. } => (lease, *since, false),
            JobState::Running { lease, since, .. } => (lease, *since, true),
            JobState::Scheduled { .. }
            | JobState::Queued { .. }
            | JobState::Succeeded { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. } => return None,
        };
        Some(Self {
            worker: lease.worker.clone(),
            account: job.account.clone(),
            class: ClassKey::of(&job.spec),
            resources: job.spec.resources,
            suspect: job.is_suspect(),
            run_limit: job.spec.limits.run,
            since,
            started,
        })
    }
}

impl Fleet {
    /// `live`: sessions that are not lost. `cut`: there are more attempts than `held`.
    pub fn new(workers: Vec<Worker>, live: &HashSet<SessionId>, held: Vec<Holding>, cut: bool) -> Self {
        let (mut used, mut running) = (HashMap::new(), HashMap::new());
        let suspects = held.iter().filter(|holding| holding.suspect);
        let suspects: HashSet<&WorkerId> = suspects.map(|holding| &holding.worker).collect();
        for holding in &held {
            let sum = used.entry(&holding.worker).or_insert(Capacity::NOTHING);
            *sum = sum.with(&holding.resources);
            *running.entry(holding.account.clone()).or_insert(0) += 1;
        }
        let workers = workers
            .into_iter()
            .map(|worker| Seen {
                live: worker.session.is_some_and(|session| live.contains(&session)),
                used: used.get(&worker.id).copied().unwrap_or(Capacity::NOTHING),
                suspect: suspects.contains(&worker.id),
                worker,
            })
            .collect();
        Self {
            workers,
            held,
            running,
            cut,
        }
    }

    pub fn workers(&self) -> &[Seen] {
        &self.workers
    }

    pub fn worker(&self, id: &WorkerId) -> Option<&Seen> {
        self.workers.iter().find(|seen| seen.worker.id == *id)
    }

    pub fn held(&self) -> &[Holding] {
        &self.held
    }

    /// How many attempts the account has.
    pub fn running(&self, account: &AccountId) -> u32 {
        self.running.get(account).copied().unwrap_or(0)
    }

    /// Whether more is taken than was looked at.
    pub const fn is_cut(&self) -> bool {
        self.cut
    }
}
