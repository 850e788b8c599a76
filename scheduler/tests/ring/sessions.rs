//! Sessions: resumed, superseded, lost; and attempts that their agents forgot.

use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{CancelRequest, CancelledBy, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::spec;
use common::protocol::{CloseCode, FromWorker, HeldAttempt, ResultVerdict, ToWorker, Verdict, VerdictFor};
use common::retry::RetryPolicy;
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Agent, Arrived, held};
use crate::ring::{BRIEF, DEADLINE, Ring, until};

#[tokio::test]
async fn an_agent_that_comes_back_goes_on_with_its_session_and_its_attempts() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    let session = agent.session;
    drop(agent);

    let mut back = Agent::connect(&ring, "w").await;
    let (resumed, verdicts) = back.greet(session, vec![held(&assignment)]).await;
    assert!(resumed);
    assert_eq!(back.session, session);
    assert_eq!(
        verdicts.iter().map(|verdict| verdict.verdict).collect::<Vec<_>>(),
        vec![Verdict::Keep]
    );
    assert_eq!(back.exit(&assignment, 0).await, ResultVerdict::Accepted);
    assert_eq!(ring.job(id).await.attempts_total, 1);
}

#[tokio::test]
async fn an_assignment_that_the_agent_never_had_is_sent_again() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let session = agent.session;
    drop(agent);
    let mut back = Agent::connect(&ring, "w").await;
    assert!(back.greet(session, vec![]).await.0);
    assert_eq!(back.hear_assignment().await.attempt, assignment.attempt);
}

#[tokio::test]
async fn an_attempt_that_runs_by_the_rows_but_neither_by_hello_nor_heartbeat_is_tried_again() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let mut spec = spec();
    spec.retry = RetryPolicy {
        backoff: Duration::from_millis(20),
        ..RetryPolicy::default()
    };
    let id = ring.submit(spec).await;
    let first = agent.hear_assignment().await;
    agent.start(&first).await;
    ring.job_becomes(id, StateName::Running).await;
    let session = agent.session;
    drop(agent);
    let mut back = Agent::connect(&ring, "w").await;
    assert!(back.greet(session, vec![]).await.0);
    back.beat(1, vec![]).await;
    let second = back.hear_assignment().await;
    assert_eq!((second.job, second.number), (id, 2));
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert!(
        matches!(end.outcome, Outcome::InfraError { .. }),
        "{:?}",
        end.outcome
    );
}

/// Its agent had given that connection up before it was read, and was given the attempt on another.
#[tokio::test]
async fn a_hello_from_before_the_start_is_no_witness_that_an_attempt_is_missing() {
    let ring = Ring::start().await;
    let mut late = Agent::connect(&ring, "w").await;
    let mut agent = ring.agent("w").await;
    let running = ring.submit(spec()).await;
    let first = agent.hear_assignment().await;
    agent.start(&first).await;
    ring.job_becomes(running, StateName::Running).await;
    let asked = CancelRequest {
        by: CancelledBy::User(UserId::new("alice").unwrap()),
        why: None,
        at: Default::default(),
    };
    let assigned = ring.submit(spec()).await;
    let second = agent.hear_assignment().await;
    ring.jobs
        .apply(assigned, JobEvent::CancelAsked(asked))
        .await
        .unwrap();
    agent.hear_cancel().await;

    assert!(late.greet(agent.session, vec![]).await.0);
    assert_eq!(agent.hear_close().await, Some(CloseCode::Superseded.code()));
    let mut back = Agent::connect(&ring, "w").await;
    let both = vec![held(&first), held(&second)];
    let (_, verdicts) = back.greet(agent.session, both.clone()).await;
    let kept = |verdict: &VerdictFor| verdict.verdict == Verdict::Keep;
    assert!(verdicts.len() == 2 && verdicts.iter().all(kept), "{verdicts:?}");
    back.beat(1, both).await;
    assert_eq!(ring.job(running).await.state.name(), StateName::Running);
    assert_eq!(ring.job(assigned).await.state.name(), StateName::Assigned);
}

#[tokio::test]
async fn one_heartbeat_without_a_running_attempt_is_forgiven_and_two_are_not() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    agent.beat(1, vec![]).await;
    assert_eq!(
        agent.beat(2, vec![held(&assignment)]).await,
        vec![(assignment.attempt, Verdict::Keep)]
    );
    agent.beat(3, vec![]).await;
    assert_eq!(ring.job(id).await.state.name(), StateName::Running);
    agent.beat(4, vec![]).await;
    until("the attempt has ended", || async {
        let job = ring.job(id).await;
        if job.attempts[0].end.is_some() {
            Ok(())
        } else {
            Err(job.state)
        }
    })
    .await;
}

/// It is older than the rows that it is judged by, so what it does not list may have begun since.
#[tokio::test]
async fn a_heartbeat_that_waited_ends_no_run() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    // The first is being judged while the others come; of those the last one is judged after it.
    for number in 1..=3 {
        agent
            .say(&FromWorker::Heartbeat {
                number,
                attempts: vec![],
                condition: Default::default(),
                draining: false,
                load: Default::default(),
            })
            .await;
    }
    while !matches!(agent.hear().await, ToWorker::HeartbeatAck { number: 3, .. }) {}
    assert_eq!(
        agent.beat(4, vec![held(&assignment)]).await,
        vec![(assignment.attempt, Verdict::Keep)]
    );
    assert_eq!(ring.job(id).await.state.name(), StateName::Running);
}

