//! A worker as placement sees it: what it has, what is taken of it, and what of it is kept for a job that waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::fit::{self, Offer};
use common::ids::{JobId, PoolName, WorkerId};
use common::job::Resources;
use common::worker::Capacity;

use super::Candidate;

/// A worker that may be given work now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub worker: WorkerId,
    pub pool: PoolName,
    pub labels: Arc<BTreeMap<String, String>>,
    pub capacity: Capacity,
    pub used: Capacity,
    /// It has a suspect, and takes no other.
    pub suspect: bool,
    /// What a reservation keeps from everybody but one job.
    pub kept: Option<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub job: JobId,
    pub resources: Resources,
    pub suspect: bool,
}

impl Seat {
    /// Whether `job` would run here now. What is kept for another is no room.
    pub fn fits(&self, job: &Candidate) -> bool {
        let taken = self.taken_for(job.job);
        fit::fits(job.wanted(), self.offer(taken))
    }

    /// Whether there is room for a job of this size now, and it may be a suspect where this one is. What is kept for
    /// another is no room.
    pub fn holds(&self, job: JobId, wanted: &Resources, suspect: bool) -> bool {
        let taken = self.taken_for(job);
        self.capacity.minus(&taken.used).could_hold(wanted) && !(suspect && taken.suspect)
    }

    /// What is used or kept, as `job` finds it.
    fn taken_for(&self, job: JobId) -> Taken {
        let kept = self.kept.filter(|kept| kept.job != job);
        Taken {
            used: kept.map_or(self.used, |kept| self.used.with(&kept.resources)),
            suspect: self.suspect || kept.is_some_and(|kept| kept.suspect),
        }
    }

    /// Whether it could run `job` if it had nothing else to do.
    pub fn could_hold(&self, job: &Candidate) -> bool {
        fit::fits(job.wanted(), self.offer(Taken::NOTHING))
    }

    fn offer(&self, taken: Taken) -> Offer<'_> {
        Offer {
            pool: &self.pool,
            labels: &self.labels,
            capacity: self.capacity,
            used: taken.used,
            suspect: taken.suspect,
        }
    }

    /// What nobody uses.
    pub fn free(&self) -> Capacity {
        self.capacity.minus(&self.used)
    }

    /// What nobody uses and no reservation keeps.
    pub fn unkept(&self) -> Capacity {
        match &self.kept {
            Some(kept) => self.free().without(&kept.resources),
            None => self.free(),
        }
    }

    pub fn take(&mut self, job: &Candidate) {
        self.used = self.used.with(&job.resources());
        self.suspect |= job.suspect;
        if self.kept.is_some_and(|kept| kept.job == job.job) {
            self.kept = None;
        }
    }

    /// Use of the scarcest resource with `wanted` added, in millionths.
    pub(super) fn load_with(&self, wanted: &Resources) -> u64 {
        let (used, of) = (self.used.with(wanted), &self.capacity);
        part(used.cpu_millis, of.cpu_millis)
            .max(part(used.memory_mib, of.memory_mib))
            .max(part(used.disk_mib, of.disk_mib))
            .max(part(used.slots, of.slots))
    }

    /// How much of this worker has to become free until `wanted` fits, in millionths of its scarcest resource.
    pub(super) fn missing_for(&self, wanted: &Resources) -> u64 {
        let (free, of) = (self.free(), &self.capacity);
        part(wanted.cpu_millis.saturating_sub(free.cpu_millis), of.cpu_millis)
            .max(part(
                wanted.memory_mib.saturating_sub(free.memory_mib),
                of.memory_mib,
            ))
            .max(part(wanted.disk_mib.saturating_sub(free.disk_mib), of.disk_mib))
            .max(part(1u32.saturating_sub(free.slots), of.slots))
    }
}

/// What others have of a worker.
#[derive(Debug, Clone, Copy)]
struct Taken {
    used: Capacity,
    suspect: bool,
}

impl Taken {
    const NOTHING: Self = Self {
        used: Capacity::NOTHING,
        suspect: false,
    };
}

fn part(used: u32, of: u32) -> u64 {
    u64::from(used) * 1_000_000 / u64::from(of.max(1))
}
