//! How many jobs an account may have waiting, without a count for each submission.
//!
//! What an account has waiting is the last count of its rows plus what was let in since then; what has left the
//! queue meanwhile is not seen, so this is never too low. It is counted anew when it is old, or when something would be
//! refused. So one replica alone never lets in more than the limit. Another replica's submissions are seen with the next
//! count: each further replica may let in what is sent to it within [`KEPT`] (longer where a count takes longer), or
//! within [`KEPT_FAR`] while less than half of the limit is used. Retries are not asked: a job that was let in stays in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use common::config::AccountLimits;
use common::error::ServiceError;
use common::ids::AccountId;
use common::store::{StoreError, Stores};
use common::time::{Mono, SharedClock};
use tokio::sync::Mutex;

/// How long a count is good near the limit.
const KEPT: Duration = Duration::from_secs(2);

/// And how long while less than half of the limit is used.
const KEPT_FAR: Duration = Duration::from_secs(30);

/// Counting takes at most this part of the time: the longer a count takes, the longer it is good.
const COUNTING_PART: u32 = 20;

/// A refusal is not counted anew more often than this, so that whoever is refused and goes on asking costs little.
const KEPT_REFUSED: Duration = Duration::from_millis(200);

/// How long a changed limit may take to be heeded.
const LIMIT_KEPT: Duration = Duration::from_secs(10);

/// Most accounts remembered; past it all are forgotten and counted again.
const ACCOUNTS_MAX: usize = 10_000;

pub struct WaitingRooms {
    stores: Stores,
    clock: SharedClock,
    limits: AccountLimits,
    rooms: SyncMutex<HashMap<AccountId, Arc<Room>>>,
}

#[derive(Default)]
struct Room {
    /// Let in and not known to be stored yet: a count may or may not see it.
    under_way: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default, Clone, Copy)]
struct Seen {
    limit: u64,
    limit_at: Option<Mono>,
    counted: u64,
    counted_at: Option<Mono>,
    /// That the count took.
    took: Duration,
    /// Let in since, counted ones under way included.
    added: u64,
}

/// Jobs that were let in and are being stored.
pub struct Admission {
    room: Arc<Room>,
    jobs: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.room.under_way.fetch_sub(self.jobs, Ordering::SeqCst);
    }
}

impl WaitingRooms {
    pub fn new(stores: Stores, clock: SharedClock, limits: AccountLimits) -> Self {
        Self {
            stores,
            clock,
            limits,
            rooms: SyncMutex::default(),
        }
    }

    /// Lets `jobs` more of an account in, all or none. The answer is to be kept until they are stored.
    ///
    /// # Errors
    /// [`ServiceError::LimitReached`] past the account's limit.
    pub async fn admit(&self, account: &AccountId, jobs: usize) -> Result<Admission, ServiceError> {
        let room = self.room(account);
        let jobs = jobs as u64;
        let mut seen = room.seen.lock().await;
        let now = self.clock.mono();
        self.look_at_limit(account, now, &mut seen).await?;
        let good_for = seen.good_for(jobs);
        if seen.counted_at.is_none_or(|at| now.since(at) >= good_for) {
            let under_way = room.under_way.load(Ordering::SeqCst);
            match self.stores.jobs.count_waiting(account).await {
                Ok(counted) => (seen.counted, seen.added) = (counted, under_way),
                // So many that counting takes too long: what is known is too high at the worst.
                Err(StoreError::Unavailable(_)) if seen.counted_at.is_some() && seen.has_room(jobs) => {}
                Err(error) => return Err(error.into()),
            }
            seen.counted_at = Some(now);
            seen.took = self.clock.mono().since(now);
        }
        if !seen.has_room(jobs) {
            return Err(refusal(&seen, jobs));
        }
        seen.added += jobs;
        room.under_way.fetch_add(jobs, Ordering::SeqCst);
        drop(seen);
        Ok(Admission { room, jobs })
    }

    async fn look_at_limit(&self, account: &AccountId, now: Mono, seen: &mut Seen) -> Result<(), StoreError> {
        if seen.limit_at.is_none_or(|at| now.since(at) >= LIMIT_KEPT) {
            let own = self.stores.identity.account(account).await?;
            let own = own.and_then(|account| account.waiting_max);
            seen.limit = u64::from(self.limits.waiting(own));
            seen.limit_at = Some(now);
        }
        Ok(())
    }

    fn room(&self, account: &AccountId) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= ACCOUNTS_MAX && !rooms.contains_key(account) {
            rooms.clear();
        }
        Arc::clone(rooms.entry(account.clone()).or_default())
    }
}

impl Seen {
    const fn waiting(&self) -> u64 {
        self.counted.saturating_add(self.added)
    }

    const fn has_room(&self, jobs: u64) -> bool {
        self.waiting().saturating_add(jobs) <= self.limit
    }

    fn good_for(&self, jobs: u64) -> Duration {
        if !self.has_room(jobs) {
            KEPT_REFUSED
        } else if self.waiting() < self.limit / 2 {
            KEPT_FAR
        } else {
            // A million takes a store a second: then it is counted less often, not all the time.
            KEPT.max(COUNTING_PART * self.took)
        }
    }
}

fn refusal(seen: &Seen, jobs: u64) -> ServiceError {
    let (waiting, limit) = (seen.waiting(), seen.limit);
    let what = if jobs == 1 {
        "one more".to_owned()
    } else {
        format!("{jobs} more, of which none was taken")
    };
    ServiceError::LimitReached {
        code: "waiting_limit",
        message: format!(
            "The account has {waiting} jobs waiting and may have {limit}; this would be {what}. \
             Wait until some have started, cancel some, or ask an administrator for a higher limit."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_good_for_as_long_as_it_is_far_from_the_limit() {
        let seen = |counted, added| Seen {
            limit: 100,
            counted,
            added,
            ..Seen::default()
        };
        for (counted, added, jobs, good_for) in [
            (0, 0, 1, KEPT_FAR),
            (40, 9, 1, KEPT_FAR),
            (40, 10, 1, KEPT),
            (90, 9, 1, KEPT),
            (90, 10, 1, KEPT_REFUSED),
            (0, 0, 101, KEPT_REFUSED),
            (u64::MAX, u64::MAX, u64::MAX, KEPT_REFUSED),
        ] {
            assert_eq!(
                seen(counted, added).good_for(jobs),
                good_for,
                "{counted} {added} {jobs}"
            );
        }
    }
}
