//! Order of the waiting: which class and account a job waits in, and its place there. Pure.
//!
//! One ordered set for each lane (placement class, account). The account is picked at the moment of placement, by
//! weight; within the lane the lowest score goes first: priority band, then time queued. Scores are exact in a double
//! (Redis keeps them as one), because bands are 2^42 ms apart and there are few of them.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{AccountId, JobId};
use crate::job::{Job, JobSpec, JobState, Priority};

/// Milliseconds between two priority bands: 139 years, so that no time queued reaches into the next band.
const BAND: u64 = 1 << 42;

/// Jobs that every worker would judge alike: pool, labels wanted, and size rounded up in steps of the square root
/// of 2. A job that no worker fits never stands before one of another class that some worker does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassKey(std::sync::Arc<str>);

impl ClassKey {
    pub fn of(spec: &JobSpec) -> Self {
        let size = spec.resources;
        let labels = if spec.worker_labels.is_empty() {
            String::new()
        } else {
            let text = serde_json::to_vec(&spec.worker_labels).expect("a map of strings is plain data");
            format!(
                "#{}",
                &data_encoding::HEXLOWER.encode(&Sha256::digest(text))[..16]
            )
        };
        let text = format!(
            "{}/c{}m{}d{}{labels}",
            spec.pool,
            size_step(size.cpu_millis),
            size_step(size.memory_mib),
            size_step(size.disk_mib),
        );
        Self(text.into())
    }

    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The smallest `n` with `2^(n/2) >= value`: 64 steps hold every size.
pub fn size_step(value: u32) -> u32 {
    // 128 bits: the next power of two after the square of the largest value is 2^64
    let squared = u128::from(value.max(1)).pow(2);
    squared.next_power_of_two().trailing_zeros()
}

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
        Some(Self {
            lane: Lane {
                class: ClassKey::of(&job.spec),
                account: job.account.clone(),
            },
            score: score(job.spec.priority, since.as_millis()),
            job: job.id,
        })
    }
}

fn score(priority: Priority, since_ms: i64) -> u64 {
    let band = u64::try_from(i16::from(Priority::MAX.0) - i16::from(priority.0)).unwrap_or(0);
    band * BAND + u64::try_from(since_ms).unwrap_or(0).min(BAND - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::testing::{job, spec};
    use crate::time::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_score_is_exact_in_a_double(priority in -10i8..=10, since in 0i64..(1 << 42)) {
            let score = score(Priority(priority), since);
            prop_assert_eq!((score as f64) as u64, score);
        }

        #[test]
        fn a_step_holds_its_size_and_is_tight(value in 1u32..) {
            let step = size_step(value);
            let least = 2f64.powf(f64::from(step) / 2.0);
            prop_assert!(least * 1.000_001 >= f64::from(value));
            prop_assert!(step == 0 || 2f64.powf(f64::from(step - 1) / 2.0) < f64::from(value));
            prop_assert!(step <= 64);
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
    }

    #[test]
    fn other_labels_are_another_class() {
        let mut labelled = spec();
        labelled.worker_labels.insert("gpu".into(), "yes".into());
        assert_ne!(ClassKey::of(&spec()), ClassKey::of(&labelled));
    }
}
