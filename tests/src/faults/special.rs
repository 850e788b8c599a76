//! Faults that jobs are themselves: over before anybody looks, cancelled as they end, deadly to their agent.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use common::job::StateName;
use futures_util::future::try_join_all;

use super::hands::Hands;
use super::processes::busy_agent;
use super::rows::LEASE;
use super::stage::Stage;
use crate::chaos::Chaos;
use crate::client::{Client, brief, shell};
use crate::wait::{LONG, wait_for};

/// Of one injection of short jobs: so many that end at once, and so many that print a megabyte and end.
pub const SHORT_AT_ONCE: usize = 25;
pub const MEGABYTES_AT_ONCE: usize = 5;
/// At a time, so that none waits for a slot.
const RACES: usize = 25;
/// How far from the middle a cancel comes, and how far the middle moves after each round.
const RACE_AROUND: Duration = Duration::from_millis(60);
const RACE_STEP_MS: u64 = 40;
const MEGABYTE: usize = 1 << 20;
/// A job of ours prints these lines, a megabyte of them.
const LINE: &[u8] = b"0123456789abcde\n";
/// How often a job whose worker is lost is begun.
const ATTEMPTS_MOST: u32 = 4;

/// Some that end at once, and some that print a megabyte and end; each log is whole.
pub async fn short_jobs(stage: &mut Stage) -> Result<()> {
    if stage.agents.is_empty() {
        stage.start_agent("a", None).await?;
    }
    let (hands, round) = (stage.hands.clone(), stage.round);
    let mut jobs = Vec::new();
    for number in 0..SHORT_AT_ONCE {
        let word = format!("{round}-{number}");
        let job = shell(&format!("echo {word}"));
        let id = hands.submit(&format!("echo-{word}"), &job).await?;
        jobs.push((id, format!("{word}\n").into_bytes()));
    }
    let count = MEGABYTE / LINE.len();
    let line = String::from_utf8_lossy(LINE);
    let job = shell(&format!("yes {} | head -n {count}", line.trim_end()));
    for number in 0..MEGABYTES_AT_ONCE {
        let id = hands.submit(&format!("megabyte-{round}-{number}"), &job).await?;
        jobs.push((id, LINE.repeat(count)));
    }
    for (id, written) in jobs {
        let ended = hands.client.ended(id, LONG).await?;
        ensure!(ended.state == StateName::Succeeded, "{}", brief(&ended));
        let stored = hands.client.log(id, common::log::Stream::Stdout).await?;
        ensure!(
            stored == written,
            "{} bytes are stored of {}: {}",
            stored.len(),
            written.len(),
            brief(&ended)
        );
    }
    Ok(())
}

/// Cancels, each at about the time at which its job ends; that time is learnt from who came first.
pub async fn cancel_races(stage: &mut Stage) -> Result<()> {
    let (hands, round, centre) = (stage.hands.clone(), stage.round, stage.race_ms);
    let seeds: Vec<u64> = (0..RACES).map(|_| stage.chaos.number(u64::MAX)).collect();
    let races = seeds.into_iter().enumerate();
    let races = races.map(|(number, seed)| {
        let key = format!("cancelled-{round}-{number}");
        cancel_race(&hands, key, Duration::from_millis(centre), seed)
    });
    let cancelled = try_join_all(races).await?.into_iter().filter(|won| *won).count();
    stage.race_ms = if cancelled * 2 > RACES {
        centre + RACE_STEP_MS
    } else {
        centre.saturating_sub(RACE_STEP_MS)
    };
    Ok(())
}

/// Whether the cancel came first.
async fn cancel_race(hands: &Hands, key: String, centre: Duration, seed: u64) -> Result<bool> {
    let mut chaos = Chaos::of(seed);
    let id = hands.simulated(&key).await?;
    chaos
        .some_time(centre.saturating_sub(RACE_AROUND), centre + RACE_AROUND)
        .await;
    // either answer is good; that the end agrees with it is a law
    let _ = hands.recorder.cancel(&hands.client, id).await;
    let ended = hands.client.ended(id, LONG).await?;
    match ended.state {
        StateName::Succeeded => Ok(false),
        StateName::Cancelled => Ok(true),
        _ => bail!("{}", brief(&ended)),
    }
}

/// What the names of jobs that kill their agents begin with.
pub const POISON: &str = "poison";

/// Each time that it runs its agent is killed; at last it has failed, and nobody else's job suffers.
pub async fn poison_job(stage: &mut Stage) -> Result<()> {
    let (hands, key) = (stage.hands.clone(), format!("{POISON}-{}", stage.round));
    let id = hands.real(&key, 300).await?;
    stage.fault("a job kills each agent that runs it");
    let mut killed = 0;
    loop {
        let seen = stage.recorder.history().runs_of(&key).len();
        let next = wait_for(LONG, "the poison to run, or to have failed", async || {
            if stage.recorder.history().runs_of(&key).len() > killed {
                return Ok(true);
            }
            match hands.client.job(id).await {
                Ok(job) if job.state.is_terminal() => Ok(false),
                Ok(job) => Err(format!("{}, {seen} runs", brief(&job))),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        if !next {
            break;
        }
        killed += 1;
        let name = holder(stage, &hands.client, id).await?;
        stage.agent(&name)?.kill()?;
        // for good, as far as this attempt goes
        let lease = u64::try_from(LEASE.as_millis())?;
        stage.lasts(lease + 1_500, lease + 2_500).await;
        stage.agent(&name)?.start_again()?;
    }
    let ended = hands.client.job(id).await?;
    ensure!(
        ended.state == StateName::Failed && ended.attempts_total <= ATTEMPTS_MOST,
        "{}",
        brief(&ended)
    );
    Ok(())
}

/// The agent that runs it, as its row says.
async fn holder(stage: &mut Stage, client: &Client, id: common::ids::JobId) -> Result<String> {
    let running = client
        .job_when(id, LONG, "its worker", |job| !job.attempts.is_empty())
        .await?;
    let worker = &running.attempts.last().context("it has an attempt")?.worker;
    let held = stage.agents.iter().find(|(_, agent)| agent.worker() == worker);
    match held {
        Some((name, _)) => Ok(name.clone()),
        None => Ok(busy_agent(stage).await?.to_owned()),
    }
}
