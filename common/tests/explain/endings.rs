//! Every outcome has a page: what happened, by whom, on which evidence, and what to do next.

use std::time::Duration;

use common::attempt::{AttemptReport, NotStartedReason, Outcome, Usage};
use common::explain::{Actor, Detail, Ending, LimitHit, explain};
use common::ids::UserId;
use common::job::{CancelRequest, CancelledBy, Epoch, Job};
use common::lifecycle::{JobEvent, step, testing};
use common::retry::RetryPolicy;

use crate::{NOW, ago, facts, fleet};

/// Ended on `w` with this outcome, after the tries that it was given.
fn ended(outcome: &Outcome, tries: u32) -> Job {
    let mut spec = testing::spec();
    spec.limits.queue = Some(Duration::from_secs(5));
    spec.retry = RetryPolicy {
        on: vec![outcome.class()],
        ..RetryPolicy::times(tries - 1)
    };
    let mut job = testing::job(spec);
    while !job.state.is_terminal() {
        let attempt = testing::attempt();
        let mut report = AttemptReport::bare(outcome.clone());
        report.usage = Usage {
            cpu_ms: 120,
            memory_peak_bytes: 255 << 20,
        };
        let lease = testing::lease("w");
        let claimed = JobEvent::Claimed {
            attempt,
            lease,
            epoch: Epoch(1),
        };
        let finished = JobEvent::Finished {
            attempt,
            report: Box::new(report),
            logs_missing: Default::default(),
        };
        for (event, at) in [
            // behind the longest pause, whatever its lot
            (JobEvent::Due, NOW.after(Duration::from_secs(3_600))),
            (claimed, ago(30)),
            (JobEvent::Started { attempt }, ago(20)),
            (finished, ago(10)),
        ] {
            if let Ok(step) = step(&job, event, at) {
                job = step.job;
            }
        }
    }
    job
}

fn by_user() -> Outcome {
    Outcome::Cancelled {
        by: CancelledBy::System,
        why: Some("typo".into()),
    }
}

struct Row {
    outcome: Outcome,
    actor: &'static str,
    /// Parts of the sentence.
    says: &'static [&'static str],
    /// A part of what to do next; empty where nothing is.
    next: &'static str,
}

