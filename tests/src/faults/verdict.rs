//! What a run was: its counts, and whether its history keeps the laws.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use common::job::StateName;

use super::fault::Fault;
use super::rows::Setting;
use super::special::POISON;
use super::stage::{SIMULATED, Stage};
use crate::history::Invariant::{I1, I2, I3, I4, I4b, I5, I6, I7, I8, I11, I14};
use crate::history::{AttemptRow, Event, History, Invariant, Row};

/// What holds whatever happens. No real overlap is forgiven.
const ALWAYS: [Invariant; 9] = [
    I1,
    I2,
    I3,
    I4,
    I4b(Duration::ZERO),
    I7,
    I8(Duration::from_secs(20)),
    I11,
    I14,
];
/// T, W, L and half a minute, as the matrix has it, and as much again for a machine that is busy.
const STUCK: Invariant = I5 {
    all: Duration::from_secs(80),
    canary: Duration::from_secs(30),
};
/// No request hangs: the API says within three seconds that its store is away; ten for a machine that is busy.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Of each program of ours.
const MEMORY_KIB_MOST: u64 = 512 * 1024;

#[derive(Debug, Clone, Default)]
pub struct Counts {
    pub injections: usize,
    pub jobs: usize,
    pub containers: usize,
    pub succeeded: usize,
    /// Attempts that ended by the infrastructure's doing.
    pub lost: usize,
    /// By their words.
    pub ends: BTreeMap<String, usize>,
    pub refused: usize,
    pub stale_writes: usize,
    pub unheard: usize,
    pub resigned: usize,
    pub longest_answer: Duration,
    pub slowest_canary: Duration,
    pub memory_kib: u64,
}

pub fn counts(stage: &Stage, injections: usize) -> Counts {
    let history = stage.recorder.history();
    let rows = history.rows();
    let attempts = rows.values().flat_map(|row| &row.attempts);
    let mut ends = BTreeMap::new();
    for outcome in attempts.clone().filter_map(|attempt| attempt.outcome.as_ref()) {
        *ends.entry(outcome.clone()).or_default() += 1;
    }
    let schedulers = stage.fleet.schedulers.iter();
    Counts {
        injections,
        jobs: rows.len(),
        containers: rows.values().filter(|row| in_a_container(row)).count(),
        succeeded: rows
            .values()
            .filter(|row| row.state == StateName::Succeeded)
            .count(),
        ends,
        lost: attempts.filter(|attempt| attempt.was_infrastructure()).count(),
        refused: history.refused().len(),
        stale_writes: stage.stale_writes,
        unheard: stage.unheard,
        resigned: schedulers.map(|program| program.said("the term is over")).sum(),
        longest_answer: longest_answer(&history),
        slowest_canary: stage.hands.slowest_canary(),
        memory_kib: memory_kib(stage),
    }
}

/// # Errors
/// Every law that is broken, and what else the row asks for.
pub fn check(stage: &Stage, setting: &Setting, counts: &Counts) -> Result<()> {
    let history = stage.recorder.history();
    history.check(&ALWAYS)?;
    history.check(&[
        STUCK,
        I6 {
            seen: setting.refused_least,
        },
    ])?;
    ensure!(
        counts.stale_writes >= setting.stale_writes_least,
        "{} late writes of a leader were seen refused, expected {}",
        counts.stale_writes,
        setting.stale_writes_least
    );
    ensure!(
        counts.longest_answer <= ANSWER_WITHIN,
        "a request was not answered for {:?}",
        counts.longest_answer
    );
    ensure!(
        counts.memory_kib <= MEMORY_KIB_MOST,
        "a program of ours took {} KiB",
        counts.memory_kib
    );
    nobody_else_failed(&history)?;
    if setting.lossless {
        nothing_was_lost(&history)?;
    }
    if setting.fault == Fault::CancelRaces {
        both_win(&history)?;
    }
    if setting.fault == Fault::ApiKilled {
        // the API gives up after three seconds: on a machine that is busy one may have been told that
        ensure!(
            counts.unheard * 2 >= counts.injections,
            "{} of {} kills came between a job's storing and its answer",
            counts.unheard,
            counts.injections
        );
    }
    Ok(())
}

