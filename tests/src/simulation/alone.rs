//! One run, one process: what a process keeps for all its threads (such as the number of runtimes that it has had,
//! from which each draws its own chance) is part of a run, so no run may be a second one.
//!
//! The process is the caller's own program once more, asked by a variable of its environment; it answers with one line.

use std::process::Command;
use std::str::FromStr;

use super::{Experiment, Outcome};

const VARIABLE: &str = "JOBWORKER_SIMULATE";

const MARK: &str = "SIMULATED ";

/// Runs a seed in a process of its own, which is `program`, asked.
pub fn run(mut program: Command, experiment: Experiment, seed: u64) -> Outcome {
    let broken = |violation: String| Outcome {
        seed,
        violations: vec![violation],
        ..Outcome::default()
    };
    let output = match program.env(VARIABLE, format!("{experiment:?}/{seed}")).output() {
        Ok(output) => output,
        Err(error) => return broken(format!("the process of a run does not start: {error}")),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text
        .split_once(MARK)
        .and_then(|(_, rest)| rest.lines().next())
        .and_then(|line| serde_json::from_str(line).ok());
    answer.unwrap_or_else(|| {
        let error = String::from_utf8_lossy(&output.stderr);
        broken(format!(
            "the process of a run ended with {}: {error}",
            output.status
        ))
    })
}

/// What this process was started for.
pub fn asked() -> Option<(Experiment, u64)> {
    let text = std::env::var(VARIABLE).ok()?;
    let (experiment, seed) = text.split_once('/')?;
    Some((Experiment::from_str(experiment).ok()?, seed.parse().ok()?))
}

pub fn answer(outcome: &Outcome) {
    let text = serde_json::to_string(outcome).expect("an outcome is plain data");
    println!("{MARK}{text}");
}
