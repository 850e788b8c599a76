//! The agent dies and comes back; the containers do not care.

use std::time::Duration;

use common::attempt::Outcome;
use common::log::Stream;
use common::protocol::{ResultVerdict, Verdict};
use common::time::{Clock, Timestamp};

use super::rig::{LEASE, NOW, Rig, assignment};

#[tokio::test]
async fn a_restarted_agent_takes_its_runs_over_and_renews_only_after_a_keep() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.print(given.attempt, Stream::Stdout, b"before");
    gateway.chunk().await;
    rig.restart().await;
    rig.executor.print(given.attempt, Stream::Stdout, b"after");
    rig.container_until("its output taken", given.attempt, |found| found.acked == 2)
        .await;
    rig.clock.advance(Duration::from_secs(5));
    let mut gateway = rig.accept().await;
    let (known, held) = gateway.hello().await;
    assert_eq!((known, held.len()), (Some(session), 1));
    gateway.welcome(session, true, vec![]).await;
    assert_eq!(rig.executor.of(given.attempt).unwrap().deadlines.len(), 1);
    gateway.heartbeat().await;
    let (number, _) = gateway.heartbeat().await;
    let sent_at = rig.clock.mono();
    gateway.verdict(number, given.attempt, Verdict::Keep).await;
    let container = rig
        .container_until("its renewal", given.attempt, |found| found.deadlines.len() == 2)
        .await;
    assert_eq!(container.deadlines[1], sent_at.after(LEASE));
    let chunks = [gateway.chunk().await, gateway.chunk().await];
    assert_eq!(chunks.map(|chunk| chunk.seq), [0, 1]);
    rig.executor.exit(given.attempt, 0);
    gateway.ack_log(&given, Stream::Stdout, 1).await;
    let report = gateway.result(given.attempt).await;
    assert_eq!(report.outcome, Outcome::Exited { code: 0 });
    assert_eq!(report.logs.stdout.bytes, 11);
    assert_eq!(rig.executor.of(given.attempt).unwrap().runs, 1);
}

#[tokio::test]
async fn what_ended_while_the_agent_was_away_is_reported() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.stop().await;
    rig.executor.exit(given.attempt, 5);
    rig.restart_stopped();
    let mut gateway = rig.resume(session).await;
    assert_eq!(gateway.outcome(given.attempt).await, Outcome::Exited { code: 5 });
    gateway.ack_result(&given, ResultVerdict::Accepted).await;
    gateway.until_nothing_is_held().await;
}

#[tokio::test]
async fn a_result_that_was_not_acknowledged_survives_a_restart() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.exit(given.attempt, 5);
    let first = gateway.result(given.attempt).await;
    rig.restart().await;
    let mut gateway = rig.resume(session).await;
    // Word for word: the same report again is accepted again.
    assert_eq!(gateway.result(given.attempt).await, first);
}

