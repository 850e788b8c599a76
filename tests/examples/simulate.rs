//! Runs the simulation for many seeds, or one seed with its whole history. `make sim` calls it.

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use jobworker_e2e::simulation::{Experiment, Outcome, alone, run};

const USAGE: &str = "simulate --seeds COUNT [--from FIRST] | --seed SEED";

/// How often the progress is told, in seeds.
const TOLD_EVERY: u64 = 50;

fn main() -> Result<ExitCode> {
    if let Some((experiment, seed)) = alone::asked() {
        alone::answer(&run(experiment.plan(seed)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut words = std::env::args().skip(1);
    let mut numbers: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(name) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{name}: a number is missing; {USAGE}"))?;
        numbers.insert(
            name.clone(),
            value
                .parse()
                .with_context(|| format!("{name} {value}: expected a number"))?,
        );
    }
    let from = numbers.remove("--from").unwrap_or(0);
    match (
        numbers.remove("--seed"),
        numbers.remove("--seeds"),
        numbers.is_empty(),
    ) {
        (Some(seed), None, true) => Ok(one(seed)),
        (None, Some(count), true) => Ok(many(from, count)),
        _ => bail!("{USAGE}"),
    }
}

/// A run in a process of its own: this program once more.
fn run_seed(seed: u64) -> Outcome {
    match std::env::current_exe() {
        Ok(program) => alone::run(Command::new(program), Experiment::AsDrawn, seed),
        Err(error) => Outcome {
            seed,
            violations: vec![format!("this program is not to be found: {error}")],
            ..Outcome::default()
        },
    }
}

/// One seed, twice: its history, and whether it is the same again.
fn one(seed: u64) -> ExitCode {
    let (outcome, again) = (run_seed(seed), run_seed(seed));
    for line in &outcome.lines {
        println!("{line}");
    }
    println!("{:?}", outcome.counts);
    println!("history {}, and again {}", outcome.hash, again.hash);
    if outcome.hash != again.hash {
        let differs = outcome
            .lines
            .iter()
            .zip(&again.lines)
            .find(|(one, two)| one != two);
        println!("{differs:#?}");
        println!("the seed does not run alike: that is a fault of the simulation");
        return ExitCode::FAILURE;
    }
    if outcome.violations.is_empty() {
        println!("every invariant holds");
        return ExitCode::SUCCESS;
    }
    println!("{}", outcome.complaint());
    ExitCode::FAILURE
}

/// Many seeds, as many at a time as there are processors.
fn many(from: u64, count: u64) -> ExitCode {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (next, done) = (AtomicU64::new(from), AtomicU64::new(0));
    let (sums, broken) = (Mutex::new(BTreeMap::<String, u64>::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= from.saturating_add(count) {
                        return;
                    }
                    let Outcome { counts, .. } = judge(run_seed(seed), &broken);
                    let mut sums = sums.lock().expect("no worker panics with it");
                    for (what, often) in counts {
                        *sums.entry(what).or_default() += often;
                    }
                    let done = done.fetch_add(1, Ordering::SeqCst) + 1;
                    if done.is_multiple_of(TOLD_EVERY) {
                        let broken = broken.lock().expect("no worker panics with it").len();
                        println!("{done} of {count} seeds, {broken} broken");
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().expect("no worker panicked with it");
    println!("{:?}", sums.into_inner().expect("no worker panicked with it"));
    println!("{count} seeds from {from}: {} broken {broken:?}", broken.len());
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn judge(outcome: Outcome, broken: &Mutex<Vec<u64>>) -> Outcome {
    if !outcome.violations.is_empty() {
        println!("{}", outcome.complaint());
        broken
            .lock()
            .expect("no worker panics with it")
            .push(outcome.seed);
    }
    outcome
}
