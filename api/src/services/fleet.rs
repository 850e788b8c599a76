//! The fleet as the rows show it, remembered for a moment: every submission and every explanation asks, and none of
//! them should cost a look at all rows.
//!
//! One look at a time: who comes meanwhile waits for it and shares what it found, also that it failed, so that nobody waits
//! for more than one. A second replica has its own, a moment
//! older or younger; nothing is decided by it that the leader does not decide anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::explain::{Fleet, Holding};
use common::store::{Held, StoreError, Stores};
use common::time::{Mono, SharedClock};
use tokio::sync::Mutex;

/// How old an answer may be: people do not see the difference, and the cost of a look is shared by thousands of jobs.
const KEPT: Duration = Duration::from_secs(1);

/// Rows read at once.
const PAGE: usize = 500;

/// Most attempts that are looked at: a fleet of some hundred workers, read in a tenth of a second. With more, what is
/// taken of workers is told too small, and no start is estimated.
const HELD_MAX: usize = 10_000;

pub struct FleetCache {
    stores: Stores,
    clock: SharedClock,
    workers: Mutex<Kept>,
    whole: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    fleet: Option<(Mono, Arc<Fleet>)>,
    failed_at: Option<Mono>,
}

/// Told to those who waited for somebody else's look.
#[derive(Debug, thiserror::Error)]
#[error("the fleet cannot be read")]
struct Failed;

impl FleetCache {
    pub fn new(stores: Stores, clock: SharedClock) -> Self {
        Self {
            stores,
            clock,
            workers: Mutex::default(),
            whole: Mutex::default(),
        }
    }

    /// The workers, without what is taken of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn workers(&self) -> Result<Arc<Fleet>, StoreError> {
        self.kept(&self.workers, KEPT, false).await
    }

    /// As [`FleetCache::workers`], by a look that begins now: before a job is refused.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn workers_now(&self) -> Result<Arc<Fleet>, StoreError> {
        self.kept(&self.workers, Duration::ZERO, false).await
    }

    /// The workers with what is taken of them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn whole(&self) -> Result<Arc<Fleet>, StoreError> {
        self.kept(&self.whole, KEPT, true).await
    }

    async fn kept(&self, place: &Mutex<Kept>, age: Duration, held: bool) -> Result<Arc<Fleet>, StoreError> {
        let asked = self.clock.mono();
        let mut kept = place.lock().await;
        let now = self.clock.mono();
        if let Some((at, fleet)) = kept.fleet.as_ref()
            && now.since(*at) < age
        {
            return Ok(Arc::clone(fleet));
        }
        if kept.failed_at.is_some_and(|at| at > asked) {
            return Err(StoreError::Unavailable(Box::new(Failed)));
        }
        match self.look(held).await {
            Ok(fleet) => {
                let fleet = Arc::new(fleet);
                kept.fleet = Some((now, Arc::clone(&fleet)));
                Ok(fleet)
            }
            Err(error) => {
                kept.failed_at = Some(self.clock.mono());
                Err(error)
            }
        }
    }

    async fn look(&self, held: bool) -> Result<Fleet, StoreError> {
        let sessions = self.stores.workers.live_sessions().await?;
        let live: HashSet<_> = sessions.into_iter().map(|session| session.id).collect();
        let workers = self.stores.workers.list().await?;
        let (held, cut) = if held {
            self.held().await?
        } else {
            (Vec::new(), false)
        };
        Ok(Fleet::new(workers, &live, held, cut))
    }

    /// What is held, and whether there is more.
    async fn held(&self) -> Result<(Vec<Holding>, bool), StoreError> {
        let (mut held, mut after) = (Vec::new(), None);
        loop {
            let rows = self.stores.jobs.held(&Held::Any, after, PAGE).await?;
            after = rows.last().map(|job| job.id);
            held.extend(rows.iter().filter_map(Holding::of));
            if rows.len() < PAGE {
                return Ok((held, false));
            }
            if held.len() >= HELD_MAX {
                return Ok((held, true));
            }
        }
    }
}
