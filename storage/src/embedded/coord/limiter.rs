//! A sliding window that remembers calls, exact as long as a bucket's calls are few.
//!
//! Past [`ENTRIES_EXACT`] remembered calls, neighbours within a small part of the window are merged and leave with the
//! later of them: a bucket's memory is bounded, and an error is always on the side of refusing.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{Quota, RateDecision, RateLimiter, StoreError};
use common::time::Timestamp;

use super::held;

/// Calls of a bucket that are each remembered by their own time.
pub const ENTRIES_EXACT: usize = 256;
/// Beyond them, calls closer than this part of the window are one entry.
pub const PARTS: i64 = 256;
/// Buckets in memory: each 100 calls at the default limit, so 160 MB when every one of them is at its limit.
const BUCKETS_MAX: usize = 100_000;

#[derive(Default)]
pub struct Limiter(Mutex<HashMap<String, Bucket>>);

#[derive(Default)]
struct Bucket {
    /// Time and number of calls, oldest first.
    entries: VecDeque<(i64, u32)>,
    calls: u32,
    /// When the last call leaves the window.
    idle_at: i64,
}

#[async_trait]
impl RateLimiter for Limiter {
    async fn check(&self, bucket: &str, quota: Quota, now: Timestamp) -> Result<RateDecision, StoreError> {
        let now = now.as_millis();
        let mut buckets = held(&self.0);
        if !buckets.contains_key(bucket) {
            if buckets.len() >= BUCKETS_MAX {
                make_room(&mut buckets, now);
            }
            buckets.insert(bucket.to_owned(), Bucket::default());
        }
        Ok(buckets
            .get_mut(bucket)
            .map_or_else(|| refusal(quota, quota.window), |bucket| bucket.check(quota, now)))
    }
}

impl Limiter {
    /// The refusal that a check would make now; none where it would allow the call. Counts nothing.
    pub fn refuses(&self, bucket: &str, quota: Quota, now: Timestamp) -> Option<RateDecision> {
        let mut buckets = held(&self.0);
        let bucket = buckets.get_mut(bucket)?;
        let (window, now) = (window_of(quota), now.as_millis());
        bucket.forget(window, now);
        (bucket.calls >= quota.limit).then(|| refusal(quota, bucket.wait(quota, window, now)))
    }
}

fn window_of(quota: Quota) -> i64 {
    i64::try_from(quota.window.as_millis()).unwrap_or(i64::MAX)
}

impl Bucket {
    fn check(&mut self, quota: Quota, now: i64) -> RateDecision {
        let window = window_of(quota);
        self.forget(window, now);
        if self.calls >= quota.limit {
            return refusal(quota, self.wait(quota, window, now));
        }
        match self.entries.back_mut() {
            Some((at, calls))
                if *at == now || (self.calls as usize >= ENTRIES_EXACT && now - *at < window / PARTS) =>
            {
                *at = now;
                *calls += 1;
            }
            _ => self.entries.push_back((now, 1)),
        }
        self.calls += 1;
        self.idle_at = now.saturating_add(window);
        let remaining = quota.limit - self.calls;
        let retry_after = if remaining > 0 {
            Duration::ZERO
        } else {
            self.wait(quota, window, now)
        };
        RateDecision {
            allowed: true,
            limit: quota.limit,
            remaining,
            retry_after,
        }
    }

    fn forget(&mut self, window: i64, now: i64) {
        while let Some((at, calls)) = self.entries.front().copied()
            && at.saturating_add(window) <= now
        {
            self.entries.pop_front();
            self.calls -= calls;
        }
        // The calendar was turned back: calls of the future leave one window from now, not later.
        for (at, _) in self.entries.iter_mut().rev().take_while(|(at, _)| *at > now) {
            *at = now;
        }
    }

    /// Until enough calls have left for one more to be allowed.
    fn wait(&self, quota: Quota, window: i64, now: i64) -> Duration {
        let mut left = self.calls;
        for (at, calls) in &self.entries {
            left -= calls;
            if left < quota.limit {
                let wait = at.saturating_add(window).saturating_sub(now);
                return Duration::from_millis(u64::try_from(wait).unwrap_or(0));
            }
        }
        quota.window
    }
}

fn refusal(quota: Quota, retry_after: Duration) -> RateDecision {
    RateDecision {
        allowed: false,
        limit: quota.limit,
        remaining: 0,
        retry_after,
    }
}

/// Drops idle buckets; if none is, those that would be idle first, a sixteenth at once so that this stays rare.
fn make_room(buckets: &mut HashMap<String, Bucket>, now: i64) {
    buckets.retain(|_, bucket| bucket.idle_at > now);
    if buckets.len() >= BUCKETS_MAX {
        let mut ends: Vec<i64> = buckets.values().map(|bucket| bucket.idle_at).collect();
        let (_, end, _) = ends.select_nth_unstable(BUCKETS_MAX / 16);
        let end = *end;
        let mut excess = BUCKETS_MAX / 16;
        buckets.retain(|_, bucket| {
            let stays = bucket.idle_at > end || excess == 0;
            excess -= usize::from(!stays);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the pattern of calls, no window holds more than the limit, merged entries or not.
        #[test]
        fn no_window_holds_more_than_the_limit(
            pauses in prop::collection::vec(0i64..40, 1..3_000), limit in 1u32..600,
        ) {
            let quota = Quota { limit, window: Duration::from_millis(10_000) };
            let (mut bucket, mut now, mut allowed) = (Bucket::default(), 0, VecDeque::new());
            for pause in pauses {
                now += pause;
                let decision = bucket.check(quota, now);
                while allowed.front().is_some_and(|at| at + 10_000 <= now) {
                    allowed.pop_front();
                }
                if decision.allowed {
                    allowed.push_back(now);
                }
                prop_assert!(allowed.len() <= limit as usize);
                prop_assert!(limit as usize > ENTRIES_EXACT || decision.allowed || allowed.len() == limit as usize);
                prop_assert!(bucket.entries.len() <= ENTRIES_EXACT + PARTS as usize + 1);
            }
        }
    }

    #[tokio::test]
    async fn a_flood_of_strangers_does_not_grow_memory() {
        let limiter = Limiter::default();
        let quota = Quota {
            limit: 1,
            window: Duration::from_secs(60),
        };
        for stranger in 0..BUCKETS_MAX + 10 {
            let now = Timestamp::from_millis(1);
            limiter.check(&stranger.to_string(), quota, now).await.unwrap();
        }
        assert!(held(&limiter.0).len() <= BUCKETS_MAX);
    }
}
