//! The simulated system keeps its invariants under every fault; every seed runs alike; and a check that is left out
//! is found to be missing.

#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;

use common::store::Stores;
use common::time::{ManualClock, Timestamp};
use jobworker_e2e::simulation::checker::{STALE_RESULT, STALE_WRITE};
use jobworker_e2e::simulation::store::{Backends, Caller, Client};
use jobworker_e2e::simulation::{Experiment, Outcome, alone, run};
use storage::conformance::{Backend, Ending};

mod memory {
    //! The simulation's stores keep the laws of every backend.

    use super::{Memory, fresh};

    storage::conformance_suite!(begin);

    async fn begin() -> Memory {
        fresh()
    }
}

struct Memory {
    backends: Arc<Backends>,
    clock: Arc<ManualClock>,
}

fn fresh() -> Memory {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    Memory {
        backends: Backends::new(clock.clone(), Arc::new(())),
        clock,
    }
}

#[async_trait::async_trait]
impl Backend for Memory {
    fn stores(&self) -> Stores {
        Client::direct(Arc::clone(&self.backends), Caller(0)).stores()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn reopen(&mut self, _: Ending) {
        // The rows are nobody's process; the rest is lost with it.
        self.backends.without_coord();
    }
}

/// Seeds of `make test`, in parts that run side by side.
const PART: u64 = 25;

/// A run in a process of its own: this test program once more, asked for the one test below.
fn run_alone(experiment: Experiment, seed: u64) -> Outcome {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "a_run_in_a_process_of_its_own", "--nocapture"]);
    alone::run(program, experiment, seed)
}

/// What the other tests start; by itself a run like any other.
#[test]
fn a_run_in_a_process_of_its_own() {
    let (experiment, seed) = alone::asked().unwrap_or((Experiment::AsDrawn, 0));
    let outcome = run(experiment.plan(seed));
    alone::answer(&outcome);
    assert!(
        alone::asked().is_some() || outcome.violations.is_empty(),
        "{}",
        outcome.complaint()
    );
}

fn every_seed_holds(part: u64) {
    let mut broken = Vec::new();
    for seed in part * PART..(part + 1) * PART {
        let outcome = run_alone(Experiment::AsDrawn, seed);
        if !outcome.violations.is_empty() {
            broken.push(outcome.complaint());
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

macro_rules! parts {
    ($($name:ident: $part:literal,)+) => {
        $(#[test]
        fn $name() {
            every_seed_holds($part);
        })+
    };
}

parts! {
    every_invariant_holds_for_seeds_0_to_24: 0,
    every_invariant_holds_for_seeds_25_to_49: 1,
    every_invariant_holds_for_seeds_50_to_74: 2,
    every_invariant_holds_for_seeds_75_to_99: 3,
    every_invariant_holds_for_seeds_100_to_124: 4,
    every_invariant_holds_for_seeds_125_to_149: 5,
    every_invariant_holds_for_seeds_150_to_174: 6,
    every_invariant_holds_for_seeds_175_to_199: 7,
}

#[test]
fn a_seed_runs_alike_twice_to_the_last_event() {
    for seed in [1, 7, 42] {
        let (one, two) = (
            run_alone(Experiment::AsDrawn, seed),
            run_alone(Experiment::AsDrawn, seed),
        );
        let differs = one.lines.iter().zip(&two.lines).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(
            (one.lines.len(), one.hash),
            (two.lines.len(), two.hash),
            "seed {seed}"
        );
    }
}

/// Among a bounded number of seeds the simulation sees that a check is missing.
fn is_noticed(experiment: Experiment, invariant: &str) {
    const SEEDS: u64 = 40;
    let noticed = (0..SEEDS).find(|&seed| {
        let violations = run_alone(experiment, seed).violations;
        violations.iter().any(|found| found.starts_with(invariant))
    });
    assert!(noticed.is_some(), "none of {SEEDS} seeds breaks {invariant}");
    println!("{experiment:?} is noticed at seed {noticed:?}");
}

/// Every invariant holds; answers how often `what` happened in all of these seeds together.
fn holds(experiment: Experiment, seeds: u64, what: &str) -> u64 {
    let outcomes: Vec<Outcome> = (0..seeds).map(|seed| run_alone(experiment, seed)).collect();
    for outcome in &outcomes {
        let complaint = outcome.complaint();
        assert!(outcome.violations.is_empty(), "{experiment:?}: {complaint}");
    }
    let often = |outcome: &Outcome| outcome.counts.get(what).copied().unwrap_or(0);
    let sum = outcomes.iter().map(often).sum();
    println!("{experiment:?}, {seeds} seeds: {what}: {sum}");
    sum
}

/// F2, with its negative control: the leader's writes are refused by what the next term marked, and by nothing else.
#[test]
fn a_leader_stopped_past_its_lock_writes_nothing_and_without_fencing_it_does() {
    let refused = holds(Experiment::LeaderStopped, 8, STALE_WRITE);
    assert!(refused >= 5, "{refused} stale writes of leaders were refused");
    is_noticed(Experiment::LeaderStoppedUnfenced, "I4: the epoch");
}

/// F13, with its negative control.
#[test]
fn a_worker_stopped_past_its_lease_is_not_believed_and_without_fencing_it_is() {
    let refused = holds(Experiment::WorkerStopped, 8, STALE_RESULT);
    assert!(refused >= 5, "{refused} stale results were refused");
    is_noticed(Experiment::WorkerStoppedUnfenced, "I6");
}

/// F23: leases are counted on clocks that nobody sets.
#[test]
fn calendars_that_are_an_hour_off_lose_no_session() {
    let lost = holds(Experiment::ClocksStepped, 12, "session lost");
    assert_eq!(lost, 0, "sessions of workers that were heard all the time");
}

#[test]
fn calendars_that_are_an_hour_off_break_nothing_among_other_faults() {
    assert!(holds(Experiment::ClocksSteppedInTrouble, 20, "event") > 20);
}

#[test]
fn without_the_check_of_the_attempt_a_stale_result_is_taken() {
    is_noticed(Experiment::WithoutAttempt, "I6");
}

#[test]
fn without_a_raised_revision_an_old_leader_writes_over_a_take_over() {
    is_noticed(Experiment::WithoutRevision, "I4: the epoch");
}

#[test]
fn without_regard_for_the_cancel_a_cancelled_job_succeeds() {
    is_noticed(Experiment::WithoutCancel, "I8");
}
