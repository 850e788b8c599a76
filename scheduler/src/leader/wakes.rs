//! Hints, gathered while the leader is busy: what to look at next, each thing once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use common::ids::JobId;
use common::store::{HintStream, Topic};
use tokio::sync::Notify;

/// Most changed jobs remembered; past it everything is looked at instead.
const JOBS_MAX: usize = 16_384;

/// What has been hinted since the last look.
#[derive(Debug, Default)]
pub struct Woken {
    pub queue: bool,
    pub capacity: bool,
    pub jobs: HashSet<JobId>,
    /// Hints were lost: everything is to be looked at.
    pub lost: bool,
}

#[derive(Clone, Default)]
pub struct Wakes {
    gathered: Arc<Mutex<Woken>>,
    notify: Arc<Notify>,
}

impl Wakes {
    /// Gathers hints for ever.
    pub async fn gather(self, mut hints: HintStream) {
        // Freed capacity is hinted just before the job that freed it; the dispatcher may already be up in between.
        let mut job_follows = false;
        loop {
            let hint = hints.next().await;
            if self.note(hint, &mut job_follows) {
                self.notify.notify_one();
            }
        }
    }

    /// Whether the hint is cause to look now.
    fn note(&self, hint: Option<Topic>, job_follows: &mut bool) -> bool {
        let mut woken = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match hint {
            Some(Topic::Queue) => woken.queue = true,
            Some(Topic::Capacity) => {
                woken.capacity = true;
                *job_follows = true;
            }
            Some(Topic::Job(job)) if woken.jobs.len() < JOBS_MAX => {
                woken.jobs.insert(job);
                return std::mem::take(job_follows);
            }
            Some(Topic::Job(_)) | None => woken.lost = true,
            Some(Topic::Worker(_) | Topic::Log(_)) => return false,
        }
        true
    }

    /// Waits until something that concerns the leader was hinted.
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    pub fn take(&self) -> Woken {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
