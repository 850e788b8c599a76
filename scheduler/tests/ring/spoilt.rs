//! Rows that the store will not change: the leader passes over them, its loops end, and everybody else's jobs go on.

use std::collections::HashSet;

use common::ids::{AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, JobState, Lease};
use common::lifecycle::testing::{account, spec};
use common::lifecycle::{JobEvent, step};
use common::store::NewJob;
use common::time::Timestamp;

use crate::ring::{PATIENT, Ring, replica, until};
use crate::tap::Tap;

/// More than the leader writes at a time, so that spoilt rows fill whole batches before any good one.
const SPOILT: usize = 700;

fn job(ring: &Ring) -> Job {
    let now = ring.clock.now();
    let alice = UserId::new("alice").unwrap();
    Job::submitted(JobId::generate(now), account("acme"), alice, spec(), now)
}

/// Due a while ago: the lower `order`, the longer.
fn due(ring: &Ring, order: i64) -> Job {
    let at = Timestamp::from_millis(ring.clock.now().as_millis() - 100_000 + order);
    Job {
        state: JobState::Scheduled { at },
        ..job(ring)
    }
}

/// In a session that nobody knows, since an older term.
fn orphan(ring: &Ring) -> Job {
    let lease = Lease {
        worker: WorkerId::new("ghost").unwrap(),
        session: SessionId::random(),
    };
    let claim = JobEvent::Claimed {
        attempt: AttemptId::random(),
        lease,
        epoch: Epoch(0),
    };
    step(&job(ring), claim, ring.clock.now()).unwrap().job
}

#[tokio::test]
async fn rows_that_cannot_be_changed_stop_neither_a_take_over_nor_a_sweep_nor_the_queue() {
    let mut tap = None;
    let ring = Ring::with(PATIENT, |stores| Tap::on(stores, &mut tap)).await;
    let tap = tap.unwrap();
    let first = until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let (mut bad, mut good) = (Vec::new(), Vec::new());
    for order in 0..SPOILT {
        bad.extend([due(&ring, order as i64), orphan(&ring)]);
    }
    bad.extend((0..SPOILT / 10).map(|_| job(&ring)));
    good.extend([due(&ring, 90_000), orphan(&ring), job(&ring)]);
    tap.refuse(bad.iter().map(|job| job.id));
    let new = bad.iter().chain(&good).map(|job| NewJob {
        job: job.clone(),
        key: None,
    });
    let new: Vec<NewJob> = new.collect();
    for part in new.chunks(100) {
        ring.jobs.submit(part.to_vec()).await.unwrap();
    }

    let standby = replica(&ring.config, &ring.stores, &ring.clock, &ring.tasks.clone()).await;
    // a later term makes the one that leads resign, and somebody has to take over
    ring.stores.terms.begin().await.unwrap();
    until("another term is led", || async {
        let leads = standby.leads().max(ring.scheduler.leads());
        leads.filter(|epoch| epoch.0 > first.0 + 1).ok_or(leads)
    })
    .await;
    let mut agent = ring.agent("w").await;
    let mut heard = HashSet::new();
    while heard.len() < good.len() {
        heard.insert(agent.hear_assignment().await.job);
    }
    let expected: HashSet<JobId> = good.iter().map(|job| job.id).collect();
    assert_eq!(heard, expected);
    assert!(tap.refusals() >= bad.len(), "every bad row was tried");
    for bad in &bad {
        assert_eq!(ring.job(bad.id).await.state, bad.state);
    }
}
