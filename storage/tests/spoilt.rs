//! Rows that somebody else has spoilt, in the database itself: they hide no others, stop no page, and spoil no batch.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::config::StoreConfig;
use common::ids::{AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, JobSpec, JobState, Lease, Limits};
use common::lifecycle::{JobEvent, step, testing};
use common::store::{Commit, CommitError, Due, Held, JobCursor, JobQuery, JobStore, NewJob, StoreError};
use common::time::{Clock, SystemClock, Timestamp};
use storage::conformance::mongo_server::Database;
use storage::conformance::spoilt::{self, Spoilt};
use storage::mongo;

/// More of one kind of spoilt rows than a page has.
const OF_A_KIND: usize = 3;
const GOOD: usize = 12;
/// So that every page meets spoilt rows, and ends among them.
const PAGE: usize = 5;

fn new_job(state: &str) -> Job {
    let now = SystemClock.now();
    let spec = JobSpec {
        limits: Limits {
            queue: Some(Duration::from_millis(1)),
            ..Limits::default()
        },
        ..testing::spec()
    };
    let alice = UserId::new("alice").unwrap();
    let mut job = Job::submitted(JobId::generate(now), testing::account("acme"), alice, spec, now);
    match state {
        "queued" => job,
        "scheduled" => {
            job.state = JobState::Scheduled {
                at: Timestamp::from_millis(now.as_millis() - 1_000),
            };
            job
        }
        _ => {
            let lease = Lease {
                worker: WorkerId::new("n").unwrap(),
                session: SessionId::random(),
            };
            let event = JobEvent::Claimed {
                attempt: AttemptId::random(),
                lease,
                epoch: Epoch(1),
            };
            step(&job, event, now).unwrap().job
        }
    }
}

/// Good rows of this state with spoilt ones between them, as they were written; the spoilt ones of `kinds`.
fn mixed(state: &str, kinds: &[Spoilt]) -> Vec<(Job, Option<Spoilt>)> {
    let mut rows = Vec::new();
    for number in 0..GOOD {
        for kind in kinds.iter().filter(|_| number % 3 == 0) {
            rows.extend((0..OF_A_KIND).map(|_| (new_job(state), Some(*kind))));
        }
        rows.push((new_job(state), None));
    }
    rows
}

fn good(rows: &[(Job, Option<Spoilt>)]) -> BTreeSet<JobId> {
    let good = rows.iter().filter(|(_, spoilt)| spoilt.is_none());
    good.map(|(job, _)| job.id).collect()
}

