//! How many jobs an account may have waiting, without a count for each submission.
//!
//! What an account has waiting is the last count of its rows plus what was let in since that began; what has left the
//! queue meanwhile is not seen, so this is never too low. Where it has room, nobody waits for a count: one is made
//! beside the submission when the last one is old. Only what would be refused waits for one, and so does an account's
//! first. So one replica alone never lets in more than the limit. Another replica's submissions are seen with the next
//! count: each further replica may let in what is sent to it within [`KEPT`] (longer where a count takes longer), or
//! within [`KEPT_FAR`] while less than half of the limit is used. Retries are not asked: a job that was let in stays in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::AccountLimits;
use common::error::ServiceError;
use common::ids::AccountId;
use common::store::{StoreError, Stores};
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};

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

/// Most accounts remembered; past it those that nobody is asking for are forgotten and counted again.
const ACCOUNTS_MAX: usize = 10_000;

pub struct WaitingRooms {
    stores: Stores,
    clock: SharedClock,
    tasks: Tasks,
    limits: AccountLimits,
    rooms: Mutex<HashMap<AccountId, Arc<Room>>>,
}

#[derive(Default)]
struct Room {
    seen: Mutex<Seen>,
    /// Held by whoever counts: one at a time.
    counting: tokio::sync::Mutex<()>,
}

/// What is known of an account.
#[derive(Default, Clone, Copy)]
struct Seen {
    limit: u64,
    limit_at: Option<Mono>,
    /// None before the first count.
    counted: Option<u64>,
    /// Let in since that count began, and what was under way then: it may have seen it or not.
    added: u64,
    /// Let in and not known to be stored yet.
    under_way: u64,
    /// Let in, ever.
    let_in: u64,
    /// The end of the last count, also of one that failed.
    tried_at: Option<Mono>,
    /// That it took.
    took: Duration,
    /// It ended well beside submissions, so it may be too high by what was let in meanwhile.
    rough: bool,
    /// When somebody was to be refused last, the store answered nothing at all.
    away: bool,
}

/// Of a store that answers nothing, told to those who asked while somebody else was waiting for it.
#[derive(Debug, thiserror::Error)]
#[error("what the account has waiting cannot be read")]
struct Away;

/// What had been let in when a count began.
#[derive(Clone, Copy)]
struct Begun {
    at: Mono,
    under_way: u64,
    let_in: u64,
}

/// Jobs that were let in and are being stored.
pub struct Admission {
    room: Arc<Room>,
    jobs: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.room.seen().under_way -= self.jobs;
    }
}

impl WaitingRooms {
    pub fn new(stores: Stores, clock: SharedClock, tasks: Tasks, limits: AccountLimits) -> Self {
        Self {
            stores,
            clock,
            tasks,
            limits,
            rooms: Mutex::default(),
        }
    }

    /// Lets `jobs` more of an account in, all or none. The answer is to be kept until they are stored.
    ///
    /// # Errors
    /// [`ServiceError::LimitReached`] past the account's limit. The store's, where nothing is known of the account yet
    /// and it does not answer.
    pub async fn admit(&self, account: &AccountId, jobs: usize) -> Result<Admission, ServiceError> {
        let room = self.room(account);
        let jobs = jobs as u64;
        self.look_at_limit(account, &room).await?;
        if let Some(admission) = room.admit(jobs) {
            if room.seen().is_due(0, self.clock.mono()) {
                self.count_beside(account, &room);
            }
            return Ok(admission);
        }
        let counting = room.counting.lock().await;
        // Another may have counted meanwhile.
        let due = room.seen().is_due(jobs, self.clock.mono());
        let counted = match due {
            true => self.count_to_refuse(account, &room).await,
            false => Ok(()),
        };
        drop(counting);
        if let Some(admission) = room.admit(jobs) {
            return Ok(admission);
        }
        let seen = *room.seen();
        match counted {
            Ok(()) if seen.away => Err(StoreError::Unavailable(Box::new(Away)).into()),
            Ok(()) => Err(refusal(&seen, jobs)),
            Err(error) => Err(error.into()),
        }
    }

