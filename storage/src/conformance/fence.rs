//! Fences: the attempt's id against agents, the term against leaders, the revision against everybody.

use common::attempt::Outcome;
use common::ids::{AttemptId, SessionId};
use common::job::{Epoch, JobState};
use common::lifecycle::{JobEvent, Refusal};
use common::service::Applied;
use common::store::{CommitError, Held, Holding};

use super::Backend;
use super::kit::{apply, claimed, done, finished, jobs, load, running, spec, submit};

pub async fn a_stale_attempt_changes_nothing(backend: &mut impl Backend) {
    let (job, attempt, _) = running(backend, spec()).await;
    let stale = AttemptId::random();
    for event in [
        JobEvent::Started { attempt: stale },
        finished(stale, Outcome::Exited { code: 0 }),
        JobEvent::Absent { attempt: stale },
        JobEvent::Expired {
            attempt: stale,
            epoch: Epoch(9),
        },
    ] {
        let answer = apply(backend, job.id, event).await;
        assert!(
            matches!(answer, Applied::Refused(Refusal::StaleAttempt, _)),
            "{answer:?}"
        );
        assert_eq!(load(backend, job.id).await, job);
    }
    let job = done(backend, job.id, finished(attempt, Outcome::Exited { code: 0 })).await;
    assert!(matches!(job.state, JobState::Succeeded { .. }));
    let late = apply(backend, job.id, finished(attempt, Outcome::Exited { code: 1 })).await;
    assert!(matches!(late, Applied::Refused(Refusal::StaleAttempt, _)));
    assert_eq!(load(backend, job.id).await, job);
}

pub async fn an_old_leader_cannot_claim_or_expire(backend: &mut impl Backend) {
    let (job, attempt, _) = running(backend, spec()).await;
    let job = done(backend, job.id, JobEvent::TakenOver { epoch: Epoch(5) }).await;
    let old = JobEvent::Expired {
        attempt,
        epoch: Epoch(4),
    };
    let answer = apply(backend, job.id, old).await;
    assert!(
        matches!(answer, Applied::Refused(Refusal::StaleEpoch { .. }, _)),
        "{answer:?}"
    );
    assert_eq!(load(backend, job.id).await, job);
    // The agent knows nothing of terms: its result is as good as before.
    let job = done(backend, job.id, finished(attempt, Outcome::Exited { code: 0 })).await;
    assert!(job.state.is_terminal());
}

pub async fn a_take_over_voids_what_the_old_leader_read(backend: &mut impl Backend) {
    let (seen, attempt, _) = running(backend, spec()).await;
    let taken = done(backend, seen.id, JobEvent::TakenOver { epoch: Epoch(2) }).await;
    assert!(taken.revision > seen.revision);
    let service = jobs(backend);
    let old = JobEvent::Expired {
        attempt,
        epoch: Epoch(1),
    };
    let step = service.decide(&seen, old).unwrap();
    let answers = service.commit(vec![(&seen, step)]).await.unwrap();
    assert_eq!(answers, [Err(CommitError::Conflict)]);
    assert_eq!(load(backend, seen.id).await, taken);
}

pub async fn terms_only_rise(backend: &mut impl Backend) {
    let terms = backend.stores().terms;
    assert_eq!(terms.current().await.unwrap(), Epoch(0));
    let begun = futures_util::future::join_all((0..20).map(|_| terms.begin())).await;
    let mut begun: Vec<Epoch> = begun.into_iter().map(Result::unwrap).collect();
    begun.sort_unstable();
    begun.dedup();
    // One may be skipped: terms are compared, never counted.
    assert_eq!(begun.len(), 20, "{begun:?}");
    let current = terms.current().await.unwrap();
    assert!(
        begun[0] > Epoch(0) && begun[19] <= current,
        "{begun:?} {current:?}"
    );
    assert!(terms.begin().await.unwrap() > current);
}

pub async fn held_jobs_are_found_by_term_and_session(backend: &mut impl Backend) {
    let (first, _, one) = running(backend, spec()).await;
    let (second, attempt, two) = running(backend, spec()).await;
    let assigned = submit(backend, spec()).await;
    done(backend, assigned.id, claimed(AttemptId::random(), two, 3)).await;
    submit(backend, spec()).await;

    let store = backend.stores().jobs;
    let find = async |held: Held| {
        let mut found = Vec::new();
        // One by one, to see that pages join.
        while let Some(job) = store.held(&held, found.last().copied(), 1).await.unwrap().pop() {
            found.push(job.id);
        }
        found
    };
    let mut all = vec![first.id, second.id, assigned.id];
    all.sort_unstable();
    assert_eq!(find(Held::Any).await, all);
    let mut olds = vec![first.id, second.id];
    olds.sort_unstable();
    assert_eq!(find(Held::BeforeTerm(Epoch(3))).await, olds);
    assert_eq!(find(Held::Sessions(vec![one])).await, [first.id]);
    assert_eq!(find(Held::Sessions(vec![SessionId::random()])).await, []);
    assert_eq!(find(Held::Undelivered(vec![one, two])).await, [assigned.id]);
    assert_eq!(find(Held::AllUndelivered).await, [assigned.id]);

    done(backend, second.id, finished(attempt, Outcome::Exited { code: 0 })).await;
    assert_eq!(find(Held::Sessions(vec![two])).await, [assigned.id]);
}

pub async fn holdings_are_what_held_rows_come_to(backend: &mut impl Backend) {
    let (first, _, one) = running(backend, spec()).await;
    let (_, attempt, two) = running(backend, spec()).await;
    let ended = done(backend, first.id, JobEvent::TakenOver { epoch: Epoch(2) }).await;
    let assigned = submit(backend, spec()).await;
    done(backend, assigned.id, claimed(AttemptId::random(), two, 3)).await;
    let store = backend.stores().jobs;
    for sessions in [vec![one], vec![two], vec![SessionId::random()]] {
        let rows = store
            .held(&Held::Sessions(sessions.clone()), None, 10)
            .await
            .unwrap();
        let expected: Vec<Holding> = rows.iter().filter_map(Holding::of).collect();
        // Many at once, as heartbeats come.
        let asked = (0..20).map(|_| store.holdings(sessions[0]));
        for found in futures_util::future::join_all(asked).await {
            let mut found = found.unwrap();
            found.sort_unstable_by_key(|holding| holding.job);
            assert_eq!(found, expected);
        }
    }
    let rows = store.held(&Held::Any, None, 10).await.unwrap();
    let mut all = store.all_holdings().await.unwrap();
    all.sort_unstable_by_key(|holding| holding.job);
    assert_eq!(all, rows.iter().filter_map(Holding::of).collect::<Vec<_>>());
    assert_eq!(all.len(), 3);
    let attempt_of = |id| {
        all.iter()
            .find(|holding| holding.job == id)
            .map(|holding| holding.attempt)
    };
    assert_eq!(attempt_of(ended.id), ended.state.attempt());
    done(
        backend,
        rows.iter()
            .find(|job| job.state.attempt() == Some(attempt))
            .unwrap()
            .id,
        finished(attempt, Outcome::Exited { code: 0 }),
    )
    .await;
    assert_eq!(store.holdings(two).await.unwrap().len(), 1);
}
