//! The leader and the gateway over embedded rows and a real Redis, which loses everything, or is away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::config::LeaseTimes;
use common::ids::{JobId, UserId};
use common::job::{Job, Priority, StateName};
use common::lifecycle::testing::{account, spec};
use common::protocol::{ResultVerdict, ToWorker};
use common::queue::{Lane, QueueEntry};
use common::store::{JobQuery, NewJob};
use common::time::{SharedClock, SystemClock};
use storage::conformance::redis_server::RedisServer;
use storage::redis_coord::{Config, Coordination, connect};

use crate::agent::Agent;
use crate::gated::{Gated, OPEN};
use crate::ring::{PATIENT, Ring, until};

/// Agents here never beat, and a busy machine may need long.
const CALM: LeaseTimes = LeaseTimes {
    contact: Duration::from_secs(500),
    lost_after: Duration::from_secs(900),
    ..PATIENT
};

async fn coordination(server: &RedisServer) -> Coordination {
    let clock: SharedClock = Arc::new(SystemClock);
    connect(&Config::new(server.url()), &clock).await.unwrap()
}

async fn ring_over(coordination: Coordination) -> Ring {
    Ring::with(CALM, |rows| coordination.with_rows_of(rows)).await
}

async fn leads(ring: &Ring) -> common::job::Epoch {
    until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await
}

/// Jobs of two accounts and two priorities, all waiting.
async fn submit(ring: &Ring, count: usize) {
    for batch in 0..count / 100 {
        let job = |number: usize| {
            let mut spec = spec();
            spec.priority = Priority(i8::from(number.is_multiple_of(10)));
            let (now, alice) = (ring.clock.now(), UserId::new("alice").unwrap());
            let name = if (batch + number).is_multiple_of(3) {
                "globex"
            } else {
                "acme"
            };
            let job = Job::submitted(JobId::generate(now), account(name), alice, spec, now);
            NewJob { job, key: None }
        };
        ring.jobs.submit((0..100).map(job).collect()).await.unwrap();
    }
}

async fn all_jobs(ring: &Ring) -> Vec<Job> {
    let (mut jobs, mut query) = (
        Vec::new(),
        JobQuery {
            limit: 500,
            ..JobQuery::default()
        },
    );
    loop {
        let page = ring.stores.jobs.list(&query).await.unwrap();
        jobs.extend(page.items);
        query.before = page.next;
        if query.before.is_none() {
            return jobs;
        }
    }
}