    /// What is known stands where a count takes too long, since the fewer wait, the sooner one succeeds; but not where
    /// the store answers nothing at all. The look that tells the two apart goes beside the count: one after the other
    /// they would take longer than anybody is to wait.
    async fn count_to_refuse(&self, account: &AccountId, room: &Room) -> Result<(), StoreError> {
        let (counted, looked) = tokio::join!(
            count(&self.stores, &self.clock, account, room, false),
            self.stores.identity.account(account)
        );
        let mut seen = room.seen();
        seen.away = counted.is_err() && looked.is_err();
        match counted {
            Err(StoreError::Unavailable(_)) if seen.counted.is_some() => Ok(()),
            counted => counted,
        }
    }

    async fn look_at_limit(&self, account: &AccountId, room: &Room) -> Result<(), StoreError> {
        let now = self.clock.mono();
        let looked_at = room.seen().limit_at;
        if looked_at.is_none_or(|at| now.since(at) >= LIMIT_KEPT) {
            let own = self.stores.identity.account(account).await?;
            let own = own.and_then(|account| account.waiting_max);
            let mut seen = room.seen();
            seen.limit = u64::from(self.limits.waiting(own));
            seen.limit_at = Some(now);
        }
        Ok(())
    }

    fn count_beside(&self, account: &AccountId, room: &Arc<Room>) {
        if room.counting.try_lock().is_err() {
            return;
        }
        let (stores, clock) = (self.stores.clone(), Arc::clone(&self.clock));
        let (account, room) = (account.clone(), Arc::clone(room));
        self.tasks.spawn("count of what waits", async move {
            let Ok(_counting) = room.counting.try_lock() else {
                return;
            };
            if let Err(error) = count(&stores, &clock, &account, &room, true).await {
                tracing::debug!(%error, %account, "what waits is not counted: what is known is too high at the worst");
            }
        });
    }

    fn room(&self, account: &AccountId) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= ACCOUNTS_MAX && !rooms.contains_key(account) {
            // One in use stays: a new one would not know of what is under way.
            rooms.retain(|_, room| Arc::strong_count(room) > 1);
        }
        Arc::clone(rooms.entry(account.clone()).or_default())
    }
}

/// By whoever holds the room's `counting`.
async fn count(
    stores: &Stores,
    clock: &SharedClock,
    account: &AccountId,
    room: &Room,
    rough: bool,
) -> Result<(), StoreError> {
    let begun = room.seen().begin(clock.mono());
    let counted = stores.jobs.count_waiting(account).await;
    let mut seen = room.seen();
    seen.tried(begun, clock.mono());
    seen.counted(begun, counted?);
    seen.rough = rough;
    Ok(())
}

