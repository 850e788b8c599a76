//! Cancel wins or loses, never both.

use common::attempt::Outcome;
use common::ids::{AttemptId, SessionId};
use common::job::{CancelRequest, CancelledBy, Job, JobState};
use common::lifecycle::{JobEvent, Refusal};
use common::service::Applied;
use common::store::Held;
use common::time::Clock;

use super::Backend;
use super::kit::{apply, claimed, done, finished, jobs, load, running, spec, submit};

fn asked(backend: &impl Backend) -> JobEvent {
    JobEvent::CancelAsked(CancelRequest {
        by: CancelledBy::System,
        why: None,
        at: backend.clock().now(),
    })
}

pub async fn cancel_wins_or_loses_atomically(backend: &mut impl Backend) {
    for round in 0..40 {
        let (job, attempt, _) = running(backend, spec()).await;
        let service = jobs(backend);
        let finish = service.apply(job.id, finished(attempt, Outcome::Exited { code: 0 }));
        let cancel = service.apply(job.id, asked(backend));
        // Each goes first in half of the rounds; which one wins is the store's to decide.
        let (finish, cancel) = if round % 2 == 0 {
            tokio::join!(finish, cancel)
        } else {
            let (cancel, finish) = tokio::join!(cancel, finish);
            (finish, cancel)
        };
        assert!(
            matches!(finish.unwrap(), Applied::Done(_)),
            "the result of a current attempt is taken"
        );
        let stored = load(backend, job.id).await;
        match cancel.unwrap() {
            Applied::Done(_) => assert!(
                is_cancelled(&stored),
                "cancel was acknowledged: {:?}",
                stored.state
            ),
            Applied::Refused(Refusal::Ended(_), _) => {
                assert!(
                    matches!(stored.state, JobState::Succeeded { .. }),
                    "{:?}",
                    stored.state
                );
            }
            other => panic!("neither won nor lost: {other:?}"),
        }
    }
}

pub async fn a_waiting_job_is_cancelled_at_once(backend: &mut impl Backend) {
    let job = submit(backend, spec()).await;
    let cancelled = done(backend, job.id, asked(backend)).await;
    assert!(is_cancelled(&cancelled));
    assert_eq!(backend.stores().queue.len().await.unwrap(), 0);
    let claim = apply(
        backend,
        job.id,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    assert!(matches!(claim, Applied::Refused(Refusal::Ended(_), _)));
    let again = apply(backend, job.id, asked(backend)).await;
    assert!(matches!(again, Applied::Refused(Refusal::Ended(_), _)));
}

pub async fn a_running_job_is_asked_to_end_and_found_undelivered(backend: &mut impl Backend) {
    let (job, attempt, session) = running(backend, spec()).await;
    let store = backend.stores().jobs;
    let undelivered = Held::Undelivered(vec![session]);
    assert_eq!(store.held(&undelivered, None, 10).await.unwrap(), []);
    let asked_for = done(backend, job.id, asked(backend)).await;
    assert!(matches!(asked_for.state, JobState::Running { .. }));
    assert_eq!(store.held(&undelivered, None, 10).await.unwrap(), [asked_for]);
    let ended = done(backend, job.id, finished(attempt, Outcome::Exited { code: 0 })).await;
    assert!(is_cancelled(&ended));
    assert_eq!(store.held(&undelivered, None, 10).await.unwrap(), []);
}

const fn is_cancelled(job: &Job) -> bool {
    matches!(job.state, JobState::Cancelled { .. })
}
