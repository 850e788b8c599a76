//! Output, over connections that come and go.

use std::time::Duration;

use common::attempt::Outcome;
use common::log::Stream;
use common::protocol::{ResultVerdict, ToWorker};

use super::rig::{Rig, assignment};

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_on_the_next_connection() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    for line in ["a", "b", "c"] {
        rig.executor.print(given.attempt, Stream::Stdout, line.as_bytes());
        gateway.chunk().await;
    }
    gateway.ack_log(&given, Stream::Stdout, 0).await;
    // The heartbeat after the acknowledgement shows that it was heard.
    gateway.heartbeat().await;
    gateway.heartbeat().await;
    drop(gateway);
    let mut gateway = rig.resume(session).await;
    gateway.started(given.attempt).await;
    let again = [gateway.chunk().await, gateway.chunk().await];
    assert_eq!(again.map(|chunk| chunk.seq), [1, 2]);
    gateway.ack_log(&given, Stream::Stdout, 2).await;
    rig.executor.exit(given.attempt, 0);
    gateway.result(given.attempt).await;
    drop(gateway);
    let mut gateway = rig.resume(session).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::Exited { code: 0 });
    gateway.ack_result(&given, ResultVerdict::Accepted).await;
    gateway.until_nothing_is_held().await;
}

#[tokio::test]
async fn a_result_waits_for_its_log() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.print(given.attempt, Stream::Stderr, b"oops");
    rig.executor.exit(given.attempt, 0);
    gateway.chunk().await;
    // The exit is acknowledged to init once its report is journaled; the result could be sent from then on.
    rig.container_until("the report", given.attempt, |found| found.acked == 2)
        .await;
    for _ in 0..3 {
        let (_, held) = gateway.heartbeat_or_panic_on_result().await;
        assert_eq!(held.len(), 1);
    }
    gateway.ack_log(&given, Stream::Stderr, 0).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::Exited { code: 0 });
}

#[tokio::test]
async fn a_log_that_is_never_stored_does_not_hold_its_result_for_ever() {
    let mut rig = Rig::start_with(|config| config.limits.log_wait = Duration::from_millis(20));
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.print(given.attempt, Stream::Stdout, b"x");
    rig.executor.exit(given.attempt, 0);
    let report = gateway.result(given.attempt).await;
    assert_eq!(report.logs.stdout.chunks, 1);
}

#[tokio::test]
async fn a_stale_log_is_not_sent_on() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.print(given.attempt, Stream::Stdout, b"x");
    gateway.chunk().await;
    gateway
        .send(ToWorker::LogAck {
            job: given.job,
            attempt: given.attempt,
            stream: Stream::Stdout,
            seq: 0,
            stale: true,
        })
        .await;
    gateway.heartbeat().await;
    gateway.heartbeat().await;
    rig.executor.print(given.attempt, Stream::Stdout, b"y");
    rig.executor.exit(given.attempt, 0);
    gateway.result(given.attempt).await;
    assert!(gateway.end.logs.try_recv().is_err());
}

#[tokio::test]
async fn output_goes_on_while_nobody_is_connected() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    drop(gateway);
    let mut gateway = rig.accept().await;
    for number in 0..200u8 {
        rig.executor.print(given.attempt, Stream::Stdout, &[number]);
    }
    rig.executor.exit(given.attempt, 0);
    // Everything is acknowledged to init although the control plane has heard nothing.
    rig.container_until("the spool", given.attempt, |found| found.acked == 201)
        .await;
    let (known, _) = gateway.hello().await;
    assert_eq!(known, Some(session));
    gateway.welcome(session, true, vec![]).await;
    for number in 0..200u8 {
        let chunk = gateway.chunk().await;
        assert_eq!((chunk.seq, &chunk.bytes[..]), (u64::from(number), &[number][..]));
    }
}

#[tokio::test]
async fn past_the_cap_head_and_tail_are_sent_and_the_gap_is_named() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let mut given = assignment();
    given.log_bytes_max = 4_000;
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    for number in 0..100u8 {
        rig.executor.print(given.attempt, Stream::Stdout, &[number; 100]);
    }
    rig.executor.exit(given.attempt, 0);
    rig.container_until("the spool", given.attempt, |found| found.acked == 101)
        .await;
    let mut seqs = vec![];
    let report = loop {
        let chunk = gateway.chunk().await;
        seqs.push(chunk.seq);
        gateway.ack_log(&given, Stream::Stdout, chunk.seq).await;
        if chunk.seq == 99 {
            break gateway.result(given.attempt).await;
        }
    };
    let dropped = report.logs.stdout.dropped.unwrap();
    assert_eq!(report.logs.stdout.chunks, 100);
    assert_eq!(dropped.from, 30, "three quarters of the cap are the head's");
    assert_eq!(dropped.bytes, (dropped.until - dropped.from) * 100);
    let expected: Vec<u64> = (0..dropped.from).chain(dropped.until..100).collect();
    assert_eq!(seqs, expected);
    assert!((100 - dropped.until) * 100 <= 1_000 + 100);
}
