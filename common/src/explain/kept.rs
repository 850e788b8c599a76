//! Room that is held back for jobs that have waited too long, as one other job sees it.

use std::collections::BTreeMap;

use crate::ids::{JobId, WorkerId};
use crate::job::{Job, Resources};
use crate::queue::HeldBack;
use crate::time::Timestamp;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptRooms {
    others: BTreeMap<WorkerId, KeptRoom>,
    own: Option<WorkerId>,
}

/// Kept on one worker for another job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptRoom {
    /// None for a job of another account: for this one it does not exist.
    pub job: Option<JobId>,
    pub resources: Resources,
    pub since: Timestamp,
}

impl KeptRooms {
    /// What of `reservations` stands before `job`, and what is kept for itself.
    pub fn of(job: &Job, reservations: &[HeldBack]) -> Self {
        let mut rooms = Self::default();
        for one in reservations {
            if one.job == job.id {
                rooms.own = Some(one.worker.clone());
                continue;
            }
            let room = KeptRoom {
                job: (one.account == job.account).then_some(one.job),
                resources: one.resources,
                since: one.since,
            };
            rooms.others.insert(one.worker.clone(), room);
        }
        rooms
    }

    /// What is kept on this worker for another job.
    pub fn on(&self, worker: &WorkerId) -> Option<&KeptRoom> {
        self.others.get(worker)
    }

    /// The worker that is kept for the job itself.
    pub const fn own(&self) -> Option<&WorkerId> {
        self.own.as_ref()
    }
}
