//! Who may move a lease's end, and what happens when the control plane lets go.

use std::time::Duration;

use common::attempt::Outcome;
use common::ids::SessionId;
use common::protocol::{ResultVerdict, ToWorker, Verdict};
use common::time::Clock;
use worker_agent::executor::StopWhy;

use super::rig::{LEASE, Rig, assignment};

#[tokio::test]
async fn a_lease_is_counted_from_the_sending_of_an_acknowledged_heartbeat() {
    let mut rig = Rig::start();
    let connected_at = rig.clock.mono();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let first = connected_at.after(LEASE);
    assert_eq!(rig.executor.of(given.attempt).unwrap().deadlines, [first]);

    rig.clock.advance(Duration::from_secs(7));
    // One may have been sent before the clock was turned.
    gateway.heartbeat().await;
    let sent_at = rig.clock.mono();
    let (number, held) = gateway.heartbeat().await;
    assert_eq!(held.len(), 1);
    rig.clock.advance(Duration::from_secs(60));
    gateway.verdict(number, given.attempt, Verdict::Keep).await;
    let container = rig
        .container_until("its renewal", given.attempt, |found| found.deadlines.len() == 2)
        .await;
    assert_eq!(container.deadlines[1], sent_at.after(LEASE));
}

#[tokio::test]
async fn an_acknowledgement_without_a_verdict_or_of_nothing_renews_nothing() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.clock.advance(Duration::from_secs(7));
    gateway.heartbeat().await;
    let (number, _) = gateway.heartbeat().await;
    gateway
        .send(ToWorker::HeartbeatAck {
            number,
            verdicts: vec![],
        })
        .await;
    // The same number again, and one that was never sent.
    gateway.verdict(number, given.attempt, Verdict::Keep).await;
    gateway
        .verdict(number + 1_000_000, given.attempt, Verdict::Keep)
        .await;
    let (last, _) = gateway.heartbeat().await;
    let sent_at = rig.clock.mono();
    gateway.verdict(last, given.attempt, Verdict::Keep).await;
    let container = rig
        .container_until("its renewal", given.attempt, |found| found.deadlines.len() > 1)
        .await;
    assert_eq!(container.deadlines.len(), 2, "{container:?}");
    assert_eq!(container.deadlines[1], sent_at.after(LEASE));
}

#[tokio::test]
async fn a_stop_ends_the_run_and_its_own_result_is_not_reported() {
    let mut rig = Rig::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x"), "x").unwrap();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let (number, _) = gateway.heartbeat().await;
    gateway.verdict(number, given.attempt, Verdict::Stop).await;
    let report = gateway.result(given.attempt).await;
    assert_eq!(report.outcome, Outcome::WorkerLost);
    assert_eq!(
        rig.executor.of(given.attempt).unwrap().stops,
        [StopWhy::LeaseLost]
    );
    gateway.ack_result(&given, ResultVerdict::Stale).await;
    gateway.until_nothing_is_held().await;
    gateway.assign(&given).await;
    gateway.result(given.attempt).await;
    assert_eq!(rig.executor.made(), 1);
}

/// An acknowledgement that comes again renews nothing, but a stop in it stands.
#[tokio::test]
async fn a_stop_in_an_acknowledgement_that_was_heard_before_is_honoured() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let (number, _) = gateway.heartbeat().await;
    gateway.verdict(number, given.attempt, Verdict::Keep).await;
    gateway.verdict(number, given.attempt, Verdict::Stop).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::WorkerLost);
    assert_eq!(
        rig.executor.of(given.attempt).unwrap().stops,
        [StopWhy::LeaseLost]
    );
}

#[tokio::test]
async fn a_new_session_ends_what_the_old_one_ran() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let (given, ended) = (assignment(), assignment());
    for given in [&given, &ended] {
        gateway.assign(given).await;
        gateway.started(given.attempt).await;
    }
    rig.executor.exit(ended.attempt, 0);
    gateway.result(ended.attempt).await;
    drop(gateway);
    let mut gateway = rig.accept().await;
    let (known, held) = gateway.hello().await;
    assert_eq!((known, held.len()), (Some(session), 2));
    gateway.welcome(SessionId::random(), false, vec![]).await;
    let mut outcomes = vec![];
    for _ in 0..2 {
        let (attempt, outcome) = loop {
            if let common::protocol::FromWorker::Result { attempt, report, .. } = gateway.next().await {
                break (attempt, report.outcome);
            }
        };
        outcomes.push((attempt == ended.attempt, outcome));
    }
    outcomes.sort_by_key(|(ended, _)| *ended);
    // What had ended before is still told as it was.
    assert_eq!(
        outcomes,
        [(false, Outcome::WorkerLost), (true, Outcome::Exited { code: 0 })]
    );
}

#[tokio::test]
async fn what_its_deadline_ended_is_reported_as_worker_lost() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.clock.advance(LEASE);
    rig.executor.end(
        given.attempt,
        worker_agent::executor::End::Silent {
            engine_restarted: false,
            oom: false,
            message: "gone".into(),
        },
    );
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::WorkerLost);
}