/// Ends whatever it is given at once, for as long as the test lasts.
fn works(ring: &Ring, mut agent: Agent, accepted: &Arc<AtomicUsize>) {
    let accepted = Arc::clone(accepted);
    let stopping = ring.tasks.stopping().clone();
    ring.tasks.spawn("test agent", async move {
        let report = AttemptReport::bare(Outcome::Exited { code: 0 });
        loop {
            let arrived = tokio::select! {
                () = stopping.cancelled() => return,
                arrived = agent.hear() => arrived,
            };
            match arrived {
                ToWorker::JobAssign(assignment) => agent.finish(&assignment, &report).await,
                ToWorker::ResultAck { verdict, .. } => {
                    assert_eq!(verdict, ResultVerdict::Accepted);
                    accepted.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_in_the_middle_of_two_thousand_jobs_lose_none_and_keep_the_order() {
    const JOBS: usize = 2_000;
    let server = RedisServer::start().await;
    let ring = ring_over(coordination(&server).await).await;
    let first = leads(&ring).await;
    submit(&ring, JOBS).await;
    let accepted = Arc::new(AtomicUsize::new(0));
    for number in 0..6 {
        let agent = ring.agent(&format!("w{number}")).await;
        works(&ring, agent, &accepted);
    }
    for part in 1..=3 {
        reach(&accepted, JOBS * part / 4).await;
        server.flush_all().await;
    }
    reach(&accepted, JOBS).await;

    assert!(leads(&ring).await > first, "who lost the lock leads no more");
    let mut lanes: BTreeMap<Lane, Vec<(QueueEntry, Job)>> = BTreeMap::new();
    for job in all_jobs(&ring).await {
        assert_eq!((job.state.name(), job.attempts_total), (StateName::Succeeded, 1));
        let mut waiting = job.clone();
        waiting.state = common::job::JobState::Queued {
            since: job.created_at,
        };
        let entry = QueueEntry::of(&waiting).unwrap();
        lanes.entry(entry.lane.clone()).or_default().push((entry, job));
    }
    assert_eq!(lanes.values().map(Vec::len).sum::<usize>(), JOBS);
    for (lane, mut jobs) in lanes {
        jobs.sort_by_key(|(entry, _)| (entry.score, entry.job));
        let given = jobs.iter().map(|(_, job)| job.attempts[0].assigned_at);
        assert!(given.is_sorted(), "out of order in {lane:?}");
    }
    until("the queue is empty", || async {
        match ring.stores.queue.len().await {
            Ok(0) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn reach(accepted: &AtomicUsize, count: usize) {
    // Each step in time: the whole may take longer on a busy machine.
    let mut step = accepted.load(Ordering::SeqCst);
    while step < count {
        step = (step + 100).min(count);
        until(&format!("{step} results are accepted"), || async {
            let now = accepted.load(Ordering::SeqCst);
            if now >= step { Ok(()) } else { Err(now) }
        })
        .await;
    }
}

#[tokio::test]
async fn while_redis_is_away_results_and_submissions_are_accepted_and_then_work_goes_on() {
    let mut server = RedisServer::start().await;
    let ring = ring_over(coordination(&server).await).await;
    leads(&ring).await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    server.kill();
    let meanwhile = ring.submit(spec()).await;
    assert_eq!(agent.exit(&assignment, 0).await, ResultVerdict::Accepted);
    assert_eq!(ring.job(id).await.state.name(), StateName::Succeeded);
    until("nobody leads without a lock", || async {
        ring.scheduler.leads().map_or(Ok(()), Err)
    })
    .await;
    assert_eq!(ring.job(meanwhile).await.state.name(), StateName::Queued);
    server.start_again().await;
    assert_eq!(agent.hear_assignment().await.job, meanwhile);
}

/// What a leader loses while it makes the queue anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Lock,
    /// Another term begins, and the lock stays where it is.
    Term,
}

#[tokio::test]
async fn a_lock_that_is_lost_within_a_rebuild_ends_it() {
    a_rebuild_ends_with(Loss::Lock).await;
}

#[tokio::test]
async fn a_term_that_is_over_within_a_rebuild_ends_it() {
    a_rebuild_ends_with(Loss::Term).await;
}

async fn a_rebuild_ends_with(loss: Loss) {
    let server = RedisServer::start().await;
    let mut parts = coordination(&server).await;
    let gated = Gated::before(&mut parts.queue);
    let ring = ring_over(parts).await;
    let first = leads(&ring).await;
    submit(&ring, 3_500).await;
    gated.permits.forget_permits(OPEN);
    let asked = || gated.asked.load(Ordering::SeqCst);
    let before = asked();

    // The queue is gone, and the lock with it: a new term begins to make the queue anew, in four steps.
    server.flush_all().await;
    gated.permits.add_permits(1);
    until("the rebuild stands in the middle", || async {
        let asked = asked() - before;
        if asked == 2 { Ok(()) } else { Err(asked) }
    })
    .await;
    let key = "{jw}:lock:jobworker:scheduler:leader";
    match loss {
        Loss::Lock => server.ask::<()>(&["SET", key, "another"]).await.unwrap(),
        Loss::Term => {
            ring.stores.terms.begin().await.unwrap();
        }
    }
    until("the rebuild is given up", || async {
        let given_up = gated.given_up.load(Ordering::SeqCst);
        if given_up >= 1 { Ok(()) } else { Err(given_up) }
    })
    .await;
    assert!(
        !ring.stores.queue.is_built().await.unwrap(),
        "half a queue is not whole"
    );
    let made = ring.stores.queue.len().await.unwrap();
    assert!(made < 3_500, "{made} of 3500");

    // The other goes, and whoever leads now makes all of it.
    gated.permits.add_permits(OPEN);
    if loss == Loss::Lock {
        server.ask::<()>(&["DEL", key]).await.unwrap();
    }
    assert!(leads(&ring).await > first);
    assert_eq!(ring.stores.queue.len().await.unwrap(), 3_500);
}
