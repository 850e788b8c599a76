//! A job that waits has one reason, and it is the right one.

use std::collections::HashSet;
use std::time::Duration;

use common::explain::{
    Detail, Facts, Fleet, Holding, KeptRooms, Method, Place, Reason, VerdictKind, Waiting, explain,
};
use common::ids::{AttemptId, PoolName};
use common::job::{Job, JobState};
use common::lifecycle::testing;
use common::lifecycle::{JobEvent, step};
use common::queue::HeldBack;
use common::time::Timestamp;
use common::worker::{Condition, Worker};
use proptest::prelude::*;

use crate::{CONTACT, NOW, ago, facts, fleet, queued, running, worker};

fn waiting<'a>(job: &'a Job, facts: &Facts<'a>) -> (Waiting<'a>, String) {
    let explanation = explain(job, facts);
    match explanation.detail {
        Detail::Waiting(waiting) => (*waiting, explanation.sentence),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect(job: &Job, facts: &Facts<'_>, reason: Reason, words: &str) {
    let (waiting, sentence) = waiting(job, facts);
    assert_eq!(waiting.reason, reason, "{sentence}");
    assert!(sentence.contains(words), "{sentence}");
}

#[test]
fn each_reason_comes_from_the_facts_that_it_names() {
    let job = queued();
    let none = fleet(vec![], &[]);
    expect(&job, &facts(&none), Reason::NoWorkers, "No worker is registered");

    let mut large = queued();
    let mut spec = testing::spec();
    spec.resources.memory_mib = 32_000;
    large.spec = spec.into();
    let one = fleet(vec![worker("w")], &[]);
    let words = "needs 32000 MiB, it has 4096 MiB";
    expect(&large, &facts(&one), Reason::NoWorkerFits, words);
    expect(&job, &facts(&one), Reason::NextInLine, "next");

    let behind = Facts {
        place: Some(Place {
            before: 3,
            of: 4,
            account: 4,
            all: 9,
        }),
        ..facts(&one)
    };
    expect(
        &job,
        &behind,
        Reason::WaitingForTurn,
        "3 jobs of its account and class are before it",
    );

    let two = [running("w", 10), running("w", 20)];
    let full = fleet(vec![worker("w")], &two);
    expect(
        &job,
        &facts(&full),
        Reason::WorkersBusy,
        "w: busy: 2 of 2 slots are taken",
    );
    let limited = Facts {
        running_max: Some(2),
        ..facts(&full)
    };
    expect(
        &job,
        &limited,
        Reason::AccountLimit,
        "has 2 attempts, and may have 2",
    );

    let changed = |change: fn(&mut Worker)| {
        let mut worker = worker("w");
        change(&mut worker);
        fleet(vec![worker], &[])
    };
    let draining = changed(|worker| worker.draining = true);
    expect(&job, &facts(&draining), Reason::WorkersDraining, "w: draining");
    let unready = changed(|worker| {
        worker.condition = Condition::Unready {
            reasons: vec!["the engine does not answer".into()],
        };
    });
    let words = "w: not ready: the engine does not answer";
    expect(&job, &facts(&unready), Reason::WorkersNotReady, words);
    let away = changed(|worker| worker.heard_at = ago(20));
    expect(
        &job,
        &facts(&away),
        Reason::WorkersAway,
        "w: not heard for 20.0 s",
    );
}

/// All of `worker` is held for `large` since three seconds.
fn held_for(large: &Job, worker: &Worker) -> HeldBack {
    let capacity = worker.description.capacity;
    HeldBack {
        worker: worker.id.clone(),
        job: large.id,
        account: large.account.clone(),
        resources: common::job::Resources {
            cpu_millis: capacity.cpu_millis,
            memory_mib: capacity.memory_mib,
            disk_mib: capacity.disk_mib,
        },
        since: ago(3),
    }
}

#[test]
fn room_that_is_held_for_a_larger_job_is_the_reason_and_names_only_a_job_of_the_same_account() {
    let (job, large, w) = (queued(), queued(), worker("w"));
    let one = fleet(vec![w.clone()], &[running("w", 10)]);
    let seen = |job: &Job, reservation: &HeldBack| {
        let kept = KeptRooms::of(job, std::slice::from_ref(reservation));
        let facts = Facts {
            kept: Some(&kept),
            ..facts(&one)
        };
        let (waiting, sentence) = waiting(job, &facts);
        (waiting.reason, sentence)
    };
    let ours = held_for(&large, &w);
    let (reason, sentence) = seen(&job, &ours);
    assert_eq!(reason, Reason::Reserved);
    let words = format!("w: its room is held for the larger job {} since 3.0 s", large.id);
    assert!(sentence.contains(&words), "{sentence}");

    let theirs = HeldBack {
        account: testing::account("another"),
        ..ours.clone()
    };
    let (reason, sentence) = seen(&job, &theirs);
    assert_eq!(reason, Reason::Reserved);
    assert!(
        sentence.contains("held for a larger job since 3.0 s") && !sentence.contains(&large.id.to_string()),
        "{sentence}"
    );

    let (reason, _) = seen(&large, &ours);
    assert_eq!(reason, Reason::NextInLine, "nothing is held from the job itself");
    let little = HeldBack {
        resources: testing::spec().resources,
        ..ours
    };
    let two_free = fleet(vec![w.clone()], &[]);
    let kept = KeptRooms::of(&job, &[little]);
    let facts = Facts {
        kept: Some(&kept),
        ..facts(&two_free)
    };
    expect(&job, &facts, Reason::NextInLine, "next");
}

#[test]
fn a_busy_fleet_says_where_room_is_kept_for_the_job_itself() {
    let (large, w) = (queued(), worker("w"));
    let full = fleet(vec![w.clone()], &[running("w", 10), running("w", 20)]);
    let kept = KeptRooms::of(&large, &[held_for(&large, &w)]);
    let facts = Facts {
        kept: Some(&kept),
        ..facts(&full)
    };
    expect(
        &large,
        &facts,
        Reason::WorkersBusy,
        "What becomes free on w is kept for it.",
    );
}

#[test]
fn a_job_that_was_lost_repeatedly_says_that_it_is_kept_apart_from_another() {
    let [mut job, mut other] = [queued(), running("w", 10)];
    let lost = |job: &mut Job| job.infra_retries = 2;
    lost(&mut job);
    let beside = fleet(vec![worker("w")], std::slice::from_ref(&other));
    expect(&job, &facts(&beside), Reason::NextInLine, "next");
    lost(&mut other);
    let apart = fleet(vec![worker("w")], std::slice::from_ref(&other));
    expect(&job, &facts(&apart), Reason::WorkersBusy, "lost repeatedly");
    expect(&queued(), &facts(&apart), Reason::NextInLine, "next");
}

#[test]
fn a_job_that_is_scheduled_says_until_when_and_after_what() {
    let one = fleet(vec![worker("w")], &[]);
    let mut later = queued();
    later.state = JobState::Scheduled {
        at: NOW.after(Duration::from_secs(60)),
    };
    expect(&later, &facts(&one), Reason::NotBefore, "in 1m 00s");

    let mut spec = testing::spec();
    spec.retry = common::retry::RetryPolicy::times(1);
    let attempt = testing::attempt();
    let report = common::attempt::AttemptReport::bare(common::attempt::Outcome::Exited { code: 3 });
    let mut job = testing::job(spec);
    for event in [
        JobEvent::Claimed {
            attempt,
            lease: testing::lease("w"),
            epoch: common::job::Epoch(1),
        },
        JobEvent::Started { attempt },
        JobEvent::Finished {
            attempt,
            report: Box::new(report),
            logs_missing: Default::default(),
        },
    ] {
        job = step(&job, event, NOW).unwrap().job;
    }
    let facts = facts(&one);
    let (waiting, sentence) = waiting(&job, &facts);
    assert_eq!(waiting.reason, Reason::Backoff);
    assert!(
        sentence.starts_with("Attempt 1 ended: the command exited with status 3."),
        "{sentence}"
    );
    assert!(waiting.until.is_some_and(|until| until > NOW));
    assert_eq!(waiting.after.map(|outcome| outcome.word()), Some("exited"));
}

#[test]
fn what_a_worker_has_names_it_and_how_long_it_is_silent() {
    let mut job = running("w", 30);
    let one = fleet(vec![worker("w")], &[]);
    let explanation = explain(&job, &facts(&one));
    assert!(
        explanation
            .sentence
            .starts_with("It runs on w for 30.0 s, of 1h 00m"),
        "{}",
        explanation.sentence
    );
    let JobState::Running {
        attempt,
        lease,
        since,
    } = job.state
    else {
        panic!("it runs");
    };
    job.state = JobState::Assigned {
        attempt,
        lease,
        since,
    };
    expect(&job, &facts(&one), Reason::Starting, "w was given it 30.0 s ago");
    let mut pulls = worker("w");
    pulls.load.pulling = vec![AttemptId::random(), attempt];
    let pulls = fleet(vec![pulls], &[]);
    expect(
        &job,
        &facts(&pulls),
        Reason::ImagePulling,
        "fetches its image busybox:1",
    );
    let mut silent = worker("w");
    silent.heard_at = ago(100);
    let silent = fleet(vec![silent], &[]);
    expect(&job, &facts(&silent), Reason::Starting, "not heard for 1m 40s");
}

#[test]
fn the_list_of_verdicts_is_cut_and_the_rest_counted() {
    let mut workers: Vec<Worker> = (0..300).map(|number| worker(&format!("w{number:03}"))).collect();
    workers[299].description.capacity.memory_mib = 100;
    workers[7].draining = true;
    let (job, many) = (queued(), fleet(workers, &[]));
    let facts = facts(&many);
    let verdicts = waiting(&job, &facts).0.verdicts.unwrap();
    assert_eq!(verdicts.shown.len(), 200);
    let counts: Vec<_> = verdicts.counts.into_iter().collect();
    assert_eq!(
        counts,
        [
            (VerdictKind::Fits, 298),
            (VerdictKind::Draining, 1),
            (VerdictKind::Unsuitable, 1)
        ]
    );
}

#[test]
fn the_words_of_the_description_are_how_verdicts_and_methods_travel() {
    for kind in VerdictKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    for method in Method::ALL {
        assert_eq!(serde_json::to_value(method).unwrap(), method.as_str());
    }
}

#[derive(Debug, Clone)]
struct Any {
    pool: bool,
    label: Option<bool>,
    memory: u32,
    slots: u32,
    ready: bool,
    draining: bool,
    live: bool,
    heard: i64,
}

fn any_worker() -> impl Strategy<Value = Any> {
    let what = (any::<bool>(), any::<Option<bool>>(), 0u32..2_000, 0u32..3);
    let how = (any::<bool>(), any::<bool>(), any::<bool>(), 0i64..30);
    (what, how).prop_map(
        |((pool, label, memory, slots), (ready, draining, live, heard))| Any {
            pool,
            label,
            memory,
            slots,
            ready,
            draining,
            live,
            heard,
        },
    )
}

fn pool(other: bool) -> PoolName {
    PoolName::new(if other { "other" } else { "default" }).unwrap()
}

fn labels(zone: Option<bool>) -> std::collections::BTreeMap<String, String> {
    zone.map(|eu| ("zone".to_owned(), if eu { "eu" } else { "us" }.to_owned()))
        .into_iter()
        .collect()
}

impl Any {
    fn worker(&self, number: usize) -> Worker {
        let mut worker = worker(&format!("w{number}"));
        worker.description.pool = pool(self.pool);
        worker.description.labels = labels(self.label);
        worker.description.capacity.memory_mib = self.memory;
        worker.description.capacity.slots = self.slots;
        worker.draining = self.draining;
        worker.heard_at = ago(self.heard);
        if !self.ready {
            worker.condition = Condition::Unready { reasons: vec![] };
        }
        worker
    }
}

proptest! {
    #[test]
    fn no_waiting_job_is_without_its_one_reason(
        any in proptest::collection::vec(any_worker(), 0..6),
        held in proptest::collection::vec((0usize..6, 1u32..1_000), 0..8),
        (other, label, memory) in (any::<bool>(), any::<Option<bool>>(), 1u32..2_500),
        (state, before) in (0u8..4, 0u64..4),
        running_max in proptest::option::of(0u32..4),
        placed in any::<bool>(),
        kept in proptest::collection::vec((0usize..6, 1u32..1_500, any::<bool>()), 0..6),
    ) {
        let workers: Vec<Worker> = any.iter().enumerate().map(|(number, any)| any.worker(number)).collect();
        let live: HashSet<_> = workers.iter().zip(&any).filter(|(_, any)| any.live).filter_map(|(w, _)| w.session).collect();
        let held: Vec<Job> = held.iter().map(|(place, memory)| {
            let mut job = running(&format!("w{place}"), 10);
            let mut spec = testing::spec();
            spec.resources.memory_mib = *memory;
            job.spec = spec.into();
            job
        }).collect();
        let fleet = Fleet::new(workers.clone(), &live, held.iter().filter_map(Holding::of).collect(), false);
        let mut spec = testing::spec();
        spec.pool = pool(other);
        spec.worker_labels = labels(label);
        spec.resources.memory_mib = memory;
        let mut job = queued();
        job.spec = spec.into();
        let lease = testing::lease("w0");
        let attempt = testing::attempt();
        job.state = match state {
            0 => JobState::Scheduled { at: Timestamp::from_millis(NOW.as_millis() + 5_000) },
            1 => JobState::Assigned { attempt, lease, since: ago(3) },
            _ => JobState::Queued { since: ago(3) },
        };
        // one a worker at the most; its own is none
        let reservations: std::collections::BTreeMap<usize, HeldBack> = kept.iter().map(|(place, memory, own)| {
            let large = queued();
            let reservation = HeldBack {
                worker: worker(&format!("w{place}")).id,
                job: if *own { job.id } else { large.id },
                account: large.account,
                resources: common::job::Resources { memory_mib: *memory, ..testing::spec().resources },
                since: ago(1),
            };
            (*place, reservation)
        }).collect();
        let told: Vec<HeldBack> = reservations.values().cloned().collect();
        let rooms = KeptRooms::of(&job, &told);
        let facts = Facts {
            kept: Some(&rooms),
            running_max,
            place: placed.then_some(Place { before, of: before + 1, account: before + 1, all: before + 2 }),
            ..facts(&fleet)
        };
        let (waiting, sentence) = waiting(&job, &facts);
        prop_assert!(sentence.ends_with('.') && sentence.len() > 10, "{}", sentence);
        if let Some(estimate) = &waiting.estimate {
            prop_assert!(estimate.at >= NOW && estimate.sentence.ends_with('.'));
        }

        // the same, thought anew and plainly
        let suits = |n: usize| any[n].pool == other && label.is_none_or(|eu| any[n].label == Some(eu))
            && any[n].memory >= memory && any[n].slots > 0;
        let here = |n: usize| any[n].live && any[n].heard < CONTACT.as_secs() as i64;
        let free = |n: usize| {
            let on = held.iter().filter(|job| job.state.lease().is_some_and(|lease| lease.worker == workers[n].id));
            let (slots, taken) = on.fold((0, 0), |(slots, taken), job| (slots + 1, taken + job.spec.resources.memory_mib));
            (any[n].slots.saturating_sub(slots), any[n].memory.saturating_sub(taken))
        };
        let has_room = |n: usize| free(n).0 > 0 && free(n).1 >= memory;
        let unkept = |n: usize| match reservations.get(&n).filter(|one| one.job != job.id) {
            Some(one) => free(n).0 > 1 && free(n).1 >= one.resources.memory_mib + memory,
            None => has_room(n),
        };
        let some = |good: &dyn Fn(usize) -> bool| (0..any.len()).any(good);
        let expected = match state {
            0 => Reason::NotBefore,
            1 => Reason::Starting,
            _ if any.is_empty() => Reason::NoWorkers,
            _ if !some(&suits) => Reason::NoWorkerFits,
            _ if running_max.is_some_and(|max| held.len() as u32 >= max) => Reason::AccountLimit,
            _ if some(&|n| suits(n) && here(n) && !any[n].draining && any[n].ready && unkept(n)) =>
                if placed && before > 0 { Reason::WaitingForTurn } else { Reason::NextInLine },
            _ if some(&|n| suits(n) && here(n) && !any[n].draining && any[n].ready && has_room(n)) => Reason::Reserved,
            _ if some(&|n| suits(n) && here(n) && !any[n].draining && any[n].ready) => Reason::WorkersBusy,
            _ if some(&|n| suits(n) && here(n) && !any[n].draining) => Reason::WorkersNotReady,
            _ if some(&|n| suits(n) && here(n)) => Reason::WorkersDraining,
            _ => Reason::WorkersAway,
        };
        prop_assert_eq!(waiting.reason, expected, "{}", sentence);
        if let Some(verdicts) = waiting.verdicts {
            prop_assert_eq!(verdicts.counts.values().sum::<u32>() as usize, any.len());
            prop_assert_eq!(verdicts.shown.len(), any.len());
            for verdict in &verdicts.shown {
                prop_assert!(!verdict.to_string().is_empty());
                let lacking = matches!(
                    verdict.kind,
                    VerdictKind::Reserved | VerdictKind::Busy | VerdictKind::Unsuitable
                );
                prop_assert_eq!(lacking, !verdict.lacks.is_empty());
            }
        } else {
            prop_assert_eq!(state, 1);
        }
    }
}
