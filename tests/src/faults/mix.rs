//! Faults drawn by lot for a while, one of which stays on to the end; then a canary still has to go through.

use std::time::Duration;

use anyhow::{Context as _, Result};
use common::time::{Clock, SystemClock};
use rustix::process::Signal;

use super::fault::{Fault, OF_THE_MIX, inject};
use super::play::Played;
use super::rows::Setting;
use super::stage::Stage;
use super::verdict::{check, counts};
use crate::proxy::{Way, Weather};

/// Jobs without containers beside each fault.
const BESIDE: usize = 12;
/// After the last fault is begun, while it stays.
const CANARIES: usize = 5;

/// Plays for so long, with at most so many containers.
///
/// # Errors
/// When not even the stage can be had.
pub async fn play(length: Duration, containers: usize, seed: u64) -> Result<Played> {
    let begun = SystemClock.mono();
    println!("mix of {length:?} (seed {seed})");
    let setting = Setting {
        fault: Fault::LeaderKilled,
        injections: 0,
        containers,
        simulated: 3,
        own_engine: false,
        turns_clock: false,
        lossless: false,
        refused_least: 0,
        stale_writes_least: 0,
        crowd: 0,
    };
    let mut stage = Stage::open(&setting, seed).await?;
    let mut injected = 0;
    let mut result = mix(&mut stage, length, containers, &mut injected).await;
    let counts = counts(&stage, injected);
    if result.is_ok() {
        result = check(&stage, &setting, &counts);
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
    })
}

async fn mix(stage: &mut Stage, length: Duration, containers: usize, injected: &mut usize) -> Result<()> {
    let begun = SystemClock.mono();
    // the canaries of the end run in containers too
    let mut left = containers.saturating_sub(CANARIES + 1);
    while SystemClock.mono().since(begun) < length {
        stage.round = *injected;
        let place = usize::try_from(stage.chaos.number(OF_THE_MIX.len() as u64 - 1))?;
        let real = usize::try_from(stage.chaos.number(2))?.min(left);
        left -= real;
        one(stage, OF_THE_MIX[place], real)
            .await
            .with_context(|| format!("{:?}, fault number {injected} of the mix", OF_THE_MIX[place]))?;
        *injected += 1;
    }
    let stays = Stays::begin(stage).await?;
    *injected += 1;
    for number in 0..CANARIES {
        let name = format!("under-a-fault-{number}");
        stage
            .hands
            .canary(&name, true)
            .await
            .context("while a fault stays on")?;
    }
    stays.end(stage)?;
    stage.heal();
    stage.hands.canary("last", true).await?;
    stage.settle().await
}

async fn one(stage: &mut Stage, fault: Fault, real: usize) -> Result<()> {
    let hands = stage.hands.clone();
    let (name, seed) = (format!("mix-{}", stage.round), stage.chaos.number(u64::MAX));
    let stream = hands.stream(&name, BESIDE, real, seed);
    let (streamed, broken) = tokio::join!(stream, inject(fault, stage));
    broken?;
    streamed?;
    stage.nobody_is_orphaned().await
}

/// What is broken and stays so, until everything else has gone on without it.
enum Stays {
    /// One agent's link passes in one direction.
    OneWay(String),
    /// A scheduler stands still.
    Scheduler(usize),
    /// A scheduler never reaches Redis.
    WithoutRedis(usize),
}

impl Stays {
    async fn begin(stage: &mut Stage) -> Result<Self> {
        let leader = stage.leader().await?;
        let stays = match stage.chaos.number(2) {
            0 => Self::OneWay("b".to_owned()),
            1 => Self::Scheduler(leader),
            _ => Self::WithoutRedis(leader),
        };
        match &stays {
            Self::OneWay(name) => {
                stage.fault(&format!(
                    "to the end the link of {name} passes in one direction only"
                ));
                let link = stage.links.get(name).context("it has a link")?;
                link.turns(Weather::Swallows(Way::ToClient));
            }
            Self::Scheduler(number) => {
                stage.fault("to the end the leader stands still");
                stage.scheduler(*number)?.signal(Signal::STOP)?;
            }
            Self::WithoutRedis(number) => {
                stage.fault("to the end the leader is cut off from Redis");
                let ways = stage.scheduler(*number)?.ways()?;
                ways.redis.turns(Weather::Swallows(Way::Both));
            }
        }
        Ok(stays)
    }

    fn end(self, stage: &mut Stage) -> Result<()> {
        match self {
            Self::OneWay(_) => {}
            Self::Scheduler(number) => stage.scheduler(number)?.signal(Signal::CONT)?,
            Self::WithoutRedis(number) => stage.scheduler(number)?.ways()?.redis.clears(),
        }
        Ok(())
    }
}
