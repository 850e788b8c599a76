//! How long a stretch of ids is read at a time when the queue is walked: ids begin with the time that they were made at,
//! so a stretch is a span of time, and what was found in the last one tells how long the next one should be.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::ids::JobId;
use common::time::Timestamp;

/// Ids may come from a machine whose clock is ahead; past this all is one stretch.
pub(super) const CLOCKS_AHEAD: Duration = Duration::from_secs(24 * 3_600);

const SPAN_MIN: u64 = 1;
/// A century: the first stretch of a walk, from the beginning of time, comes to now within few steps.
const SPAN_MAX: u64 = 100 * 365 * 24 * 3_600 * 1_000;
const SPAN_FIRST: u64 = 1_000;

/// Bits of an id behind its time.
const TAIL: u32 = 80;

/// In milliseconds. Several walks at a time share it: they only disturb each other's lengths.
pub(super) struct Stretch(AtomicU64);

impl Stretch {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(SPAN_FIRST))
    }

    /// The last id of the stretch behind `after`; none where it is the last stretch.
    pub(super) fn end(&self, after: Option<JobId>, last: Timestamp) -> Option<JobId> {
        let from = after.map_or(0, |after| after.as_u128() >> TAIL);
        let until = from + u128::from(self.0.load(Ordering::Relaxed));
        let last = u128::try_from(last.as_millis()).unwrap_or(0);
        (until < last).then(|| JobId::from_u128((until << TAIL) | ((1 << TAIL) - 1)))
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
        let (stretch, last) = (Stretch::new(), Timestamp::from_millis(10_000));
        let end = stretch.end(Some(at(5_000)), last).unwrap();
        assert!(end > at(6_000) && end < at(6_001));
        assert!(stretch.end(Some(end), last).unwrap() > end);
        assert_eq!(stretch.end(Some(at(9_500)), last), None);
        assert_eq!(stretch.end(Some(at(20_000)), last), None);
    }

    #[test]
    fn from_the_beginning_of_time_few_steps_lead_to_now() {
        let (stretch, last) = (Stretch::new(), Timestamp::from_millis(1_800_000_000_000));
        let (mut from, mut steps) = (None, 0);
        while let Some(end) = stretch.end(from, last) {
            (from, steps) = (Some(end), steps + 1);
            stretch.learn(0, 1_000);
        }
        assert!(steps < 20, "{steps} steps");
        // A crowd makes it short again, and it never vanishes.
        for _ in 0..40 {
            stretch.learn(1_000, 1_000);
        }
        assert!(stretch.end(Some(at(1)), last).unwrap() > at(2));
    }
}