#[tokio::test]
async fn an_assigned_job_with_a_cancel_asked_is_delivered_again_to_an_agent_that_forgot_it() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let asked = CancelRequest {
        by: CancelledBy::User(UserId::new("alice").unwrap()),
        why: None,
        at: Default::default(),
    };
    ring.jobs.apply(id, JobEvent::CancelAsked(asked)).await.unwrap();
    assert_eq!(agent.hear_cancel().await, (id, assignment.attempt));
    agent.beat(1, vec![]).await;
    assert_eq!(ring.job(id).await.state.name(), StateName::Assigned);
    agent.beat(2, vec![]).await;
    // There is nobody who could confirm any more.
    ring.job_becomes(id, StateName::Cancelled).await;
}

#[tokio::test]
async fn a_heartbeat_from_before_the_start_is_no_witness_that_a_running_attempt_is_missing() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.beat(1, vec![]).await;
    agent.start(&assignment).await;
    ring.job_becomes(id, StateName::Running).await;
    // sent before the assignment was heard, judged after the start was
    agent.beat(2, vec![]).await;
    assert_eq!(
        agent.beat(3, vec![held(&assignment)]).await,
        vec![(assignment.attempt, Verdict::Keep)]
    );
    assert_eq!(ring.job(id).await.attempts_total, 1);
    assert_eq!(ring.job(id).await.state.name(), StateName::Running);
}

#[tokio::test]
async fn a_new_session_may_keep_nothing_of_an_older_one() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    drop(agent);
    for unknown in [None, Some(SessionId::random())] {
        let mut back = Agent::connect(&ring, "w").await;
        let (resumed, verdicts) = back.greet(unknown, vec![held(&assignment)]).await;
        assert!(!resumed);
        assert_eq!(
            verdicts.iter().map(|verdict| verdict.verdict).collect::<Vec<_>>(),
            vec![Verdict::Stop]
        );
    }
}

#[tokio::test]
async fn the_newest_connection_of_a_worker_wins() {
    let ring = Ring::start().await;
    let mut old = ring.agent("w").await;
    let mut new = Agent::connect(&ring, "w").await;
    assert!(new.greet(old.session, vec![]).await.0);
    assert_eq!(old.hear_close().await, Some(CloseCode::Superseded.code()));
    assert_eq!(new.beat(1, vec![]).await, vec![]);
    // A clone of the machine with the same key, but without the session.
    let mut clone = Agent::connect(&ring, "w").await;
    assert!(!clone.greet(None, vec![]).await.0);
    assert_eq!(new.hear_close().await, Some(CloseCode::Superseded.code()));
}

#[tokio::test]
async fn an_older_session_is_kept_away_while_a_newer_one_lives_and_is_let_in_after() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let old = ring.agent("w").await;
    let session = old.session;
    drop(old);
    let mut clone = Agent::connect(&ring, "w").await;
    assert!(!clone.greet(None, vec![]).await.0);
    assert_eq!(clone.beat(1, vec![]).await, vec![]);

    // also when it has aged until it was lost
    let (begun, mut number, mut was_lost) = (ring.clock.mono(), 1, false);
    while !was_lost {
        assert!(
            ring.clock.mono().since(begun) < DEADLINE,
            "the older session ages"
        );
        was_lost = is_lost(&ring, session.unwrap()).await;
        let mut back = Agent::connect(&ring, "w").await;
        back.hello(session, vec![]).await;
        assert_eq!(back.hear_close().await, Some(CloseCode::Superseded.code()));
        number += 1;
        assert_eq!(
            clone.beat(number, vec![]).await,
            vec![],
            "the newer one notices nothing"
        );
    }

    let newer = clone.session.unwrap();
    drop(clone);
    until("the newer session is lost", || async {
        is_lost(&ring, newer).await.then_some(()).ok_or("it lives")
    })
    .await;
    let mut back = Agent::connect(&ring, "w").await;
    assert!(!back.greet(session, vec![]).await.0);
}

async fn is_lost(ring: &Ring, session: SessionId) -> bool {
    ring.stores.workers.sessions(&[session]).await.unwrap()[0].lost
}

