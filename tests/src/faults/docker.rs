//! The engine below the agents goes away and comes back, or what it has its containers from.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::processes::busy_agent;
use super::stage::Stage;
use crate::client::brief;
use crate::scripts::{PrivateEngine, run};
use crate::wait::{LONG, wait_for};

pub async fn engine_restarted(stage: &mut Stage) -> Result<()> {
    busy_agent(stage).await?;
    match stage.round % 3 {
        0 => ended_and_started(stage, "-TERM").await?,
        1 => ended_and_started(stage, "-KILL").await?,
        _ => containerd_killed(stage).await?,
    }
    what_was_hit_has_ended(stage).await
}

/// Two agents share this engine, so an outage may cost a job two of its four tries: what it cost has ended before the
/// next one comes.
async fn what_was_hit_has_ended(stage: &Stage) -> Result<()> {
    let client = &stage.hands.client;
    wait_for(LONG, "what was tried again to have ended", async || {
        let jobs = client.jobs().await.map_err(|error| format!("{error:#}"))?;
        let open = jobs
            .iter()
            .filter(|job| job.infra_retries > 0 && !job.state.is_terminal());
        let open: Vec<String> = open.map(brief).collect();
        if open.is_empty() {
            Ok(())
        } else {
            Err(open.join(", "))
        }
    })
    .await
}

async fn ended_and_started(stage: &mut Stage, how: &str) -> Result<()> {
    stage.fault(&format!("the engine gets {how}"));
    let pid = engine(stage)?.pid()?.to_string();
    run(Command::new("kill").args([how, &pid]))?;
    // one that still ends takes the files of the next one along
    wait_for(
        LONG,
        "the engine to end",
        async || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            Ok(_) | Err(_) => Ok(()),
        },
    )
    .await?;
    stage.lasts(0, 2_000).await;
    stage.fault("and is started again");
    engine(stage)?.tell("start")?;
    Ok(())
}

/// The engine goes on, sees it, and starts another.
async fn containerd_killed(stage: &Stage) -> Result<()> {
    let engine = engine(stage)?;
    let old = engine.containerd()?;
    stage.fault("the engine's containerd is killed");
    run(Command::new("kill").args(["-KILL", &old.to_string()]))?;
    wait_for(
        LONG,
        "the engine to have a containerd again",
        async || match engine.containerd() {
            Ok(new) if new != old => Ok(()),
            Ok(_) => Err("it is the old one".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        },
    )
    .await?;
    stage.fault("and has another");
    Ok(())
}

fn engine(stage: &Stage) -> Result<&PrivateEngine> {
    stage.engine.as_ref().context("this row has its own engine")
}
