//! Order of the waiting: which class and account a job waits in, and its place there. Pure.
//!
//! One ordered set for each lane (placement class, account). The account is picked at the moment of placement, by
//! weight; within the lane the lowest score goes first: priority band, then time queued. Scores are exact in a double
//! (Redis keeps them as one), because bands are 2^42 ms apart and there are few of them.

mod class;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, JobId, WorkerId};
use crate::job::{Job, JobState, Priority, Resources};
use crate::time::Timestamp;

pub use self::class::{CLASSES_PER_ACCOUNT_MAX, ClassKey, size_step};

/// Milliseconds between two priority bands: 139 years, so that no time queued reaches into the next band.
const BAND: u64 = 1 << 42;

/// After this long in the queue, others having been placed past it, a job gets a worker kept free for it.
pub const RESERVE_AFTER_DEFAULT: Duration = Duration::from_secs(60);

/// How long what is told of room held back stands at the most in a queue that programs share, unless it is told again:
/// a few times the interval at which a leader repeats it. A leader that stood still past its lock may speak after its
/// successor has said that nothing is held back, and nobody would ever contradict it.
pub const HELD_BACK_LIFE: Duration = Duration::from_secs(20);

/// Where jobs of one class and account wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    pub class: ClassKey,
    pub account: AccountId,
}

/// A place in the queue. It can be made anew from the row at any time: the queue holds nothing of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    pub lane: Lane,
    /// Lowest first; ties by id, which follows the time of submission.
    pub score: u64,
    pub job: JobId,
}

impl QueueEntry {
    /// The place of a queued job; none for one that does not wait in the queue.
    pub fn of(job: &Job) -> Option<Self> {
        let JobState::Queued { since } = job.state else {
            return None;
        };
        let class = ClassKey::of(&job.spec);
        Some(Self {
            lane: Lane {
                class: if job.is_suspect() {
                    class.of_suspects()
                } else {
                    class
                },
                account: job.account.clone(),
            },
            score: score(job.spec.priority, since.as_millis()),
            job: job.id,
        })
    }

    /// Since when the job has been waiting, as its row says it.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.score % BAND).unwrap_or(i64::MAX))
    }
}

/// Room on a worker that the leader holds back for a job that has waited too long. Told, so that others' waiting can be
/// explained; nothing is decided by what was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    pub worker: WorkerId,
    pub job: JobId,
    pub account: AccountId,
    pub resources: Resources,
    pub since: Timestamp,
}

fn score(priority: Priority, since_ms: i64) -> u64 {
    let band = u64::try_from(i16::from(Priority::MAX.0) - i16::from(priority.0)).unwrap_or(0);
    band * BAND + u64::try_from(since_ms).unwrap_or(0).min(BAND - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::{job, spec};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_score_is_exact_in_a_double(priority in -10i8..=10, since in 0i64..(1 << 42)) {
            let score = score(Priority(priority), since);
            prop_assert_eq!((score as f64) as u64, score);
        }

        #[test]
        fn priority_goes_before_time(early in 0i64..(1 << 41), late in 0i64..(1 << 41)) {
            prop_assert!(score(Priority(1), late) < score(Priority(0), early));
        }
    }

    #[test]
    fn first_in_is_first_out() {
        let (mut early, mut late) = (job(spec()), job(spec()));
        early.state = JobState::Queued {
            since: Timestamp::from_millis(5),
        };
        late.state = JobState::Queued {
            since: Timestamp::from_millis(6),
        };
        let (early, late) = (QueueEntry::of(&early).unwrap(), QueueEntry::of(&late).unwrap());
        assert_eq!(early.lane, late.lane);
        assert!(early.score < late.score);
        assert_eq!(late.since(), Timestamp::from_millis(6));
    }
}
