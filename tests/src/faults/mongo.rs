//! MongoDB, the truth, killed under writes.

use anyhow::Result;

use super::stage::Stage;

pub async fn killed(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    stage.fault("MongoDB is killed");
    stage.fleet.mongo.kill();
    stage.lasts(0, 1_500).await;
    stage.fault("and started again");
    stage.fleet.mongo.start_again().await;
    Ok(())
}

/// At an instant within the first writes after the last kill.
pub async fn killed_quickly(stage: &mut Stage) -> Result<()> {
    stage.lasts(20, 300).await;
    stage.fault("MongoDB is killed");
    stage.fleet.mongo.kill();
    stage.fleet.mongo.start_again().await;
    Ok(())
}