#[tokio::test]
async fn a_welcome_that_was_missed_keeps_nobody_away() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let session = agent.session;
    assert_eq!(agent.beat(1, vec![]).await, vec![]);
    drop(agent);
    // a session that was opened, and whose agent never heard of it
    let mut missed = Agent::connect(&ring, "w").await;
    missed.greet(None, vec![]).await;
    missed.send(Message::Close(None)).await;
    until("the session of before to go on", || async {
        let mut back = Agent::connect(&ring, "w").await;
        back.hello(session, vec![]).await;
        match back.arrived().await {
            Arrived::Message(ToWorker::Welcome { resumed: true, .. }) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn who_speaks_of_another_workers_attempt_is_turned_away_and_changes_nothing() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let (job, attempt) = (id, assignment.attempt);
    let before = ring.job(id).await;
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    for message in [
        FromWorker::Started { job, attempt },
        FromWorker::CancelAck { job, attempt },
        FromWorker::Result { job, attempt, report },
    ] {
        let mut thief = ring.agent("thief").await;
        thief.say(&message).await;
        assert_eq!(
            thief.hear_close().await,
            Some(CloseCode::NotYours.code()),
            "{message:?}"
        );
    }
    let mut thief = ring.agent("thief").await;
    thief
        .chunk(&assignment, common::log::Stream::Stdout, 0, "forged")
        .await;
    assert_eq!(thief.hear_close().await, Some(CloseCode::NotYours.code()));
    assert_eq!(ring.job(id).await, before);
    assert_eq!(ring.stores.logs.extent(attempt).await.unwrap().stdout.chunks, 0);
}

#[tokio::test]
async fn an_attempt_nobody_knows_is_stale_and_its_agent_stays() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let (job, attempt) = (JobId::random(), AttemptId::random());
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    agent.say(&FromWorker::Result { job, attempt, report }).await;
    assert_eq!(agent.hear_verdict(attempt).await, ResultVerdict::Stale);
    assert_eq!(
        agent.beat(1, vec![HeldAttempt { job, attempt }]).await,
        vec![(attempt, Verdict::Stop)]
    );
}

#[tokio::test]
async fn a_silent_sessions_attempts_expire_and_run_elsewhere_and_its_late_result_is_stale() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let mut lost = ring.agent("lost").await;
    let mut spec = spec();
    spec.retry = RetryPolicy {
        backoff: Duration::from_millis(20),
        ..RetryPolicy::default()
    };
    let id = ring.submit(spec).await;
    let first = lost.hear_assignment().await;
    lost.start(&first).await;
    ring.job_becomes(id, StateName::Running).await;
    let session = lost.session.unwrap();
    drop(lost);

    let expired = until("the first attempt has expired", || async {
        let job = ring.job(id).await;
        if job.attempts[0].end.is_some() {
            Ok(job)
        } else {
            Err(job.state)
        }
    })
    .await;
    assert_eq!(
        expired.attempts[0].end.as_ref().unwrap().outcome,
        Outcome::WorkerLost
    );
    assert_eq!((expired.infra_retries, expired.user_retries), (1, 0));
    assert!(ring.stores.workers.sessions(&[session]).await.unwrap()[0].lost);

    // this agent does not beat, and would be lost if it came before there is work
    ring.job_becomes(id, StateName::Queued).await;
    let mut other = ring.agent("other").await;
    let second = other.hear_assignment().await;
    assert_eq!((second.job, second.number), (id, 2));
    assert_eq!(other.exit(&second, 0).await, ResultVerdict::Accepted);

    let mut back = Agent::connect(&ring, "lost").await;
    let (resumed, verdicts) = back.greet(Some(session), vec![held(&first)]).await;
    assert!(!resumed);
    assert_eq!(verdicts[0].verdict, Verdict::Stop);
    assert_eq!(back.exit(&first, 1).await, ResultVerdict::Stale);
    assert_eq!(ring.job(id).await.state.name(), StateName::Succeeded);
}

#[tokio::test]
async fn who_beats_is_never_lost() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    agent.start(&assignment).await;
    let begun = ring.clock.mono();
    let (mut number, mut pace) = (0, tokio::time::interval(BRIEF.heartbeat));
    while ring.clock.mono().since(begun) < 2 * BRIEF.lost_after {
        number += 1;
        pace.tick().await;
        assert_eq!(
            agent.beat(number, vec![held(&assignment)]).await,
            vec![(assignment.attempt, Verdict::Keep)]
        );
    }
    assert_eq!(ring.job(id).await.state.name(), StateName::Running);
    assert!(
        agent
            .heard_already()
            .iter()
            .all(|arrived| matches!(arrived, Arrived::Message(ToWorker::HeartbeatAck { .. })))
    );
}

/// The wish is an administrator's; neither a hello nor a heartbeat of the agent's may end it.
#[tokio::test]
async fn a_drain_between_heartbeats_and_reconnects_is_not_lost() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let worker = WorkerId::new("w").unwrap();
    let workers = &ring.stores.workers;
    for (number, draining) in (1..).zip([true, false, true]) {
        let (beaten, wished) = tokio::join!(
            agent.beat(number, vec![]),
            workers.set_draining(&worker, draining)
        );
        assert!(beaten.is_empty() && wished.unwrap().is_some());
        assert_eq!(workers.get(&worker).await.unwrap().unwrap().draining, draining);
    }
    let session = agent.session;
    for session in [session, None] {
        let mut back = Agent::connect(&ring, "w").await;
        back.greet(session, vec![]).await;
        back.beat(1, vec![]).await;
        let row = workers.get(&worker).await.unwrap().unwrap();
        assert!(row.draining && row.session == back.session);
    }
    ring.submit(spec()).await;
    let mut other = ring.agent("other").await;
    other.hear_assignment().await;
}
