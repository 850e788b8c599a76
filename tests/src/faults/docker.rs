//! The engine below the agents goes away and comes back.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::processes::busy_agent;
use super::stage::Stage;
use crate::scripts::run;
use crate::wait::{LONG, wait_for};

pub async fn engine_restarted(stage: &mut Stage) -> Result<()> {
    busy_agent(stage).await?;
    let how = if stage.round.is_multiple_of(2) {
        "-TERM"
    } else {
        "-KILL"
    };
    stage.fault(&format!("the engine gets {how}"));
    let engine = stage.engine.as_ref().context("this row has its own engine")?;
    let pid = engine.pid()?.to_string();
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
    let engine = stage.engine.as_ref().context("this row has its own engine")?;
    engine.tell("start")?;
    Ok(())
}
