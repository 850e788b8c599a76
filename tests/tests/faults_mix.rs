//! Three minutes of faults by lot, against every program as operators run it; `make faults MIX=600` plays longer.

use std::time::Duration;

use anyhow::Result;
use jobworker_e2e::faults::mix;

const LENGTH: Duration = Duration::from_secs(180);
/// Of the real containers that the whole suite may take.
const CONTAINERS: usize = 20;

#[tokio::test]
async fn a_mix_of_faults_breaks_no_law_and_a_canary_goes_through_under_the_last() -> Result<()> {
    let named = std::env::var("JOBWORKER_TEST_SEED").ok();
    let seed = named
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    let played = Box::pin(mix::play(LENGTH, CONTAINERS, seed)).await?;
    println!("{:?}", played.counts);
    played.result
}
