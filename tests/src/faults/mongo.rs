//! MongoDB, the truth, killed under writes.

use anyhow::Result;
use common::time::{Clock, SystemClock};

use super::bounds::AFTER_MONGO;
use super::stage::Stage;

pub async fn killed(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    stage.fault("MongoDB is killed");
    stage.fleet.mongo.kill();
    let killed = SystemClock.mono();
    stage.lasts(0, 1_500).await;
    stage.fault("and started again");
    stage.fleet.mongo.start_again().await;
    stage.works_again(killed, AFTER_MONGO).await
}

/// At an instant within the first writes after the last kill.
pub async fn killed_quickly(stage: &mut Stage) -> Result<()> {
    stage.lasts(20, 300).await;
    stage.fault("MongoDB is killed");
    stage.fleet.mongo.kill();
    stage.fleet.mongo.start_again().await;
    Ok(())
}