#[tokio::test]
async fn an_attempt_whose_container_is_gone_is_reported_as_the_infrastructures_failure() {
    let mut rig = Rig::start();
    let (mut gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.stop().await;
    rig.executor.vanish(given.attempt);
    rig.restart_stopped();
    let mut gateway = rig.resume(session).await;
    assert!(matches!(
        gateway.outcome(given.attempt).await,
        Outcome::InfraError { .. }
    ));
}

#[tokio::test]
async fn an_attempt_that_was_never_run_is_begun_after_a_restart() {
    let mut rig = Rig::start();
    rig.executor.hold_back(true);
    let (gateway, session) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    let mut gateway = gateway;
    while gateway.heartbeat().await.1.is_empty() {}
    rig.restart().await;
    rig.executor.hold_back(false);
    let mut gateway = rig.resume(session).await;
    gateway.started(given.attempt).await;
}

/// Its container was journaled, `run` was never sent: the job has done nothing, so its end is not the job's doing.
#[tokio::test]
async fn a_container_whose_agent_died_before_run_is_the_infrastructures_failure() {
    for engine_restarted in [false, true] {
        let mut rig = Rig::start();
        rig.executor.lose_run();
        let (mut gateway, session) = rig.connect().await;
        let given = assignment();
        gateway.assign(&given).await;
        let journal = rig.config.state_folder.join("journal.jsonl");
        let journaled = || {
            std::fs::read_to_string(&journal)
                .unwrap()
                .contains("\"entry\":\"container\"")
        };
        while !journaled() {
            gateway.heartbeat().await;
        }
        rig.restart().await;
        let mut gateway = rig.resume(session).await;
        rig.executor.end(
            given.attempt,
            worker_agent::executor::End::Silent {
                engine_restarted,
                oom: false,
                message: "the agent ended before the job was begun".into(),
            },
        );
        let outcome = gateway.outcome(given.attempt).await;
        assert!(matches!(outcome, Outcome::InfraError { .. }), "{outcome:?}");
        assert_eq!(rig.executor.of(given.attempt).unwrap().runs, 0);
    }
}

/// Unknown to the journal its container would be an orphan, to be removed while it runs.
#[tokio::test]
async fn an_assignment_that_the_journal_does_not_take_is_refused_and_makes_no_container() {
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    // A journal that has grown is written anew beside itself, which cannot be done here.
    std::fs::create_dir(rig.config.state_folder.join("journal.new")).unwrap();
    let mut given = assignment();
    given.spec.env.insert("LARGE".into(), "x".repeat(5 * 1024 * 1024));
    gateway.assign(&given).await;
    let outcome = gateway.outcome(given.attempt).await;
    assert!(
        matches!(&outcome, Outcome::InfraError { message } if message.contains("journal")),
        "{outcome:?}"
    );
    gateway.until_nothing_is_held().await;
    assert_eq!(rig.executor.made(), 0);
}

#[tokio::test]
async fn containers_that_no_attempt_holds_are_removed_after_a_grace_and_those_of_earlier_lives_at_once() {
    let mut rig = Rig::start_with(|config| {
        config.limits.creation_grace = Duration::from_secs(60);
        config.limits.orphans_every = Duration::from_millis(20);
    });
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    let young = Timestamp::from_millis(NOW.as_millis() - 59_000);
    let old = Timestamp::from_millis(NOW.as_millis() - 61_000);
    rig.executor.leave_orphan("young", young);
    rig.executor.leave_orphan("old", old);
    rig.executor.leave_of_an_earlier_life("of an earlier life");
    for orphan in ["old", "of an earlier life"] {
        let removed = rig
            .executor
            .wait_until(|executor| executor.named(orphan).unwrap().removed);
        super::rig::within("the orphan's removal", removed).await;
    }
    assert!(!rig.executor.named("young").unwrap().removed);
    assert!(!rig.executor.of(given.attempt).unwrap().removed);
}

#[tokio::test]
async fn what_an_earlier_life_left_goes_at_the_start_however_often_the_engine_has_to_be_asked() {
    let mut rig = Rig::start();
    let (_gateway, _) = rig.connect().await;
    rig.stop().await;
    rig.executor.leave_of_an_earlier_life("left");
    rig.executor.refuse_removals(2);
    rig.restart_stopped();
    let removed = rig
        .executor
        .wait_until(|executor| executor.named("left").unwrap().removed);
    super::rig::within("its removal", removed).await;
}

#[tokio::test]
async fn a_container_whose_end_was_reported_by_an_earlier_life_goes_however_often_the_engine_has_to_be_asked()
{
    let mut rig = Rig::start();
    let (mut gateway, _) = rig.connect().await;
    let given = assignment();
    gateway.assign(&given).await;
    gateway.started(given.attempt).await;
    rig.executor.exit(given.attempt, 0);
    gateway.outcome(given.attempt).await;
    rig.container_until("its end", given.attempt, |found| found.finished)
        .await;
    rig.stop().await;
    rig.executor.unfinish(given.attempt);
    // the attempt's own removal, and the first sweep's
    rig.executor.refuse_removals(2);
    rig.restart_stopped();
    rig.container_until("its removal", given.attempt, |found| found.removed)
        .await;
}

#[tokio::test]
async fn two_agents_do_not_share_a_folder() {
    let mut rig = Rig::start();
    let (_gateway, _) = rig.connect().await;
    let second = rig.second_agent().await;
    assert!(matches!(
        second,
        Err(worker_agent::AgentError::Journal(
            worker_agent::journal::JournalError::Locked(_)
        ))
    ));
}
