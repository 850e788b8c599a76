//! Room for jobs that are larger than what becomes free at a time.
//!
//! A head of a class that has waited for longer than the setting, while others were placed past it, gets a
//! *reservation*: one worker that could hold it when empty keeps that much of itself for it. What becomes
//! free there goes to nobody else; what the worker has beyond is given away as ever, which cannot delay the
//! job. So it starts, counted from when it was queued, within the setting plus the longest time that what the
//! worker then holds may still run (run limit and grace; for a worker that is lost, the lease).
//!
//! A worker holds one reservation at the most, and of each pool only a share has one, so reservations cannot
//! stop everything. They are granted in the order of fair share: an account that was just served waits for
//! its next turn. Nothing of this is stored (others are told of it, to explain their waiting): a new leader
//! grants anew, from how long the rows say that jobs have waited, and picks the worker with the least left to
//! wait for, which is the one that was being kept.

use std::collections::BTreeMap;

use common::ids::{JobId, PoolName, WorkerId};
use common::job::Resources;
use common::queue::{HeldBack, QueueEntry};
use common::time::Timestamp;

use super::{Candidate, Kept, Seat};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub entry: QueueEntry,
    pub resources: Resources,
    pub suspect: bool,
    /// When it was granted.
    pub since: Timestamp,
}

#[derive(Debug, Default)]
pub struct Reservations(BTreeMap<WorkerId, Reservation>);

impl Reservations {
    pub fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.0.values()
    }

    /// As others are told.
    pub fn told(&self) -> Vec<HeldBack> {
        let told = self.0.iter().map(|(worker, one)| HeldBack {
            worker: worker.clone(),
            job: one.entry.job,
            account: one.entry.lane.account.clone(),
            resources: one.resources,
            since: one.since,
        });
        told.collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn holds(&self, job: JobId) -> bool {
        self.iter().any(|reservation| reservation.entry.job == job)
    }

    /// Drops the reservation of a job that was placed, or does not wait at the head any more.
    pub fn release(&mut self, job: JobId) {
        self.0.retain(|_, reservation| reservation.entry.job != job);
    }

    /// Marks the seats with what is kept on them; drops what stands on a worker that is not there any more,
    /// or could not hold the job any more.
    pub fn mark(&mut self, seats: &mut [Seat]) {
        let mut seen = 0;
        for seat in &mut *seats {
            seat.kept = self.0.get(&seat.worker).map(|reservation| Kept {
                job: reservation.entry.job,
                resources: reservation.resources,
                suspect: reservation.suspect,
            });
            seen += usize::from(seat.kept.is_some());
        }
        let impossible = |seat: &Seat| {
            seat.kept
                .is_some_and(|kept| !seat.capacity.could_hold(&kept.resources))
        };
        if seen == self.0.len() && !seats.iter().any(impossible) {
            return;
        }
        self.0.retain(|worker, reservation| {
            seats
                .iter()
                .any(|seat| seat.worker == *worker && seat.capacity.could_hold(&reservation.resources))
        });
        for seat in seats {
            if !self.0.contains_key(&seat.worker) {
                seat.kept = None;
            }
        }
    }

    /// Keeps one worker for `job`, if there is one that could hold it when empty and the pool's share allows
    /// one more. `share` 4 stands for a quarter of a pool's workers, and for one at least.
    pub fn grant(
        &mut self,
        entry: &QueueEntry,
        job: &Candidate,
        seats: &mut [Seat],
        share: usize,
        now: Timestamp,
    ) -> bool {
        let wanted = job.resources();
        if self.holds(job.job) || !self.has_share(job.pool(), seats, share) {
            return false;
        }
        let best = seats
            .iter_mut()
            .filter(|seat| seat.kept.is_none() && seat.could_hold(job) && !(job.suspect && seat.suspect))
            .min_by(|a, b| (a.missing_for(&wanted), &a.worker).cmp(&(b.missing_for(&wanted), &b.worker)));
        let Some(seat) = best else { return false };
        seat.kept = Some(Kept {
            job: job.job,
            resources: wanted,
            suspect: job.suspect,
        });
        let reservation = Reservation {
            entry: entry.clone(),
            resources: wanted,
            suspect: job.suspect,
            since: now,
        };
        self.0.insert(seat.worker.clone(), reservation);
        true
    }

    fn has_share(&self, pool: &PoolName, seats: &[Seat], share: usize) -> bool {
        let of_pool = seats.iter().filter(|seat| seat.pool == *pool);
        let (all, kept) = of_pool.fold((0, 0), |(all, kept), seat| {
            (all + 1, kept + usize::from(seat.kept.is_some()))
        });
        kept < (all / share.max(1)).max(1)
    }
}
