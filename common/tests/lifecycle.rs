//! Laws of `lifecycle::step` over any sequence of events, legal or not.

#![allow(clippy::unwrap_used)] // a test that cannot begin may end at once

use common::attempt::{AttemptReport, NotStartedReason, Outcome};
use common::ids::{AttemptId, SessionId, UserId, WorkerId};
use common::job::{
    ATTEMPTS_KEPT, CancelRequest, CancelledBy, Epoch, Job, JobSpec, JobState, Lease, StateName,
};
use common::lifecycle::testing::{job, lease, spec};
use common::lifecycle::{JobEvent, Refusal, step};
use common::log::MissingLogs;
use common::retry::{INFRA_RETRIES_MAX, RetryPolicy};
use common::time::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Exited { code: 0 }),
        (1..256i32).prop_map(|code| Outcome::Exited { code }),
        Just(Outcome::NotStarted {
            reason: NotStartedReason::NoSuchCommand,
            message: String::new()
        }),
        Just(Outcome::Signaled { signal: 9 }),
        Just(Outcome::OomKilled),
        Just(Outcome::RunTimeout),
        Just(Outcome::ImageUnavailable {
            message: String::new()
        }),
        Just(Outcome::WorkerLost),
        Just(Outcome::InfraError {
            message: String::new()
        }),
    ]
}

fn events() -> impl Strategy<Value = JobEvent> {
    let attempt = (1u128..4).prop_map(AttemptId::from_u128);
    let epoch = (0u64..4).prop_map(Epoch);
    prop_oneof![
        3 => Just(JobEvent::Due),
        4 => (attempt.clone(), epoch.clone()).prop_map(|(attempt, epoch)| JobEvent::Claimed {
            attempt,
            lease: Lease { worker: WorkerId::new("w").unwrap(), session: SessionId::from_u128(1) },
            epoch,
        }),
        2 => attempt.clone().prop_map(|attempt| JobEvent::Started { attempt }),
        4 => (attempt.clone(), outcomes()).prop_map(|(attempt, outcome)| JobEvent::Finished {
            attempt,
            report: Box::new(AttemptReport::bare(outcome)),
            logs_missing: MissingLogs::default(),
        }),
        1 => attempt.clone().prop_map(|attempt| JobEvent::Absent { attempt }),
        2 => (attempt, epoch.clone()).prop_map(|(attempt, epoch)| JobEvent::Expired { attempt, epoch }),
        1 => Just(JobEvent::QueueDeadlinePassed),
        1 => epoch.prop_map(|epoch| JobEvent::TakenOver { epoch }),
        1 => Just(JobEvent::CancelAsked(cancel())),
        1 => Just(JobEvent::Deleted { by: CancelledBy::System }),
    ]
}

fn cancel() -> CancelRequest {
    CancelRequest {
        by: CancelledBy::User(UserId::new("alice").unwrap()),
        why: None,
        at: NOW,
    }
}