impl Room {
    fn admit(self: &Arc<Self>, jobs: u64) -> Option<Admission> {
        self.seen().admit(jobs).then(|| Admission {
            room: Arc::clone(self),
            jobs,
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Never too low; none before the first count.
    fn waiting(&self) -> Option<u64> {
        Some(self.counted?.saturating_add(self.added))
    }

    fn has_room(&self, jobs: u64) -> bool {
        self.waiting()
            .is_some_and(|waiting| waiting.saturating_add(jobs) <= self.limit)
    }

    fn admit(&mut self, jobs: u64) -> bool {
        let admitted = self.has_room(jobs);
        if admitted {
            self.added += jobs;
            self.under_way += jobs;
            self.let_in += jobs;
        }
        admitted
    }

    const fn begin(&self, at: Mono) -> Begun {
        Begun {
            at,
            under_way: self.under_way,
            let_in: self.let_in,
        }
    }

    /// A count has ended, well or not.
    fn tried(&mut self, begun: Begun, now: Mono) {
        self.rough = false;
        self.tried_at = Some(now);
        self.took = now.since(begun.at);
    }

    /// It has ended well.
    const fn counted(&mut self, begun: Begun, counted: u64) {
        self.counted = Some(counted);
        self.added = begun.under_way + (self.let_in - begun.let_in);
    }

    /// Whether it is to be counted anew, for somebody who wants room for as many jobs.
    fn is_due(&self, jobs: u64, now: Mono) -> bool {
        let is_old = |at| now.since(at) >= self.good_for(jobs);
        self.counted.is_none() || self.tried_at.is_none_or(is_old)
    }

    fn good_for(&self, jobs: u64) -> Duration {
        if !self.has_room(jobs) {
            // Nobody is refused by what may be too high.
            if self.rough { Duration::ZERO } else { KEPT_REFUSED }
        } else if self.waiting() < Some(self.limit / 2) {
            KEPT_FAR
        } else {
            // A million takes a store a second: then it is counted less often, not all the time.
            KEPT.max(COUNTING_PART * self.took)
        }
    }
}

fn refusal(seen: &Seen, jobs: u64) -> ServiceError {
    let (waiting, limit) = (seen.waiting().unwrap_or_default(), seen.limit);
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_count_is_good_for_as_long_as_it_is_far_from_the_limit() {
        let seen = |counted, added, rough| Seen {
            limit: 100,
            counted: Some(counted),
            added,
            rough,
            ..Seen::default()
        };
        for (counted, added, jobs, rough, good_for) in [
            (0, 0, 1, false, KEPT_FAR),
            (40, 9, 1, true, KEPT_FAR),
            (40, 10, 1, false, KEPT),
            (90, 9, 1, true, KEPT),
            (90, 10, 1, false, KEPT_REFUSED),
            (90, 10, 1, true, Duration::ZERO),
            (0, 0, 101, false, KEPT_REFUSED),
            (u64::MAX, u64::MAX, u64::MAX, false, KEPT_REFUSED),
        ] {
            assert_eq!(
                seen(counted, added, rough).good_for(jobs),
                good_for,
                "{counted} {added} {jobs} {rough}"
            );
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Admit(u64),
        /// The oldest that is under way is stored.
        Store,
        /// A job that waits has started.
        Leave,
        BeginCount,
        /// The store looks at its rows.
        LookAtRows,
        EndCount,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1..4u64).prop_map(Step::Admit),
            3 => Just(Step::Store),
            2 => Just(Step::Leave),
            1 => Just(Step::BeginCount),
            1 => Just(Step::LookAtRows),
            1 => Just(Step::EndCount),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn what_is_known_is_never_too_low_and_the_limit_holds(steps in steps(), before in 0..8u64) {
            const LIMIT: u64 = 8;
            let mut seen = Seen { limit: LIMIT, ..Seen::default() };
            let (mut rows, mut under_way) = (before, std::collections::VecDeque::new());
            let (mut begun, mut looked) = (None, None);
            for step in steps {
                match step {
                    Step::Admit(jobs) => {
                        if seen.admit(jobs) {
                            under_way.push_back(jobs);
                        }
                    }
                    Step::Store => {
                        let stored = under_way.pop_front().unwrap_or(0);
                        rows += stored;
                        seen.under_way -= stored;
                    }
                    Step::Leave => rows = rows.saturating_sub(1),
                    Step::BeginCount => (begun, looked) = (Some(seen.begin(Mono::from_millis(0))), None),
                    Step::LookAtRows => looked = begun.is_some().then_some(rows),
                    Step::EndCount => {
                        if let (Some(begun), Some(rows)) = (begun.take(), looked.take()) {
                            seen.counted(begun, rows);
                        }
                    }
                }
                let waiting = rows + under_way.iter().sum::<u64>();
                prop_assert!(waiting <= LIMIT, "{waiting}");
                if let Some(known) = seen.waiting() {
                    prop_assert!(known >= waiting, "{known} < {waiting}");
                }
            }
        }
    }
}
