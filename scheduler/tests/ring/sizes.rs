//! Jobs that fit nowhere, and jobs that are larger than what becomes free at a time.

use std::time::Duration;

use common::explain::{Detail, Facts, Fleet, Holding, KeptRooms, Reason, explain};
use common::ids::JobId;
use common::job::{CancelRequest, CancelledBy, JobSpec, Resources, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::{account, spec};
use common::protocol::Assignment;
use common::store::{Commit, Held};

use crate::agent::{Agent, held};
use crate::ring::{DEADLINE, PATIENT, Ring, until};
use crate::shares::started;
use crate::tap::Tap;

/// While assignments may come, facts are looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// From a large job's submission until a place is kept for it, where that is due after a second; the rest is for a
/// machine where everything runs at once.
const KEPT_WITHIN: Duration = Duration::from_secs(20);

fn sized(resources: Resources) -> JobSpec {
    JobSpec { resources, ..spec() }
}

#[tokio::test]
async fn a_job_that_no_worker_fits_stands_in_nobodys_way() {
    let ring = Ring::start().await;
    let huge = sized(Resources {
        memory_mib: 1 << 20,
        ..Resources::default()
    });
    let mut labelled = spec();
    labelled.worker_labels.insert("gpu".into(), "yes".into());
    ring.submit(huge).await;
    ring.submit(labelled).await;
    let small = ring.submit(spec()).await;
    let mut agent = ring.agent("w").await;
    assert_eq!(agent.hear_assignment().await.job, small);
}

#[tokio::test]
async fn a_hundred_thousand_jobs_that_no_worker_fits_delay_one_that_fits_by_nothing() {
    let mut tap = None;
    let ring = Ring::with(PATIENT, |stores| Tap::on(stores, &mut tap)).await;
    let tap = tap.unwrap();
    let mut agent = ring.agent("w").await;
    let mut look_at_ten = async |ring: &Ring| {
        let (before, begun) = (tap.rows_read(), ring.clock.mono());
        for _ in 0..10 {
            let id = ring.submit_for(&account("one"), spec()).await;
            let assignment = agent.hear_assignment().await;
            assert_eq!(assignment.job, id);
            agent.exit(&assignment, 0).await;
        }
        let took = ring.clock.mono().since(begun) / 10;
        (tap.rows_read() - before, took)
    };
    let alone = look_at_ten(&ring).await;
    // As many sizes as jobs, each too large for the agent in one way or another.
    let crowd = ring
        .submit_many(&account("crowd"), 100_000, |number| {
            let number = number as u32;
            sized(Resources {
                cpu_millis: 5_000 + number,
                memory_mib: 64 + number % 60_000,
                disk_mib: 64 + number * 7 % 90_000,
            })
        })
        .await;
    let lanes = ring.stores.queue.lanes().await.unwrap().len();
    let beside = look_at_ten(&ring).await;
    println!(
        "a job alone: {:?}, {} rows; beside {} in {lanes} lanes: {:?}, {} rows",
        alone.1,
        alone.0,
        crowd.len(),
        beside.1,
        beside.0
    );
    assert!(lanes < 1_000, "{lanes} lanes");
    assert!(beside.0 <= alone.0 + 10, "{} rows, {} alone", beside.0, alone.0);
    assert!(beside.1 < Duration::from_secs(1), "{:?}", beside.1);
}

/// A ring with a worker of four CPUs that runs jobs of one CPU, of which there is no end.
async fn endless_small(reserve_after: Duration) -> (Ring, Agent) {
    let ring = Ring::with_config(
        PATIENT,
        |stores| stores,
        |config| config.queueing.reserve_after = reserve_after,
    )
    .await;
    ring.submit_many(&account("small"), 5_000, |_| spec()).await;
    let agent = ring.agent("w").await;
    (ring, agent)
}

/// As many as the worker has room for.
async fn four_run(agent: &mut Agent, running: &mut Vec<Assignment>) {
    while running.len() < 4 {
        running.push(agent.hear_assignment().await);
    }
}

fn large() -> JobSpec {
    sized(Resources {
        cpu_millis: 4_000,
        ..Resources::default()
    })
}

#[tokio::test]
async fn a_large_job_among_endless_small_ones_starts_when_those_that_run_have_ended() {
    let (mut ring, mut agent) = endless_small(Duration::from_secs(1)).await;
    for restarted in [false, true] {
        let mut running = Vec::new();
        four_run(&mut agent, &mut running).await;
        let id = ring.submit_for(&account("large"), large()).await;
        let mut waits_since = ring.clock.mono();
        if restarted {
            started(&ring, &mut agent, &running).await;
            let session = agent.session;
            ring.restart().await;
            agent = Agent::connect(&ring, "w").await;
            let held = running.iter().map(held).collect();
            agent.greet(session, held).await;
            // It has waited too long by now: only the new leader has to see it.
            waits_since = ring.clock.mono();
        }
        // Small ones take each place that becomes free, until one is kept.
        let mut past = 0;
        loop {
            let waited = ring.clock.mono().since(waits_since);
            assert!(
                waited < KEPT_WITHIN,
                "no place is kept for it after {waited:?}, {past} went past it"
            );
            let done = running.remove(0);
            agent.exit_keeping(&done, &mut running).await;
            if running.len() == 4 {
                past += 1;
                continue;
            }
            match tokio::time::timeout(Duration::from_secs(8), agent.hear_assignment()).await {
                Ok(next) => {
                    assert_ne!(next.job, id, "there is no room for it yet");
                    running.push(next);
                    past += 1;
                }
                Err(_) => break,
            }
        }
        // Else the place would be free for want of anything small.
        let waiting = ring.stores.queue.len().await.unwrap();
        assert!(
            waiting > 1,
            "nothing waits beside it: {waiting}, {past} went past it"
        );
        let least = if restarted { 1 } else { 4 };
        assert!(
            past >= least,
            "others went past it while it had not waited too long: {past}"
        );
        // Nothing else starts there any more: what runs ends, and then it is its turn.
        while let Some(done) = running.pop() {
            assert_eq!(ring.job(id).await.state.name(), StateName::Queued);
            let mut started = Vec::new();
            agent.exit_keeping(&done, &mut started).await;
            assert!(started.iter().all(|one| one.job == id), "{started:?}");
            if let Some(one) = started.pop() {
                assert!(running.is_empty());
                running.push(one);
                break;
            }
        }
        let started = match running.pop() {
            Some(started) => started,
            None => agent.hear_assignment().await,
        };
        assert_eq!(started.job, id);
        agent.exit(&started, 0).await;
    }
}

#[tokio::test]
async fn without_a_reservation_it_would_wait_for_ever_and_one_that_is_cancelled_keeps_nothing() {
    let (ring, mut agent) = endless_small(Duration::from_secs(3_600)).await;
    let mut running = Vec::new();
    four_run(&mut agent, &mut running).await;
    let id = ring.submit_for(&account("large"), large()).await;
    for _ in 0..100 {
        let done = running.remove(0);
        agent.exit_keeping(&done, &mut running).await;
        four_run(&mut agent, &mut running).await;
    }
    assert_eq!(ring.job(id).await.state.name(), StateName::Queued);

    let (ring, mut agent) = endless_small(Duration::ZERO).await;
    let mut running = Vec::new();
    four_run(&mut agent, &mut running).await;
    let id = ring.submit_for(&account("large"), large()).await;
    // Two end; the second one's place is kept at the latest.
    for _ in 0..2 {
        let done = running.remove(0);
        agent.exit_keeping(&done, &mut running).await;
    }
    ring.jobs.apply(id, cancel_asked(&ring)).await.unwrap();
    four_run(&mut agent, &mut running).await;
    large_is_forgotten(&ring).await;
}

#[tokio::test]
async fn room_held_back_is_given_away_though_the_queue_still_names_the_job_it_was_for() {
    let (ring, mut agent) = endless_small(Duration::ZERO).await;
    let mut running = Vec::new();
    four_run(&mut agent, &mut running).await;
    let id = ring.submit_for(&account("large"), large()).await;
    end_small_until(&mut agent, &mut running, async || {
        let kept = ring.stores.queue.reservations().await.unwrap();
        if kept.is_empty() { Err(kept) } else { Ok(()) }
    })
    .await;
    // Of four places one at least is held back from now on.
    let done = running.remove(0);
    agent.exit_keeping(&done, &mut running).await;
    cancel_row_alone(&ring, id).await;
    four_run(&mut agent, &mut running).await;
    large_is_forgotten(&ring).await;
}

#[tokio::test]
async fn a_job_that_the_queue_still_names_after_its_end_does_not_close_its_lane() {
    let ring = Ring::with_config(
        PATIENT,
        |stores| stores,
        |config| config.queueing.reserve_after = Duration::from_secs(3_600),
    )
    .await;
    let mut agent = ring.agent("w").await;
    // Of one lane, and only the second fits into four CPUs.
    let [above, below] = [4_050, 3_000].map(|cpu_millis| {
        sized(Resources {
            cpu_millis,
            ..Resources::default()
        })
    });
    let first = ring.submit(above).await;
    let beside = ring.submit(spec()).await;
    // With it the leader has seen that the first fits nowhere.
    let assignment = agent.hear_assignment().await;
    assert_eq!(assignment.job, beside);
    agent.exit(&assignment, 0).await;
    let second = ring.submit(below).await;
    let lanes = ring.stores.queue.lanes().await.unwrap();
    assert_eq!(lanes.len(), 1, "{lanes:?}");
    cancel_row_alone(&ring, first).await;
    assert_eq!(agent.hear_assignment().await.job, second);
}

/// The queue goes on naming it: a walk over the rows may put back the entry of a job that ends meanwhile.
async fn cancel_row_alone(ring: &Ring, id: JobId) {
    let job = ring.job(id).await;
    let cancelled = ring.jobs.decide(&job, cancel_asked(ring)).unwrap().job;
    let change = Commit {
        job: cancelled,
        expected: job.revision,
    };
    assert_eq!(ring.stores.jobs.commit(vec![change]).await.unwrap(), [Ok(())]);
}

/// Small ones end, and others take what becomes free, until that is held back and `reached` says so.
async fn end_small_until<E: std::fmt::Debug>(
    agent: &mut Agent,
    running: &mut Vec<Assignment>,
    reached: impl AsyncFn() -> Result<(), E>,
) {
    let mut seen = None;
    let reached = tokio::time::timeout(DEADLINE, async {
        while let Err(other) = reached().await {
            seen = Some(other);
            if running.len() == 4 {
                let done = running.remove(0);
                agent.exit_keeping(&done, running).await;
            } else if let Ok(next) = tokio::time::timeout(LOOK_EVERY, agent.hear_assignment()).await {
                running.push(next);
            }
        }
    });
    let reached = reached.await.is_ok();
    assert!(reached, "not within {DEADLINE:?}; seen last: {seen:?}");
}

fn cancel_asked(ring: &Ring) -> JobEvent {
    JobEvent::CancelAsked(CancelRequest {
        by: CancelledBy::System,
        why: None,
        at: ring.clock.now(),
    })
}

async fn large_is_forgotten(ring: &Ring) {
    until("the queue has forgotten it", || async {
        let lanes = ring.stores.queue.lanes().await.unwrap();
        match lanes.iter().any(|(lane, _)| lane.account == account("large")) {
            false => Ok(()),
            true => Err(lanes.len()),
        }
    })
    .await;
}

/// Why the job waits, by what api reads: rows, and what the leader has told.
async fn why(ring: &Ring, id: JobId) -> (Reason, String) {
    let stores = &ring.stores;
    let live = stores.workers.live_sessions().await.unwrap();
    let live = live.into_iter().map(|session| session.id).collect();
    let held = stores.jobs.held(&Held::Any, None, 100).await.unwrap();
    let held = held.iter().filter_map(Holding::of).collect();
    let fleet = Fleet::new(stores.workers.list().await.unwrap(), &live, held, false);
    let job = ring.job(id).await;
    let kept = KeptRooms::of(&job, &stores.queue.reservations().await.unwrap());
    let facts = Facts {
        now: ring.clock.now(),
        contact: Duration::from_secs(600),
        fleet: &fleet,
        running_max: None,
        place: None,
        typical: None,
        kept: Some(&kept),
    };
    let explanation = explain(&job, &facts);
    match explanation.detail {
        Detail::Waiting(waiting) => (waiting.reason, explanation.sentence),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_small_job_that_waits_for_room_held_back_says_so_until_the_large_one_has_gone() {
    let (ring, mut agent) = endless_small(Duration::ZERO).await;
    let mut running = Vec::new();
    four_run(&mut agent, &mut running).await;
    let large_id = ring.submit_for(&account("large"), large()).await;
    let last = ring.submit_for(&account("small"), spec()).await;
    assert_eq!(why(&ring, last).await.0, Reason::WorkersBusy);
    let words = "its room is held for a larger job since";
    end_small_until(&mut agent, &mut running, async || {
        let (reason, sentence) = why(&ring, last).await;
        let kept = !ring.stores.queue.reservations().await.unwrap().is_empty();
        if kept && reason == Reason::Reserved && sentence.contains(words) {
            return Ok(());
        }
        Err((kept, reason, sentence))
    })
    .await;
    ring.jobs.apply(large_id, cancel_asked(&ring)).await.unwrap();
    four_run(&mut agent, &mut running).await;
    until("it to be told that nothing is held back", || async {
        match why(&ring, last).await {
            (Reason::WorkersBusy, _) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
