//! The exhaustive model: two leaders, two workers, one job, and every order of their steps up to a depth.
//!
//! `lifecycle` is the real one; what surrounds it (lock, term, sessions, compare-and-set, gateways that load, decide
//! and commit in separate steps) is modelled step by step, so that every actor may be paused between any two of its
//! reads and writes. Each mutant leaves out one rule and has to break the invariant that is named for it.

#[path = "model/explore.rs"]
mod explore;
#[path = "model/laws.rs"]
mod laws;
#[path = "model/world.rs"]
mod world;

use std::time::Duration;

use common::time::{Clock, SystemClock};

use explore::explore;
use world::{Mutant, World};

/// Every state reachable in this many steps is visited; 12 are promised, and 16 still take seconds.
const DEPTH: usize = 16;

/// A proof that nobody waits for is not made.
const PROVED_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn no_order_of_steps_breaks_an_invariant() {
    let began = SystemClock.mono();
    let found = explore(World::new(None), DEPTH);
    let took = SystemClock.mono().since(began);
    println!("{} distinct states in {DEPTH} steps, {took:?}", found.states);
    if let Some(violation) = found.violation {
        panic!("{violation}");
    }
    assert!(
        found.states > 100_000,
        "the model has become too small to prove anything: {} states",
        found.states
    );
    assert!(took < PROVED_WITHIN, "{took:?} for {} states", found.states);
}

/// From its first attempt on, a job is not lost as often as it may be within so few steps.
#[test]
fn no_order_of_steps_tries_a_job_again_that_has_used_up_its_retries() {
    const STEPS: usize = 12;
    let found = explore(World::with_budget_spent(), STEPS);
    println!(
        "{} distinct states in {STEPS} steps, at the last attempt",
        found.states
    );
    if let Some(violation) = found.violation {
        panic!("{violation}");
    }
    assert!(found.states > 1_000, "{} states prove nothing", found.states);
}

#[test]
fn each_rule_left_out_breaks_the_invariant_named_for_it() {
    for (mutant, invariant) in [
        (Mutant::NoAttemptCheck, "I6"),
        (Mutant::NoEpochCheck, "I10"),
        (Mutant::TakeOverKeepsRevision, "I10"),
        (Mutant::ExpireOnlyOwnTerm, "never-expires"),
        (Mutant::NoSecondLook, "one-leader"),
        (Mutant::FinishIgnoresCancel, "I8"),
        (Mutant::FinishGivesUpOnConflict, "good-result-refused"),
        (Mutant::ExpireLeavesAttemptOpen, "I4"),
        (Mutant::RetriesAreFree, "I11"),
    ] {
        let found = explore(World::new(Some(mutant)), DEPTH);
        let violation = found
            .violation
            .unwrap_or_else(|| panic!("{mutant:?} broke nothing in {} states", found.states));
        assert_eq!(violation.invariant, invariant, "{mutant:?}: {violation}");
        println!(
            "{mutant:?} breaks {invariant} after {} steps",
            violation.trace.len()
        );
    }
}
