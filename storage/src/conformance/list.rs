//! Lists, newest first, by pages.

use std::time::Duration;

use common::ids::{AttemptId, JobId, SessionId};
use common::job::{CancelledBy, Job, JobSpec, StateName};
use common::lifecycle::{JobEvent, testing};
use common::store::JobQuery;
use common::time::Clock;

use super::Backend;
use super::kit::{claimed, done, spec, submit, submit_as, turn};

fn of_acme() -> JobQuery {
    JobQuery {
        account: Some(testing::account("acme")),
        limit: 100,
        ..JobQuery::default()
    }
}

async fn pages(backend: &impl Backend, query: &JobQuery) -> Vec<JobId> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = backend.stores().jobs.list(&query).await.unwrap();
        assert!(page.items.len() <= query.limit);
        found.extend(page.items.iter().map(|job: &Job| job.id));
        match page.next {
            None => return found,
            next => query.before = next,
        }
    }
}

pub async fn pages_neither_lose_nor_repeat_under_inserts(backend: &mut impl Backend) {
    let mut expected = Vec::new();
    for number in 0..40 {
        let job = submit(backend, spec()).await;
        if number % 3 == 0 {
            done(
                backend,
                job.id,
                claimed(AttemptId::random(), SessionId::random(), 1),
            )
            .await;
        }
        expected.push(job.id);
    }
    turn(backend, Duration::from_millis(1));
    expected.sort_unstable_by(|a, b| b.cmp(a));
    let query = JobQuery {
        limit: 7,
        ..of_acme()
    };
    let reading = pages(backend, &query);
    let writing = async {
        for _ in 0..40 {
            submit(backend, spec()).await;
        }
    };
    let (mut found, ()) = tokio::join!(reading, writing);
    // What came while the first page was read may stand before the rest, never within it.
    found.retain(|id| *id <= expected[0]);
    assert_eq!(found, expected);
    let everybody = JobQuery {
        account: None,
        limit: 7,
        ..JobQuery::default()
    };
    assert_eq!(pages(backend, &everybody).await.len(), 80);
}

pub async fn filters_hold(backend: &mut impl Backend) {
    let labelled = |name: &str, value: &str| JobSpec {
        labels: [(name.to_owned(), value.to_owned())].into(),
        ..spec()
    };
    let blue = submit(backend, labelled("colour", "blue")).await;
    let red = submit(backend, labelled("colour", "red")).await;
    let assigned = submit(backend, spec()).await;
    done(
        backend,
        assigned.id,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    let hidden = submit(backend, spec()).await;
    let deleted = JobEvent::Deleted {
        by: CancelledBy::System,
    };
    done(backend, hidden.id, deleted).await;
    let foreign = submit_as(backend, "globex", labelled("colour", "blue")).await;

    let sorted = |mut ids: Vec<JobId>| {
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids
    };
    let with = |states: &[StateName], labels: &[(&str, &str)]| JobQuery {
        states: states.to_vec(),
        labels: labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        limit: 1,
        ..of_acme()
    };
    let all = sorted(vec![blue.id, red.id, assigned.id]);
    assert_eq!(pages(backend, &with(&[], &[])).await, all);
    assert_eq!(
        pages(backend, &with(&[StateName::Assigned], &[])).await,
        [assigned.id]
    );
    assert_eq!(pages(backend, &with(&[StateName::Cancelled], &[])).await, []);
    let waiting = with(&[StateName::Queued, StateName::Failed], &[]);
    assert_eq!(pages(backend, &waiting).await, sorted(vec![blue.id, red.id]));
    assert_eq!(pages(backend, &with(&[], &[("colour", "blue")])).await, [blue.id]);
    assert_eq!(pages(backend, &with(&[], &[("colour", "bl")])).await, []);
    let everybodys = JobQuery {
        account: None,
        ..with(&[], &[("colour", "blue")])
    };
    assert_eq!(
        pages(backend, &everybodys).await,
        sorted(vec![blue.id, foreign.id])
    );
    let active = JobQuery {
        account: None,
        ..with(&[StateName::Queued, StateName::Assigned], &[])
    };
    let expected = sorted(vec![blue.id, red.id, assigned.id, foreign.id]);
    assert_eq!(pages(backend, &active).await, expected);
}

pub async fn counts_are_by_state_and_account(backend: &mut impl Backend) {
    for _ in 0..3 {
        submit(backend, spec()).await;
    }
    let assigned = submit(backend, spec()).await;
    done(
        backend,
        assigned.id,
        claimed(AttemptId::random(), SessionId::random(), 1),
    )
    .await;
    submit_as(backend, "globex", spec()).await;
    let mut later = spec();
    later.not_before = Some(backend.clock().now().after(Duration::from_secs(60)));
    submit(backend, later).await;
    let store = backend.stores().jobs;
    let acme = testing::account("acme");
    assert_eq!(
        store.count_waiting(&acme).await.unwrap(),
        4,
        "queued and scheduled"
    );
    for (account, queued) in [(Some(&acme), 3), (None, 4)] {
        let counts = store.count_by_state(account).await.unwrap();
        let of = |state| {
            counts
                .iter()
                .find(|(name, _)| *name == state)
                .map_or(0, |(_, count)| *count)
        };
        assert_eq!((of(StateName::Queued), of(StateName::Assigned)), (queued, 1));
        assert_eq!(of(StateName::Failed), 0);
    }
}
