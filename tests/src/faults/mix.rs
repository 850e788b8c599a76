//! Faults drawn by lot for a while. After its first quarter one begins that stays on to the end, beside all others, and
//! canaries have to go through under it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use common::time::{Clock, SystemClock};
use rustix::process::Signal;

use super::fault::{Fault, OF_THE_MIX, inject};
use super::play::Played;
use super::processes::another_leads;
use super::rows::Setting;
use super::stage::{SIMULATED, Stage};
use super::verdict::{check, counts};
use crate::proxy::{Proxy, Way, Weather};

/// Jobs without containers beside each fault.
const BESIDE: usize = 12;
/// In containers, when all other faults are over and one stays.
const CANARIES: usize = 5;
/// One of them may have no link.
const SIMULATED_AGENTS: usize = 4;
/// The first part of the length, in which nothing stays broken.
const STAYS_AFTER: u32 = 4;

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
        simulated: SIMULATED_AGENTS,
        // one may be broken to the end, and of the others one may always be away
        schedulers: 3,
        own_engine: false,
        turns_clock: false,
        lossless: false,
        refused_least: 0,
        stale_writes_least: 0,
        crowd: 0,
    };
    let mut stage = Stage::open(&setting, seed).await?;
    let mut course = Course::default();
    let mut result = mix(&mut stage, length, containers, &mut course).await;
    let counts = counts(&stage, course.injected);
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
        stayed: course.stayed,
    })
}

/// How far it came.
#[derive(Default)]
struct Course {
    injected: usize,
    /// What stayed broken, for how many canaries that went through.
    stayed: Option<String>,
}

async fn mix(stage: &mut Stage, length: Duration, containers: usize, course: &mut Course) -> Result<()> {
    let begun = SystemClock.mono();
    // the canaries of the end run in containers too
    let mut left = containers.saturating_sub(CANARIES + 1);
    let (mut stays, mut canaries) = (None, 0);
    while SystemClock.mono().since(begun) < length {
        if stays.is_none() && SystemClock.mono().since(begun) >= length / STAYS_AFTER {
            stays = Some(begin(stage, course).await?);
        }
        stage.round = course.injected;
        let place = usize::try_from(stage.chaos.number(OF_THE_MIX.len() as u64 - 1))?;
        let real = usize::try_from(stage.chaos.number(2))?.min(left);
        left -= real;
        let number = course.injected;
        one(stage, OF_THE_MIX[place], real)
            .await
            .with_context(|| format!("{:?}, fault number {number} of the mix", OF_THE_MIX[place]))?;
        course.injected += 1;
        if let Some(stays) = &stays {
            let canary = stage.hands.canary(&format!("beside-{number}"), false).await;
            canary.with_context(|| format!("while {}", stays.what()))?;
            canaries += 1;
        }
    }
    // one fault may have taken all the time
    let stays = match stays {
        Some(stays) => stays,
        None => begin(stage, course).await?,
    };
    for number in 0..CANARIES {
        let canary = stage.hands.canary(&format!("under-a-fault-{number}"), true).await;
        canary.with_context(|| format!("while {}", stays.what()))?;
        canaries += 1;
    }
    course.stayed = Some(format!("{}; {canaries} canaries went through", stays.what()));
    stays.end(stage).await?;
    stage.heal();
    stage.hands.canary("last", true).await?;
    stage.settle().await
}

async fn begin(stage: &mut Stage, course: &mut Course) -> Result<Stays> {
    let stays = Stays::begin(stage).await?;
    course.injected += 1;
    course.stayed = Some(stays.what().to_owned());
    Ok(stays)
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

/// What is broken and stays so, while everything else goes on without it and is broken too.
#[derive(Clone, Copy)]
enum Broken {
    /// A simulated agent's link passes in one direction.
    LinkToAgent,
    LinkToServer,
    /// A scheduler that led stands still, is gone, or never reaches Redis.
    StandsStill,
    Gone,
    WithoutRedis,
}

struct Stays {
    broken: Broken,
    /// The one that led when it began.
    scheduler: usize,
    /// Kept from faults that would mend it.
    link: Option<(String, Proxy)>,
}

impl Stays {
    async fn begin(stage: &mut Stage) -> Result<Self> {
        let scheduler = stage.leader().await?;
        let broken = [
            Broken::LinkToAgent,
            Broken::LinkToServer,
            Broken::StandsStill,
            Broken::Gone,
            Broken::WithoutRedis,
        ];
        let place = usize::try_from(stage.chaos.number(broken.len() as u64 - 1))?;
        let mut stays = Self {
            broken: broken[place],
            scheduler,
            link: None,
        };
        stage.fault(&format!("to the end {}", stays.what()));
        match stays.broken {
            Broken::LinkToAgent => stays.link = Some(cut(stage, Way::ToClient)?),
            Broken::LinkToServer => stays.link = Some(cut(stage, Way::ToServer)?),
            Broken::StandsStill => stage.scheduler(scheduler)?.signal(Signal::STOP)?,
            Broken::Gone => stage.scheduler(scheduler)?.kill()?,
            Broken::WithoutRedis => {
                let ways = stage.scheduler(scheduler)?.ways()?;
                ways.redis.turns(Weather::Swallows(Way::Both));
            }
        }
        if stays.link.is_none() {
            stage.out = Some(scheduler);
            another_leads(stage, scheduler).await?;
        }
        Ok(stays)
    }

    const fn what(&self) -> &'static str {
        match self.broken {
            Broken::LinkToAgent => "nothing reaches an agent that is heard",
            Broken::LinkToServer => "nothing is heard of an agent that hears",
            Broken::StandsStill => "a scheduler of three stands still",
            Broken::Gone => "a scheduler of three is gone",
            Broken::WithoutRedis => "a scheduler of three does not reach Redis",
        }
    }

    async fn end(self, stage: &mut Stage) -> Result<()> {
        stage.fault("what was broken to the end is mended");
        stage.out = None;
        match self.broken {
            Broken::LinkToAgent | Broken::LinkToServer => {}
            Broken::StandsStill => stage.scheduler(self.scheduler)?.signal(Signal::CONT)?,
            Broken::Gone => {
                stage.scheduler(self.scheduler)?.start()?;
                stage.scheduler(self.scheduler)?.listens().await?;
            }
            Broken::WithoutRedis => stage.scheduler(self.scheduler)?.ways()?.redis.clears(),
        }
        if let Some((name, link)) = self.link {
            // healing clears it, as all others
            stage.links.insert(name, link);
        }
        Ok(())
    }
}

/// The link of the first simulated agent.
fn cut(stage: &mut Stage, way: Way) -> Result<(String, Proxy)> {
    let name = format!("{SIMULATED}0");
    let link = stage.links.remove(&name).context("it has a link")?;
    link.turns(Weather::Swallows(way));
    Ok((name, link))
}