/// Of a negative control: the first laws that its history breaks. Not those that say that all has ended, since without
/// fences it may not. With I7: a late result that is taken for another attempt's leaves that one's output cut off.
///
/// # Errors
/// When it breaks none, or ran over programs that have their fences: then nothing was shown.
pub fn broken_laws(stage: &Stage) -> Result<String> {
    let schedulers = stage.fleet.schedulers.iter();
    let unfenced = schedulers.filter(|program| program.said("built without fences") > 0);
    ensure!(
        unfenced.count() == stage.fleet.schedulers.len(),
        "these schedulers have their fences: the control shows nothing"
    );
    match stage
        .recorder
        .history()
        .check(&[I3, I4, I4b(Duration::ZERO), I6 { seen: 0 }, I7])
    {
        Err(broken) => Ok(format!("{broken:#}")),
        Ok(()) => bail!("without fences no law was broken: the laws see nothing, or the fault missed"),
    }
}

fn in_a_container(row: &Row) -> bool {
    let real = |attempt: &AttemptRow| !attempt.worker.as_str().starts_with(SIMULATED);
    row.attempts.iter().any(real)
}

/// What a fault takes is given back by another attempt: no job of ours fails of itself, so none may fail at all, but the
/// one that kills its agents.
fn nobody_else_failed(history: &History) -> Result<()> {
    let rows = history.rows();
    let failed: Vec<String> = rows
        .values()
        .filter(|row| row.state == StateName::Failed && !row.key.starts_with(POISON))
        .map(|row| format!("{}: {}", row.key, row.told))
        .collect();
    ensure!(
        failed.is_empty(),
        "{} jobs failed that had nothing wrong: {}",
        failed.len(),
        failed[..failed.len().min(4)].join(", ")
    );
    Ok(())
}

fn nothing_was_lost(history: &History) -> Result<()> {
    let rows = history.rows();
    let lost = rows
        .values()
        .filter(|row| row.attempts_total > 1 || row.infra_retries > 0);
    let lost: Vec<String> = lost
        .map(|row| {
            let ends = row
                .attempts
                .iter()
                .map(|attempt| attempt.outcome.as_deref().unwrap_or("-"));
            format!("{}: {}", row.key, ends.collect::<Vec<_>>().join(", "))
        })
        .collect();
    ensure!(
        lost.is_empty(),
        "{} jobs lost an attempt, which this fault does not excuse: {}",
        lost.len(),
        lost[..lost.len().min(10)].join("; ")
    );
    Ok(())
}

/// Of the cancels, at least a tenth came first and a tenth too late; otherwise nothing raced.
fn both_win(history: &History) -> Result<()> {
    let rows = history.rows();
    let raced = rows.values().filter(|row| row.key.starts_with("cancelled-"));
    let (mut all, mut cancelled) = (0, 0);
    for row in raced {
        all += 1;
        cancelled += usize::from(row.state == StateName::Cancelled);
    }
    println!("    {cancelled} of {all} cancels came first");
    if cancelled * 10 < all || (all - cancelled) * 10 < all {
        bail!("{cancelled} of {all} cancels came first: that was no race");
    }
    Ok(())
}

fn longest_answer(history: &History) -> Duration {
    let mut asked = BTreeMap::new();
    let mut longest = 0;
    for line in history.lines() {
        match &line.event {
            Event::Asked { call, .. } => {
                asked.insert(*call, line.at);
            }
            Event::Answered { call, .. } => {
                if let Some(at) = asked.remove(call) {
                    longest = longest.max(line.at.saturating_sub(at));
                }
            }
            _ => {}
        }
    }
    Duration::from_nanos(longest)
}

/// The most that any program of ours that runs has taken.
fn memory_kib(stage: &Stage) -> u64 {
    let programs = stage.fleet.apis.iter().chain(&stage.fleet.schedulers);
    let programs = programs.filter_map(crate::fleet::Program::pid);
    let agents = stage.agents.values().filter_map(crate::agents::Agent::pid);
    programs.chain(agents).filter_map(peak).max().unwrap_or(0)
}

fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
