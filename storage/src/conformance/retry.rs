//! Results and retries through the store.

use std::time::Duration;

use common::attempt::Outcome;
use common::ids::{AttemptId, SessionId};
use common::job::{Epoch, JobState};
use common::lifecycle::{JobEvent, Refusal, accepted_before};
use common::retry::INFRA_RETRIES_MAX;
use common::service::Applied;

use super::Backend;
use super::kit::{apply, claimed, done, finished, load, running, spec, submit, turn};

pub async fn the_same_report_is_accepted_again_and_changes_nothing(backend: &mut impl Backend) {
    let (job, attempt, _) = running(backend, spec()).await;
    let ended = done(backend, job.id, finished(attempt, Outcome::Exited { code: 3 })).await;
    for _ in 0..3 {
        let again = apply(backend, job.id, finished(attempt, Outcome::Exited { code: 3 })).await;
        assert!(
            matches!(again, Applied::Refused(Refusal::AlreadyAccepted, _)),
            "{again:?}"
        );
    }
    let stored = load(backend, job.id).await;
    assert_eq!(stored, ended);
    let hash = stored.attempts[0]
        .end
        .as_ref()
        .unwrap()
        .report_hash
        .clone()
        .unwrap();
    assert!(accepted_before(&stored, attempt, &hash));
}

pub async fn a_lost_worker_is_tried_again_then_given_up(backend: &mut impl Backend) {
    let job = submit(backend, spec()).await;
    for attempt_number in 1..=INFRA_RETRIES_MAX + 1 {
        let attempt = AttemptId::random();
        done(backend, job.id, claimed(attempt, SessionId::random(), 1)).await;
        let expired = JobEvent::Expired {
            attempt,
            epoch: Epoch(1),
        };
        let after = done(backend, job.id, expired.clone()).await;
        assert_eq!(after.attempts_total, attempt_number);
        let again = apply(backend, job.id, expired).await;
        assert!(matches!(again, Applied::Refused(Refusal::StaleAttempt, _)));
        if attempt_number <= INFRA_RETRIES_MAX {
            assert!(
                matches!(after.state, JobState::Scheduled { .. }),
                "{:?}",
                after.state
            );
            turn(backend, Duration::from_secs(600));
            done(backend, job.id, JobEvent::Due).await;
        } else {
            assert!(
                matches!(after.state, JobState::Failed { .. }),
                "{:?}",
                after.state
            );
        }
    }
    assert_eq!(load(backend, job.id).await.infra_retries, INFRA_RETRIES_MAX);
}
