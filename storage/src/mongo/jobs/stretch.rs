//! How long a stretch of ids is read at a time when the queue is walked: ids begin with the time that they were made at,
//! so a stretch is a span of time, and what was found in the last one tells how long the next one should be.

use std::sync::atomic::{AtomicU64, Ordering};

use common::ids::JobId;
use common::time::Timestamp;

const SPAN_MIN: u64 = 1;
/// A century: where nothing is, only the part of the way to now bounds a stride.
const SPAN_MAX: u64 = 100 * 365 * 24 * 3_600 * 1_000;
const SPAN_FIRST: u64 = 1_000;

/// So a stretch holds an eighth of a crowd that came evenly, and some 170 strides lead from the beginning of time to
/// now.
const STRIDES: u128 = 8;

/// Bits of an id behind its time.
const TAIL: u32 = 80;

/// In milliseconds. Several walks at a time share it: they only disturb each other's lengths.
pub(super) struct Stretch(AtomicU64);

impl Stretch {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(SPAN_FIRST))
    }

    /// The last id of the stretch behind `after`; none where it is the last stretch.
    ///
    /// A walk comes from the beginning of time, where nothing is, and must not take the whole crowd of the last minutes
    /// in one stride: each goes a part of the way to now at the most.
    pub(super) fn end(&self, after: Option<JobId>, now: Timestamp) -> Option<JobId> {
        let from = after.map_or(0, |after| after.as_u128() >> TAIL);
        let now = u128::try_from(now.as_millis()).unwrap_or(0);
        let left = now.saturating_sub(from);
        if left == 0 {
            return None;
        }
        let most = (left / STRIDES).max(u128::from(SPAN_FIRST));
        let until = from + u128::from(self.0.load(Ordering::Relaxed)).min(most);
        Some(JobId::from_u128((until << TAIL) | ((1 << TAIL) - 1)))
    }

    /// Half a page is best: a full one has read more than it gave.
    pub(super) fn learn(&self, found: usize, limit: usize) {
        let span = self.0.load(Ordering::Relaxed);
        let next = match found {
            0 => span.saturating_mul(8),
            found if found >= limit => span / 4,
            found if found < limit / 4 => span.saturating_mul(2),
            found if found > limit * 3 / 4 => span - span / 4,
            _ => span,
        };
        self.0.store(next.clamp(SPAN_MIN, SPAN_MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u128) -> JobId {
        JobId::from_u128(millis << TAIL)
    }

    #[test]
    fn stretches_join_and_the_last_one_has_no_end() {
        let (stretch, now) = (Stretch::new(), Timestamp::from_millis(10_000));
        let end = stretch.end(Some(at(5_000)), now).unwrap();
        assert!(end > at(6_000) && end < at(6_001));
        assert!(stretch.end(Some(end), now).unwrap() > end);
        let past = stretch.end(Some(at(9_500)), now).unwrap();
        // Ids may come from a machine whose clock is ahead: what lies behind now is the last stretch.
        assert_eq!(stretch.end(Some(past), now), None);
        assert_eq!(stretch.end(Some(at(20_000)), now), None);
    }

    #[test]
    fn a_walk_that_has_found_nothing_so_far_takes_no_crowd_in_one_stride() {
        let (stretch, now) = (Stretch::new(), 1_800_000_000_000);
        let crowd = now - 107_000;
        let (mut from, mut steps) = (None, 0);
        let met = loop {
            let end = stretch.end(from, Timestamp::from_millis(now)).unwrap();
            stretch.learn(0, 1_000);
            steps += 1;
            if end > at(u128::try_from(crowd).unwrap()) {
                break i64::try_from(end.as_u128() >> TAIL).unwrap() - crowd;
            }
            from = Some(end);
        };
        assert!(met <= 107_000 / 6, "{met} ms of the crowd at once");
        assert!(steps < 200, "{steps} steps");
    }

    #[test]
    fn from_the_beginning_of_time_few_steps_lead_to_now() {
        let (stretch, now) = (Stretch::new(), Timestamp::from_millis(1_800_000_000_000));
        let (mut from, mut steps) = (None, 0);
        while let Some(end) = stretch.end(from, now) {
            (from, steps) = (Some(end), steps + 1);
            stretch.learn(0, 1_000);
        }
        assert!(steps < 250, "{steps} steps");
        // A crowd makes it short again, and it never vanishes.
        for _ in 0..40 {
            stretch.learn(1_000, 1_000);
        }
        assert!(stretch.end(Some(at(1)), now).unwrap() > at(2));
    }
}
