//! How many jobs an account may have waiting, without a count for each submission.
//!
//! What an account has waiting is the last count of its rows plus what was let in since that began; what has left the
//! queue meanwhile is not seen. A count is a task of its own, one at a time, that nobody's answer hangs on for long: it may
//! take longer than anybody is to wait. Where the account has room, nobody waits for one: it is made beside the submission
//! when the last one is old. Only what would be refused waits for one, and so does an account's first, for [`WAIT_MAX`].
//!
//! So one replica alone lets in no more than the limit, save what a client that hung up had under way while a count began.
//! Another replica's submissions are seen with the next count: each further replica may let in what is sent to it within
//! [`KEPT`] (longer where a count takes longer), or within [`KEPT_FAR`] while less than half of the limit is used. Retries
//! are not asked: a job that was let in stays in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::AccountLimits;
use common::error::ServiceError;
use common::ids::AccountId;
use common::store::{StoreError, Stores};
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use tokio::sync::watch;

/// How long a count is good near the limit.
const KEPT: Duration = Duration::from_secs(2);

/// And how long while less than half of the limit is used.
const KEPT_FAR: Duration = Duration::from_secs(30);

/// Counting takes at most this part of the time: the longer a count takes, the longer it is good.
const COUNTING_PART: u32 = 20;

/// A refusal is not counted anew more often than this, so that whoever is refused and goes on asking costs little.
const KEPT_REFUSED: Duration = Duration::from_millis(200);

/// For whoever is refused, counting takes at most this part of the time, and a refusal is counted anew after this at the
/// latest: there may be room again.
const COUNTING_PART_REFUSED: u32 = 4;
const KEPT_REFUSED_MAX: Duration = Duration::from_secs(10);

/// How long a submission waits for a count: the interface answers within 3 s.
const WAIT_MAX: Duration = Duration::from_millis(2_500);

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
    /// Held by the task that counts: one at a time.
    counting: tokio::sync::Mutex<()>,
    /// Told of each count's end, well or not.
    ended: watch::Sender<()>,
}

/// What is known of an account.
#[derive(Default, Clone, Copy)]
struct Seen {
    limit: u64,
    limit_at: Option<Mono>,
    /// None before the first count that ended well.
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

#[derive(Debug, thiserror::Error)]
#[error("what the account has waiting is not known yet")]
struct NotKnown;

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
    /// [`ServiceError::LimitReached`] past the account's limit. The store's, where it does not answer, or what the account
    /// has waiting was never counted and takes longer than [`WAIT_MAX`] to count.
    pub async fn admit(&self, account: &AccountId, jobs: usize) -> Result<Admission, ServiceError> {
        let room = self.room(account);
        let jobs = jobs as u64;
        self.look_at_limit(account, &room).await?;
        if let Some(admission) = room.admit(jobs) {
            if room.seen().is_due(0, self.clock.mono()) {
                self.count(account, &room);
            }
            return Ok(admission);
        }
        if room.seen().is_due(jobs, self.clock.mono()) {
            // What is known stands where a count takes too long; but not where the store answers nothing at all. The look
            // that tells the two apart goes beside the wait: one after the other they would take too long.
            let (admitted, looked) = tokio::join!(
                tokio::time::timeout(WAIT_MAX, self.admit_once_counted(account, &room, jobs)),
                self.stores.identity.account(account)
            );
            room.seen().away = looked.is_err();
            if let Ok(Some(admission)) = admitted {
                return Ok(admission);
            }
        }
        let seen = *room.seen();
        if seen.away || seen.counted.is_none() {
            return Err(StoreError::Unavailable(Box::new(NotKnown)).into());
        }
        Err(refusal(&seen, jobs))
    }

    /// None where it stays refused.
    async fn admit_once_counted(
        &self,
        account: &AccountId,
        room: &Arc<Room>,
        jobs: u64,
    ) -> Option<Admission> {
        let mut ended = room.ended.subscribe();
        while room.seen().is_due(jobs, self.clock.mono()) {
            self.count(account, room);
            // The other end is the room's, which is here.
            ended.changed().await.ok()?;
            if let Some(admission) = room.admit(jobs) {
                return Some(admission);
            }
        }
        None
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

    /// Begins a count unless one is under way. It goes on when whoever wanted it has gone.
    fn count(&self, account: &AccountId, room: &Arc<Room>) {
        if room.counting.try_lock().is_err() {
            return;
        }
        let (jobs, clock) = (Arc::clone(&self.stores.jobs), Arc::clone(&self.clock));
        let (account, room) = (account.clone(), Arc::clone(room));
        self.tasks.spawn("count of what waits", async move {
            let Ok(counting) = room.counting.try_lock() else {
                return;
            };
            let begun = room.seen().begin(clock.mono());
            let counted = jobs.count_waiting(&account).await;
            room.seen().tried(begun, clock.mono());
            match counted {
                Ok(counted) => room.seen().counted(begun, counted),
                Err(error) => tracing::warn!(%error, %account, "what the account has waiting is not counted"),
            }
            // First: whoever is told may want another count at once.
            drop(counting);
            room.ended.send_replace(());
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
    /// None before the first count.
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
        self.rough = self.added > 0;
        self.away = false;
    }

    /// Whether it is to be counted anew, for somebody who wants room for as many jobs.
    fn is_due(&self, jobs: u64, now: Mono) -> bool {
        let is_old = |at| now.since(at) >= self.good_for(jobs);
        self.tried_at.is_none_or(is_old)
    }

    fn good_for(&self, jobs: u64) -> Duration {
        if !self.has_room(jobs) {
            // Nobody is refused by what may be too high.
            match self.rough {
                true => Duration::ZERO,
                false => KEPT_REFUSED.max((COUNTING_PART_REFUSED * self.took).min(KEPT_REFUSED_MAX)),
            }
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
            2 => Just(Step::BeginCount),
            2 => Just(Step::LookAtRows),
            2 => Just(Step::EndCount),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn what_is_known_is_never_too_low_and_the_limit_holds(steps in steps(), before in 0..8u64) {
            const LIMIT: u64 = 8;
            let mut seen = Seen { limit: LIMIT, counted: Some(before), ..Seen::default() };
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
