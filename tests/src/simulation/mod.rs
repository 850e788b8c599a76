//! The whole system in one thread, on simulated time, with faults drawn from a seed.
//!
//! Real: the schedulers (leader, gateway, and everything that they decide), the agents (session, attempts, journal,
//! spool, the reader and writer of their link), and the service that the API goes through. Simulated: the stores
//! ([`store`], which keep the laws of every backend), the lines ([`wire`]), the engine and its containers ([`engine`]),
//! and the machine itself ([`machine`]), which makes every run of a seed alike, in any process.
//!
//! A run ([`world`]) has load and trouble for a while, then everything is mended, and it has to come to rest. The
//! invariants are looked at with every change ([`checker`]) and at the end ([`verdict`]).

pub mod alone;
pub mod checker;
pub mod clients;
pub mod clock;
pub mod dice;
pub mod engine;
pub mod events;
pub mod experiment;
pub mod history;
pub mod host;
pub mod machine;
pub mod network;
pub mod plan;
pub mod programs;
pub mod store;
pub mod verdict;
pub mod wire;
pub mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::experiment::Experiment;
use self::history::History;
use self::plan::Plan;
use self::world::World;

/// What came of one run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    /// How often what happened.
    pub counts: BTreeMap<String, u64>,
    pub hash: String,
    pub lines: Vec<String>,
}

impl Outcome {
    /// What to say of a run that broke something: what, and how to see it again.
    pub fn complaint(&self) -> String {
        let commit = option_env!("GITHUB_SHA").map_or_else(commit, str::to_owned);
        let first: Vec<&str> = self.violations.iter().take(5).map(String::as_str).collect();
        format!(
            "seed {} broke {} invariants at commit {commit}:\n  {}\nsee it again: make sim SEED={}",
            self.seed,
            self.violations.len(),
            first.join("\n  "),
            self.seed
        )
    }
}

fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    asked
        .ok()
        .and_then(|answer| String::from_utf8(answer.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Runs a plan from its beginning to its verdict.
///
/// # Panics
/// When there is no room for the agents' folders.
pub fn run(plan: Plan) -> Outcome {
    let seed = plan.seed;
    // In memory where there is such a place: the agents sync their journals often.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let folder =
        crate::place::folder_in(&place, "simulation").expect("there is room for the agents' folders");
    let history = Arc::new(History::default());
    let (told, path) = (Arc::clone(&history), folder.path().to_owned());
    machine::run(seed, move || async move {
        told.note(format_args!("{plan:?}"));
        let world = World::new(plan, told, &path);
        Box::pin(world.run()).await;
    });
    Outcome {
        seed,
        violations: history.violations(),
        counts: history
            .counts()
            .into_iter()
            .map(|(what, often)| (what.to_owned(), often))
            .collect(),
        hash: history.hash(),
        lines: history.lines(),
    }
}