fn eager() -> JobSpec {
    let retry = RetryPolicy {
        backoff: Duration::ZERO,
        ..RetryPolicy::times(2)
    };
    JobSpec { retry, ..spec() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn every_law_holds_after_every_event(events in proptest::collection::vec(events(), 0..60)) {
        let mut now = job(eager());
        for event in events {
            let before = now.clone();
            let refused = match step(&before, event.clone(), NOW) {
                Ok(step) => { now = step.job; false }
                Err(_) => true,
            };
            if refused { continue; }

            prop_assert_eq!(now.revision.0, before.revision.0 + 1, "each change raises the revision once");
            prop_assert!(now.epoch >= before.epoch, "terms never go back");
            prop_assert!(now.attempts.len() <= ATTEMPTS_KEPT);
            prop_assert!(now.user_retries <= 2 && now.infra_retries <= INFRA_RETRIES_MAX);
            prop_assert!(now.attempts_total <= 1 + 2 + INFRA_RETRIES_MAX, "I11: the budget of attempts");
            if before.state.is_terminal() {
                prop_assert_eq!(&now.state, &before.state, "I3: an end is final");
            }
            if before.cancel.is_some() {
                prop_assert_eq!(&now.cancel, &before.cancel, "the first request to cancel stands");
                prop_assert!(now.state.held().is_some() || now.state.name() == StateName::Cancelled,
                    "I8: after cancel is asked a job is ended by its attempt, as cancelled");
            }
            if let JobEvent::Finished { attempt, .. } | JobEvent::Started { attempt } | JobEvent::Expired { attempt, .. } = event {
                prop_assert_eq!(before.state.attempt(), Some(attempt), "I6: only the current attempt is listened to");
            }
            if let Some((attempt, held)) = now.state.held() {
                let kept = now.attempts.last().unwrap();
                prop_assert_eq!((kept.id, &kept.lease), (attempt, held));
                prop_assert!(kept.end.is_none());
            }
        }
    }
}

fn claimed() -> (Job, AttemptId) {
    let attempt = AttemptId::random();
    let event = JobEvent::Claimed {
        attempt,
        lease: lease("w"),
        epoch: Epoch(1),
    };
    (step(&job(eager()), event, NOW).unwrap().job, attempt)
}

fn finished(attempt: AttemptId, outcome: Outcome) -> JobEvent {
    JobEvent::Finished {
        attempt,
        report: Box::new(AttemptReport::bare(outcome)),
        logs_missing: MissingLogs::default(),
    }
}

#[test]
fn the_same_report_again_is_known_and_another_one_is_stale() {
    let (held, attempt) = claimed();
    let ended = step(&held, finished(attempt, Outcome::Exited { code: 0 }), NOW)
        .unwrap()
        .job;
    assert_eq!(ended.state, JobState::Succeeded { at: NOW });
    let again = step(&ended, finished(attempt, Outcome::Exited { code: 0 }), NOW);
    assert_eq!(again.unwrap_err(), Refusal::AlreadyAccepted);
    let other = step(&ended, finished(attempt, Outcome::Exited { code: 1 }), NOW);
    assert_eq!(other.unwrap_err(), Refusal::StaleAttempt);
}

#[test]
fn a_cancelled_job_ends_as_cancelled_whatever_its_attempt_says() {
    for outcome in [
        Outcome::Exited { code: 0 },
        Outcome::Exited { code: 1 },
        Outcome::WorkerLost,
    ] {
        let (held, attempt) = claimed();
        let asked = step(&held, JobEvent::CancelAsked(cancel()), NOW).unwrap().job;
        assert!(
            asked.state.held().is_some(),
            "cancel is a flag until the agent confirms"
        );
        let ended = step(&asked, finished(attempt, outcome), NOW).unwrap().job;
        assert_eq!(
            ended.state,
            JobState::Cancelled {
                at: NOW,
                by: cancel().by
            }
        );
    }
}

#[test]
fn a_lost_worker_costs_the_user_no_retry() {
    let (held, attempt) = claimed();
    let job = step(
        &held,
        JobEvent::Expired {
            attempt,
            epoch: Epoch(1),
        },
        NOW,
    )
    .unwrap()
    .job;
    assert_eq!((job.user_retries, job.infra_retries), (0, 1));
    assert_eq!(job.state.name(), StateName::Scheduled);
}

#[test]
fn an_earlier_leader_can_neither_claim_nor_expire() {
    let (held, attempt) = claimed();
    let taken = step(&held, JobEvent::TakenOver { epoch: Epoch(2) }, NOW)
        .unwrap()
        .job;
    let expire = step(
        &taken,
        JobEvent::Expired {
            attempt,
            epoch: Epoch(1),
        },
        NOW,
    );
    assert_eq!(expire.unwrap_err(), Refusal::StaleEpoch { found: Epoch(2) });
}

#[test]
fn waiting_ends_with_the_queue_limit() {
    let mut waiting = job(eager());
    let mut spec = eager();
    spec.limits.queue = Some(Duration::from_secs(5));
    waiting.spec = spec.into();
    let early = step(
        &waiting,
        JobEvent::QueueDeadlinePassed,
        Timestamp::from_millis(4_999),
    );
    assert_eq!(early.unwrap_err(), Refusal::Unchanged);
    let late = step(
        &waiting,
        JobEvent::QueueDeadlinePassed,
        Timestamp::from_millis(5_000),
    )
    .unwrap()
    .job;
    assert!(
        matches!(late.state, JobState::Failed { ref cause, .. } if cause.outcome == Outcome::QueueTimeout)
    );
}
