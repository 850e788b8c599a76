//! When a job may start: played through by hand.

use std::time::Duration;

use common::explain::{Detail, Estimate, Facts, Method, Place, Typical, explain};
use common::job::Job;
use common::time::Timestamp;

use crate::{NOW, facts, fleet, queued, running, worker};

fn estimate(job: &Job, facts: &Facts<'_>) -> Option<Estimate> {
    match explain(job, facts).detail {
        Detail::Waiting(waiting) => waiting.estimate,
        other => panic!("{other:?}"),
    }
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1_000)
}

fn place(before: u64, all: u64) -> Option<Place> {
    Some(Place {
        before,
        of: before + 1,
        account: before + 1,
        all,
    })
}

#[test]
fn the_first_in_line_starts_when_the_first_limit_ends_at_the_latest() {
    let held = [running("w", 600), running("w", 1_200)];
    let (job, full) = (queued(), fleet(vec![worker("w")], &held));
    let told = estimate(&job, &facts(&full)).unwrap();
    assert_eq!(
        (told.at, told.method),
        (in_seconds(3_600 - 1_200), Method::RunLimits)
    );
    let second = Facts {
        place: place(1, 2),
        ..facts(&full)
    };
    assert_eq!(estimate(&job, &second).unwrap().at, in_seconds(3_600 - 600));
    let fourth = Facts {
        place: place(3, 9),
        ..facts(&full)
    };
    let told = estimate(&job, &fourth).unwrap();
    assert_eq!(
        told.at,
        in_seconds(2 * 3_600 - 600),
        "one of the two that come before has to end"
    );
    assert!(
        told.sentence
            .contains("5 jobs of other classes or accounts wait too"),
        "{}",
        told.sentence
    );
}

#[test]
fn what_jobs_like_it_took_lately_is_better_than_limits() {
    let held = [running("w", 6), running("w", 2)];
    let (job, full) = (queued(), fleet(vec![worker("w")], &held));
    let known = Facts {
        typical: Some(Typical {
            median: Duration::from_secs(10),
            samples: 5,
        }),
        ..facts(&full)
    };
    let told = estimate(&job, &known).unwrap();
    assert_eq!((told.at, told.method), (in_seconds(4), Method::ObservedRunTimes));
    assert!(told.sentence.contains("10.0 s"), "{}", told.sentence);
    let third = Facts {
        place: place(2, 3),
        ..known
    };
    assert_eq!(estimate(&job, &third).unwrap().at, in_seconds(14));
}

#[test]
fn an_account_at_its_limit_starts_when_its_own_attempts_end() {
    let held = [running("w", 600), running("elsewhere", 1_200)];
    let (job, some) = (queued(), fleet(vec![worker("w")], &held));
    let limited = Facts {
        running_max: Some(2),
        ..facts(&some)
    };
    assert_eq!(estimate(&job, &limited).unwrap().at, in_seconds(3_600 - 1_200));
    let lowered = Facts {
        running_max: Some(1),
        ..limited
    };
    assert_eq!(estimate(&job, &lowered).unwrap().at, in_seconds(3_600 - 600));
    let never = Facts {
        running_max: Some(0),
        ..limited
    };
    assert_eq!(estimate(&job, &never), None, "it may have none at all");
}

#[test]
fn nothing_is_said_where_nothing_can_be_told() {
    let held = [running("w", 600), running("w", 1_200)];
    let (job, full) = (queued(), fleet(vec![worker("w")], &held));
    let unknown = Facts {
        place: None,
        ..facts(&full)
    };
    assert_eq!(estimate(&job, &unknown), None);
    let far = Facts {
        place: place(1_000_000, 1_000_001),
        ..facts(&full)
    };
    assert_eq!(estimate(&job, &far), None);
    let nobody = fleet(vec![], &[]);
    assert_eq!(estimate(&job, &facts(&nobody)), None);
}

#[test]
fn a_typical_time_needs_some_jobs_of_the_same_account_and_class() {
    let ended = |seconds: i64| {
        let mut job = running("w", seconds);
        let (attempt, lease) = job.state.held().map(|(id, lease)| (id, lease.clone())).unwrap();
        job.attempts.push(common::attempt::Attempt {
            id: attempt,
            number: 1,
            lease,
            assigned_at: crate::ago(seconds),
            started_at: Some(crate::ago(seconds)),
            end: None,
        });
        let report = common::attempt::AttemptReport::bare(common::attempt::Outcome::Exited { code: 0 });
        let event = common::lifecycle::JobEvent::Finished {
            attempt,
            report: Box::new(report),
            logs_missing: Default::default(),
        };
        common::lifecycle::step(&job, event, NOW).unwrap().job
    };
    let (job, mut jobs) = (queued(), vec![ended(5), ended(500)]);
    assert_eq!(Typical::of(&job, &jobs), None);
    jobs.push(ended(7));
    let typical = Typical::of(&job, &jobs).unwrap();
    assert_eq!((typical.median, typical.samples), (Duration::from_secs(7), 3));
    for job in &mut jobs {
        job.account = common::lifecycle::testing::account("other");
    }
    assert_eq!(Typical::of(&job, &jobs), None);
}