fn row(outcome: Outcome, actor: &'static str, says: &'static [&'static str], next: &'static str) -> Row {
    Row {
        outcome,
        actor,
        says,
        next,
    }
}

fn not_started(reason: NotStartedReason) -> Outcome {
    Outcome::NotStarted {
        reason,
        message: "the engine's words.".into(),
    }
}

fn rows() -> Vec<Row> {
    let mut rows = by_the_command();
    rows.extend(by_others());
    rows
}

fn by_the_command() -> Vec<Row> {
    vec![
        row(Outcome::Exited { code: 0 }, "job", &["exited with status 0"], ""),
        row(
            Outcome::Exited { code: 3 },
            "job",
            &["exited with status 3."],
            "jobworker logs job_",
        ),
        row(
            Outcome::Exited { code: 127 },
            "job",
            &["127", "does not find"],
            "jobworker logs",
        ),
        row(
            Outcome::Exited { code: 137 },
            "job",
            &["137", "signal 9 (KILL)"],
            "jobworker logs",
        ),
        row(
            not_started(NotStartedReason::NoSuchCommand),
            "job",
            &["no such command: the engine's words."],
            "--shell",
        ),
        row(
            not_started(NotStartedReason::NotExecutable),
            "job",
            &["not executable"],
            "executable",
        ),
        row(
            not_started(NotStartedReason::WrongArchitecture),
            "job",
            &["another kind of CPU"],
            "--worker-label",
        ),
        row(
            not_started(NotStartedReason::BadWorkingDirectory),
            "job",
            &["working directory"],
            "--workdir",
        ),
        row(
            not_started(NotStartedReason::BadInputs),
            "job",
            &["input"],
            "archives",
        ),
        row(
            not_started(NotStartedReason::Other),
            "job",
            &["could not be started"],
            "engine",
        ),
        row(
            Outcome::Signaled { signal: 11 },
            "job",
            &["Signal 11 (SEGV)"],
            "crash",
        ),
        row(
            Outcome::Signaled { signal: 9 },
            "job",
            &["Signal 9 (KILL)"],
            "kill",
        ),
        row(
            Outcome::Signaled { signal: 64 },
            "job",
            &["Signal 64 ended"],
            "jobworker logs",
        ),
    ]
}

fn by_others() -> Vec<Row> {
    let said = |message: &str| message.to_owned();
    vec![
        row(
            Outcome::OomKilled,
            "worker w",
            &["more than its 256 MiB of memory", "255.0 MiB at its peak"],
            "--memory 512m",
        ),
        row(
            Outcome::RunTimeout,
            "worker w",
            &["longer than its limit of 1h 00m"],
            "--timeout",
        ),
        row(
            Outcome::ImageUnavailable {
                message: said("not found"),
            },
            "worker w",
            &["w could not get the image busybox:1: not found."],
            "name and tag",
        ),
        row(
            Outcome::RejectedByWorker {
                message: said("images from elsewhere"),
            },
            "worker w",
            &["w refused it: images from elsewhere."],
            "owner",
        ),
        row(
            Outcome::WorkerLost,
            "system",
            &["w was not heard", "not known"],
            "run twice",
        ),
        row(
            Outcome::InfraError {
                message: said("disk"),
            },
            "worker w",
            &["not the command: disk."],
            "operator",
        ),
    ]
}

fn actor(ending: &Ending<'_>) -> String {
    match &ending.actor {
        Actor::Job => "job".to_owned(),
        Actor::User(user) => format!("user {user}"),
        Actor::System => "system".to_owned(),
        Actor::Worker(worker) => format!("worker {worker}"),
    }
}

#[track_caller]
fn holds(ending: &Ending<'_>, row: &Row) {
    let what = &row.outcome;
    assert_eq!(ending.cause, what.word());
    assert_eq!(actor(ending), row.actor, "{what:?}");
    for part in row.says {
        assert!(ending.sentence.contains(part), "{what:?}: {}", ending.sentence);
    }
    assert!(ending.sentence.ends_with('.'), "{}", ending.sentence);
    match &ending.next {
        Some(next) => {
            let told = !row.next.is_empty() && next.contains(row.next) && next.ends_with('.');
            assert!(told, "{what:?}: {next}");
        }
        None => assert_eq!(row.next, "", "{what:?}: nothing to do next"),
    }
    assert_eq!(ending.exit_code, what.exit_code());
}

#[test]
fn every_outcome_has_its_page_for_the_attempt_and_for_the_job() {
    for row in rows() {
        let job = ended(&row.outcome, 1);
        let last = job.attempts.last().unwrap();
        for ending in [
            Ending::of_job(&job).unwrap(),
            Ending::of_attempt(&job, last).unwrap(),
        ] {
            holds(&ending, &row);
            assert_eq!(ending.ran, Some(Duration::from_secs(10)));
            assert_eq!(ending.worker, Some(&last.lease.worker));
            assert_eq!(ending.at, ago(10));
        }
        let none = fleet(vec![], &[]);
        let explanation = explain(&job, &facts(&none));
        assert!(matches!(explanation.detail, Detail::Ended(_)), "{explanation:?}");
    }
}

#[test]
fn the_table_has_every_outcome_there_is() {
    let mut words: Vec<&str> = rows().iter().map(|row| row.outcome.word()).collect();
    // these two need no worker; each has a test below
    words.extend([Outcome::QueueTimeout.word(), by_user().word()]);
    words.sort_unstable();
    words.dedup();
    assert_eq!(
        words,
        [
            "cancelled",
            "exited",
            "image_unavailable",
            "infra_error",
            "not_started",
            "oom_killed",
            "queue_timeout",
            "rejected_by_worker",
            "run_timeout",
            "signaled",
            "worker_lost"
        ]
    );
}

#[test]
fn evidence_names_the_limit_and_the_signal() {
    let limit = |outcome: &Outcome| Ending::of_job(&ended(outcome, 1)).unwrap().limit;
    assert_eq!(limit(&Outcome::OomKilled), Some(LimitHit::MemoryMib(256)));
    assert_eq!(
        limit(&Outcome::RunTimeout),
        Some(LimitHit::Run(Duration::from_secs(3_600)))
    );
    assert_eq!(limit(&Outcome::WorkerLost), None);
    let job = ended(&Outcome::Signaled { signal: 11 }, 1);
    assert_eq!(Ending::of_job(&job).unwrap().signal, Some(11));
}

#[test]
fn a_job_that_was_tried_again_says_how_often() {
    let job = ended(&Outcome::Exited { code: 3 }, 3);
    let ending = Ending::of_job(&job).unwrap();
    assert!(
        ending.sentence.ends_with("It was tried 3 times."),
        "{}",
        ending.sentence
    );
    let first = Ending::of_attempt(&job, &job.attempts[0]).unwrap();
    assert!(!first.sentence.contains("tried"), "{}", first.sentence);
}

#[test]
fn a_job_that_waited_too_long_names_its_limit_and_no_worker() {
    let mut job = ended(&Outcome::Exited { code: 3 }, 2);
    assert_eq!(job.attempts.len(), 2);
    job.state = common::job::JobState::Queued { since: ago(60) };
    let job = step(&job, JobEvent::QueueDeadlinePassed, NOW).unwrap().job;
    let ending = Ending::of_job(&job).unwrap();
    assert_eq!(
        (ending.cause, actor(&ending).as_str()),
        ("queue_timeout", "system")
    );
    assert!(
        ending.sentence.contains("longer than 5.0 s"),
        "{}",
        ending.sentence
    );
    assert!(ending.next.unwrap().contains("--queue-timeout"));
    assert_eq!(ending.limit, Some(LimitHit::Queue(Duration::from_secs(5))));
    assert_eq!(ending.worker, None);
}

#[test]
fn a_cancel_names_who_asked_for_it_whatever_the_agent_said() {
    let ask = |job: &Job| {
        let request = CancelRequest {
            by: CancelledBy::User(UserId::new("ada").unwrap()),
            why: Some("typo".into()),
            at: NOW,
        };
        step(job, JobEvent::CancelAsked(request), NOW).unwrap().job
    };
    let waiting = ask(&testing::job(testing::spec()));
    let ending = Ending::of_job(&waiting).unwrap();
    assert_eq!((ending.cause, actor(&ending).as_str()), ("cancelled", "user ada"));
    assert_eq!(ending.sentence, "The user ada cancelled it: typo.");

    let attempt = testing::attempt();
    let claimed = JobEvent::Claimed {
        attempt,
        lease: testing::lease("w"),
        epoch: Epoch(1),
    };
    let running = step(&testing::job(testing::spec()), claimed, NOW).unwrap().job;
    let asked = ask(&running);
    let finished = JobEvent::Finished {
        attempt,
        report: Box::new(AttemptReport::bare(by_user())),
        logs_missing: Default::default(),
    };
    let job = step(&asked, finished, NOW).unwrap().job;
    for ending in [
        Ending::of_job(&job).unwrap(),
        Ending::of_attempt(&job, &job.attempts[0]).unwrap(),
    ] {
        assert_eq!((ending.cause, actor(&ending).as_str()), ("cancelled", "user ada"));
    }
}
