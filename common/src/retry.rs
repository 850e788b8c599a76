//! Whether an attempt that failed is tried again, and when. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::OutcomeClass;
use crate::ids::JobId;
use crate::job::Job;

/// Most retries for failures of the infrastructure, whatever the user asked.
pub const INFRA_RETRIES_MAX: u32 = 3;

/// After so many failures of the infrastructure a job is kept apart from others like it. Fewer would keep apart all
/// that one lost worker had; with this a job that has nothing wrong meets one that ends its workers twice at the most,
/// and bears it, as three retries are left for what else there is.
pub const SUSPECT_FROM: u32 = 2;

const _: () = assert!(SUSPECT_FROM < INFRA_RETRIES_MAX);

/// What the user wants tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// 3 makes at most 4 attempts.
    pub max_retries: u32,
    /// Classes of outcome that are tried again.
    pub on: Vec<OutcomeClass>,
    /// The pause before the first retry, doubled for each further one.
    #[serde(with = "crate::job::millis", rename = "backoff_ms")]
    pub backoff: Duration,
    #[serde(with = "crate::job::millis", rename = "backoff_max_ms")]
    pub backoff_max: Duration,
}

mod defaults {
    use super::Duration;

    pub const BACKOFF: Duration = Duration::from_secs(1);
    pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
}

impl RetryPolicy {
    /// What `on` means when the user names no classes: failures of the command, but not those that repeat for
    /// certain, such as a missing command.
    pub const CLASSES_DEFAULT: [OutcomeClass; 4] = [
        OutcomeClass::NonzeroExit,
        OutcomeClass::Signal,
        OutcomeClass::OutOfMemory,
        OutcomeClass::Timeout,
    ];

    pub fn times(max_retries: u32) -> Self {
        Self {
            max_retries,
            ..Self::default()
        }
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_retries: 0,
            on: Self::CLASSES_DEFAULT.to_vec(),
            backoff: defaults::BACKOFF,
            backoff_max: defaults::BACKOFF_MAX,
        }
    }
}

/// Whose budget a retry uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    User,
    Infrastructure,
}

/// The retry after an attempt of `job` ended with `class`, or none when the job has failed for good.
pub fn decide(job: &Job, class: OutcomeClass) -> Option<(Budget, Duration)> {
    let policy = &job.spec.retry;
    match class {
        OutcomeClass::Success | OutcomeClass::QueueTimeout | OutcomeClass::Cancelled => None,
        OutcomeClass::Infrastructure => (job.infra_retries < INFRA_RETRIES_MAX)
            .then(|| (Budget::Infrastructure, pause(job.id, policy, job.infra_retries))),
        OutcomeClass::NonzeroExit
        | OutcomeClass::NotStarted
        | OutcomeClass::Signal
        | OutcomeClass::OutOfMemory
        | OutcomeClass::Timeout => (policy.on.contains(&class) && job.user_retries < policy.max_retries)
            .then(|| (Budget::User, pause(job.id, policy, job.user_retries))),
    }
}

/// Doubles for each retry, held at the maximum, less up to a quarter that depends on job and number alone: jobs that
/// failed together come back apart, and a replay decides the same.
fn pause(job: JobId, policy: &RetryPolicy, retries: u32) -> Duration {
    let doubled = policy
        .backoff
        .saturating_mul(1u32.checked_shl(retries.min(30)).unwrap_or(u32::MAX));
    let full = doubled.min(policy.backoff_max);
    let spread = (job.as_u128() as u64)
        .wrapping_add(u64::from(retries))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        >> 54;
    full - full.mul_f64(spread as f64 / 4_096.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;
    use crate::lifecycle::testing::{job, spec};
    use proptest::prelude::*;

    fn failing(spec: JobSpec, user: u32, infra: u32) -> Job {
        let mut job = job(spec);
        job.user_retries = user;
        job.infra_retries = infra;
        job
    }

    #[test]
    fn three_retries_make_four_attempts() {
        let spec = JobSpec {
            retry: RetryPolicy::times(3),
            ..spec()
        };
        for used in 0..3 {
            assert!(decide(&failing(spec.clone(), used, 0), OutcomeClass::NonzeroExit).is_some());
        }
        assert!(decide(&failing(spec, 3, 0), OutcomeClass::NonzeroExit).is_none());
    }

    #[test]
    fn the_infrastructure_pays_for_its_own_failures() {
        let (budget, _) = decide(&failing(spec(), 0, 0), OutcomeClass::Infrastructure).unwrap();
        assert_eq!(budget, Budget::Infrastructure);
        assert!(
            decide(
                &failing(spec(), 0, INFRA_RETRIES_MAX),
                OutcomeClass::Infrastructure
            )
            .is_none()
        );
    }

    #[test]
    fn what_repeats_for_certain_is_not_retried_unless_asked() {
        let spec = JobSpec {
            retry: RetryPolicy::times(3),
            ..spec()
        };
        assert!(decide(&failing(spec, 0, 0), OutcomeClass::NotStarted).is_none());
    }

    proptest! {
        #[test]
        fn a_pause_stays_within_its_bounds(raw: u128, retries in 0u32..200, backoff in 0u64..100_000, max in 0u64..100_000) {
            let policy = RetryPolicy {
                backoff: Duration::from_millis(backoff), backoff_max: Duration::from_millis(max), ..RetryPolicy::default()
            };
            let pause = pause(JobId::from_u128(raw), &policy, retries);
            prop_assert!(pause <= policy.backoff_max);
            let full = policy.backoff.saturating_mul(1u32.checked_shl(retries.min(30)).unwrap_or(u32::MAX)).min(policy.backoff_max);
            prop_assert!(pause >= full.mul_f64(0.74));
        }
    }
}
