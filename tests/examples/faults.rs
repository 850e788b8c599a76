//! Plays rows of the fault matrix, or the mix, and writes how they went into `docs/reliability.md`.
//!
//! By its environment, as `make faults` gives it: `ROWS` the rows, separated by commas, or `all`; `MIX` the seconds of
//! the mix; without both, all rows and ten minutes of the mix; `SEED` the seed of every row; `ROUNDS` the injections of
//! each row and `CROWD` the length of F29's queue, where the row's own take too long. What is smaller than the row is by
//! itself, or a mix of less than ten minutes, is not written; `WRITE=1` writes it, `WRITE=0` nothing.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use common::program::stop_on_signals;
use common::tasks::Tasks;
use jobworker_e2e::faults::play::{self, Played};
use jobworker_e2e::faults::rows::{Plays, ROWS, Setting, UNFENCED};
use jobworker_e2e::faults::{mix, report};

/// Of the mix, when nobody says how long: the real containers that are spread over it.
const CONTAINERS: usize = 60;

/// Of the mix after all rows.
const MIX_SECONDS: u64 = 600;

#[tokio::main]
async fn main() -> ExitCode {
    let tasks = Tasks::new();
    if let Err(error) = stop_on_signals(&tasks) {
        eprintln!("error: no handlers for signals: {error}");
        return ExitCode::FAILURE;
    }
    // told to end, it ends what it has started first: dropping a stage does
    let played = tasks.stopping().run_until_cancelled(all()).await;
    match played.unwrap_or(Ok(false)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn given(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// As somebody asked for it.
fn sized(setting: Setting) -> Result<Setting> {
    let number = |name: &str, own: usize| match given(name) {
        Some(text) => text.parse().with_context(|| format!("{name} is a number")),
        None => Ok(own),
    };
    Ok(Setting {
        injections: number("ROUNDS", setting.injections)?,
        crowd: match setting.crowd {
            0 => 0,
            own => number("CROWD", own)?,
        },
        ..setting
    })
}

/// Whether a row is played as large as it is by itself.
const fn is_whole(setting: &Setting, own: &Setting) -> bool {
    setting.injections >= own.injections && setting.crowd >= own.crowd
}

/// Whether every row held.
async fn all() -> Result<bool> {
    let seed = given("SEED").map(|text| text.parse()).transpose();
    let seed: Option<u64> = seed.context("SEED is a number of at most 64 bits")?;
    let length = given("MIX").map(|text| text.parse()).transpose();
    let length: Option<u64> = length.context("MIX is a number of seconds")?;
    // nothing asked for is everything
    let length = length.or(given("ROWS").is_none().then_some(MIX_SECONDS));
    let write = given("WRITE");
    let mut held = true;
    let mut end = |id: &str, played: Played, whole: bool| -> Result<()> {
        match &played.result {
            Ok(()) => {
                let how = played.shown.as_deref().map_or("held".to_owned(), |laws| {
                    format!("broke its laws, as it has to: {laws}")
                });
                println!("{id}: {how}, {:?}, in {:?}", played.counts, played.took);
                if let Some(stayed) = &played.stayed {
                    println!("    from its first quarter on {stayed}");
                }
            }
            Err(error) => println!(
                "{id}: BROKEN by seed {}, {:?}: {error:#}",
                played.seed, played.counts
            ),
        }
        held &= played.result.is_ok();
        if report::is_kept(write.as_deref(), whole) {
            return report::write(id, &played);
        }
        println!("    docs/reliability.md stays as it is");
        Ok(())
    };
    for id in rows(given("ROWS"), given("MIX").is_some())? {
        let known = ROWS.iter().find(|row| row.id == id);
        let row = known.with_context(|| format!("there is no row `{id}`: see docs/reliability.md"))?;
        match &row.plays {
            Plays::Fault(own) => {
                let setting = &sized(*own)?;
                let played = Box::pin(play::row(row, setting, seed.unwrap_or_else(rand::random))).await;
                let played = played.with_context(|| format!("{id} has no stage"))?;
                end(row.id, played, is_whole(setting, own))?;
            }
            Plays::Control(own) => {
                let setting = &sized(*own)?;
                let Some(programs) = given(UNFENCED) else {
                    println!(
                        "{id}: not run: {UNFENCED} names no programs without fences; scripts/faults builds them"
                    );
                    continue;
                };
                let seed = seed.unwrap_or_else(rand::random);
                let played = Box::pin(play::control(row, setting, programs.into(), seed)).await;
                let played = played.with_context(|| format!("{id} has no stage"))?;
                end(row.id, played, is_whole(setting, own))?;
            }
        }
    }
    if let Some(length) = length {
        let seed = seed.unwrap_or_else(rand::random);
        let played = Box::pin(mix::play(Duration::from_secs(length), CONTAINERS, seed)).await?;
        end("mix", played, length >= MIX_SECONDS)?;
    }
    Ok(held)
}

fn rows(given: Option<String>, mix_alone: bool) -> Result<Vec<String>> {
    let all = || ROWS.iter().map(|row| row.id.to_owned()).collect();
    let rows: Vec<String> = match given.as_deref() {
        Some("all") => all(),
        None if !mix_alone => all(),
        None => Vec::new(),
        Some(list) => list.split(',').map(|id| id.trim().to_owned()).collect(),
    };
    if rows.iter().any(String::is_empty) {
        bail!("ROWS are ids, separated by commas: ROWS=F2,F13");
    }
    Ok(rows)
}