/// All rows, page by page; `next` gives the page behind an id. Full pages but for the last.
async fn walk(next: impl AsyncFn(Option<JobId>) -> Vec<Job>, full: bool) -> BTreeSet<JobId> {
    let (mut found, mut after) = (BTreeSet::new(), None);
    loop {
        let page = next(after).await;
        let Some(last) = page.last() else { return found };
        after = Some(last.id);
        let before = found.len();
        found.extend(page.iter().map(|job| job.id));
        assert_eq!(found.len(), before + page.len(), "a row came twice");
        if full && page.len() < PAGE {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_cannot_be_read_hide_no_others() {
    let database = Database::shared().await;
    let rows = mongo::connect(&database.uri(), Arc::new(SystemClock))
        .await
        .unwrap();
    let kinds: Vec<Spoilt> = Spoilt::ALL
        .into_iter()
        .filter(|kind| kind.is_unreadable())
        .collect();
    let [queued, scheduled, held] = ["queued", "scheduled", "held"].map(|state| mixed(state, &kinds));
    for written in [&queued, &scheduled, &held] {
        spoilt::write(&database.uri(), written).await;
    }
    let jobs = rows.jobs.as_ref();
    let found = walk(async |after| jobs.queued(after, PAGE).await.unwrap(), false).await;
    assert_eq!(found, good(&queued), "the queue is made anew from the good ones");
    for (which, expected) in [(Held::Any, &held), (Held::BeforeTerm(Epoch(2)), &held)] {
        let found = walk(async |after| jobs.held(&which, after, PAGE).await.unwrap(), true).await;
        assert_eq!(found, good(expected), "{which:?}");
    }
    let now = SystemClock.now().after(Duration::from_secs(1));
    for (due, expected) in [(Due::Start, &scheduled), (Due::QueueDeadline, &queued)] {
        assert_eq!(jobs.due(due, now, PAGE).await.unwrap().len(), PAGE, "{due:?}");
        let all = jobs.due(due, now, 1_000).await.unwrap();
        let found: BTreeSet<JobId> = all.iter().map(|job| job.id).collect();
        assert_eq!(found, good(expected), "{due:?}");
    }
    assert_eq!(
        listed(jobs).await,
        good(&[queued.clone(), scheduled, held].concat())
    );
    let ids: Vec<JobId> = queued.iter().map(|(job, _)| job.id).collect();
    assert_eq!(jobs.get_many(&ids).await.unwrap().len(), GOOD);
    for (job, spoilt) in &queued {
        match (spoilt, jobs.get(job.id).await) {
            (None, Ok(Some(found))) => assert_eq!(found, *job),
            (Some(_), Err(StoreError::Corrupt { .. })) => {}
            (spoilt, other) => panic!("{spoilt:?} was answered {other:?}"),
        }
    }
    rows.closing.close().await;
}

async fn listed(jobs: &dyn JobStore) -> BTreeSet<JobId> {
    let (mut found, mut before): (BTreeSet<JobId>, Option<JobCursor>) = (BTreeSet::new(), None);
    loop {
        let query = JobQuery {
            before,
            limit: PAGE,
            ..JobQuery::default()
        };
        let page = jobs.list(&query).await.unwrap();
        found.extend(page.items.iter().map(|job| job.id));
        before = page.next;
        if before.is_none() {
            return found;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_the_database_will_not_change_spoils_no_batch() {
    let database = Database::shared().await;
    let rows = mongo::connect(&database.uri(), Arc::new(SystemClock))
        .await
        .unwrap();
    let written = mixed("scheduled", &[Spoilt::NoUpdate]);
    spoilt::write(&database.uri(), &written).await;
    let change = |job: &Job| Commit {
        job: step(job, JobEvent::Due, SystemClock.now()).unwrap().job,
        expected: job.revision,
    };
    let changes = written.iter().map(|(job, _)| change(job)).collect();
    let answers = rows.jobs.commit(changes).await.unwrap();
    for ((job, spoilt), answer) in written.iter().zip(answers) {
        match spoilt {
            None => assert_eq!(answer, Ok(())),
            Some(_) => assert_eq!(answer, Err(CommitError::Unchangeable)),
        }
        let expected = if spoilt.is_none() { "queued" } else { "scheduled" };
        let found = rows.jobs.get(job.id).await.unwrap().unwrap();
        assert_eq!(found.state.name().as_str(), expected);
    }
    rows.closing.close().await;
}

/// Spoils the document of a row in the embedded store's own file.
fn spoil(folder: &Path, id: JobId) {
    let db = rusqlite::Connection::open(folder.join("jobs.sqlite")).unwrap();
    let id = id.as_u128().to_be_bytes();
    assert_eq!(
        db.execute("UPDATE jobs SET doc = '{' WHERE id = ?1", [id])
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn in_the_embedded_store_too_rows_that_cannot_be_read_hide_no_others() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("store");
    let config = StoreConfig::Embedded {
        folder: folder.clone(),
    };
    let written: Vec<(Job, Option<Spoilt>)> = ["queued", "scheduled", "held"]
        .into_iter()
        .flat_map(|state| mixed(state, &[Spoilt::NoJson]))
        .collect();
    let opened = storage::open_closable(&config, Arc::new(SystemClock))
        .await
        .unwrap();
    let new = |(job, _): &(Job, Option<Spoilt>)| NewJob {
        job: job.clone(),
        key: None,
    };
    opened
        .stores
        .jobs
        .insert(written.iter().map(new).collect())
        .await
        .unwrap();
    opened.closing.close().await;
    for (job, _) in written.iter().filter(|(_, spoilt)| spoilt.is_some()) {
        spoil(&folder, job.id);
    }
    let opened = storage::open_closable(&config, Arc::new(SystemClock))
        .await
        .unwrap();
    let jobs = opened.stores.jobs.as_ref();
    let of = |state: &str| {
        let in_state = |(job, _): &&(Job, Option<Spoilt>)| job.state.name().as_str() == state;
        good(&written.iter().filter(in_state).cloned().collect::<Vec<_>>())
    };
    let found = walk(async |after| jobs.queued(after, PAGE).await.unwrap(), true).await;
    assert_eq!(found, of("queued"));
    let found = walk(
        async |after| jobs.held(&Held::Any, after, PAGE).await.unwrap(),
        true,
    )
    .await;
    assert_eq!(found, of("assigned"));
    let now = SystemClock.now().after(Duration::from_secs(1));
    for (due, state) in [(Due::Start, "scheduled"), (Due::QueueDeadline, "queued")] {
        assert_eq!(jobs.due(due, now, PAGE).await.unwrap().len(), PAGE, "{due:?}");
        let all = jobs.due(due, now, 1_000).await.unwrap();
        assert_eq!(
            all.iter().map(|job| job.id).collect::<BTreeSet<_>>(),
            of(state),
            "{due:?}"
        );
    }
    assert_eq!(listed(jobs).await, good(&written));
    let bad = written.iter().find(|(_, spoilt)| spoilt.is_some()).unwrap();
    assert!(matches!(
        jobs.get(bad.0.id).await,
        Err(StoreError::Corrupt { .. })
    ));
    opened.closing.close().await;
}
