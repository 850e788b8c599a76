//! Plays one row: jobs keep coming while the fault is injected again and again; then everything has to end, and the
//! history keeps its laws.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use common::time::{Clock, SystemClock};

use super::fault::{Fault, inject};
use super::processes::{LATE_CLAIMS, LATE_RUNS};
use super::rows::{JOBS, Row, Setting};
use super::special::{MEGABYTES_AT_ONCE, SHORT_AT_ONCE};
use super::stage::Stage;
use super::verdict::{Counts, broken_laws, check, counts};

/// How a row went.
#[derive(Debug)]
pub struct Played {
    pub counts: Counts,
    pub took: Duration,
    pub seed: u64,
    pub result: Result<()>,
    /// Of a negative control that has shown what it is for: the laws that were broken.
    pub shown: Option<String>,
    /// Of a mix: what was broken from its first quarter to its end, and what went through meanwhile.
    pub stayed: Option<String>,
}

/// Plays a row by this seed. The counts are of what was seen, also where it did not go well.
///
/// # Errors
/// When not even the stage can be had.
pub async fn row(row: &Row, setting: &Setting, seed: u64) -> Result<Played> {
    let begun = SystemClock.mono();
    println!("{}: {} (seed {seed})", row.id, row.what);
    let mut stage = Stage::open(setting, seed).await?;
    let mut injected = 0;
    let mut result = play(&mut stage, setting, &mut injected).await;
    let counts = counts(&stage, injected);
    if result.is_ok() {
        result = check(&stage, setting, &counts);
    }
    if result.is_ok() {
        result = stage.close().await.context("at the end");
    }
    Ok(Played {
        counts,
        took: SystemClock.mono().since(begun),
        seed,
        result,
        shown: None,
        stayed: None,
    })
}

/// Plays a row over programs without fences, to see its laws broken.
///
/// # Errors
/// When not even the stage can be had.
pub async fn control(row: &Row, setting: &Setting, programs: PathBuf, seed: u64) -> Result<Played> {
    let begun = SystemClock.mono();
    println!("{}: {} (seed {seed})", row.id, row.what);
    let mut stage = Stage::open_with(programs, setting, seed).await?;
    let mut injected = 0;
    // it may well not get to its end: what was seen until then counts
    if let Err(error) = play(&mut stage, setting, &mut injected).await {
        println!("    it did not get to its end: {error:#}");
    }
    let (counts, broken) = (counts(&stage, injected), broken_laws(&stage));
    // programs that have lost their laws need not end well
    drop(stage);
    let (result, shown) = match broken {
        Ok(laws) => (Ok(()), Some(laws)),
        Err(error) => (Err(error), None),
    };
    Ok(Played {
        counts,
        took: SystemClock.mono().since(begun),
        seed,
        result,
        shown,
        stayed: None,
    })
}

async fn play(stage: &mut Stage, setting: &Setting, injected: &mut usize) -> Result<()> {
    let rounds = setting.injections;
    let share = |all: usize, round: usize| all * (round + 1) / rounds - all * round / rounds;
    let own = jobs_of_its_own(setting.fault) * rounds;
    let simulated = JOBS.saturating_sub(setting.containers + own);
    for round in 0..rounds {
        stage.round = round;
        let hands = stage.hands.clone();
        let (name, seed) = (format!("round-{round}"), stage.chaos.number(u64::MAX));
        let stream = hands.stream(
            &name,
            share(simulated, round),
            share(setting.containers, round),
            seed,
        );
        let (streamed, broken) = tokio::join!(stream, inject(setting.fault, stage));
        broken.with_context(|| format!("injection {round}"))?;
        *injected += 1;
        streamed.with_context(|| format!("jobs of injection {round}"))?;
        stage.nobody_is_orphaned().await?;
        stage.hands.canary(&round.to_string(), false).await?;
    }
    stage.heal();
    stage.hands.canary("last", !stage.agents.is_empty()).await?;
    stage.settle().await
}

/// What an injection of this fault submits by itself.
const fn jobs_of_its_own(fault: Fault) -> usize {
    match fault {
        Fault::CancelRaces => 25,
        Fault::LeaderStopped => LATE_CLAIMS,
        Fault::AgentStopped => LATE_RUNS,
        Fault::ShortJobs => SHORT_AT_ONCE + MEGABYTES_AT_ONCE,
        _ => 0,
    }
}
