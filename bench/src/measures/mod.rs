//! The measurements, one file each.

mod agents;
mod ceiling;
mod depth;
mod echo;
mod failover;
mod fleet;
mod flush;
mod idle;
mod memory;
mod output;
mod peers;
mod throughput;
mod unfit;

use crate::args::Measure;
use crate::report::Findings;

/// # Errors
/// The measurement could not be made, or a result was wrong.
pub async fn run(measure: &Measure) -> anyhow::Result<Findings> {
    match measure {
        Measure::Echo(args) => Box::pin(echo::run(args)).await,
        Measure::Idle(args) => Box::pin(idle::run(args)).await,
        Measure::Throughput(args) => Box::pin(throughput::run(args)).await,
        Measure::Output(args) => Box::pin(output::run(args)).await,
        Measure::Memory(args) => Box::pin(memory::run(args)).await,
        Measure::Unfit(args) => Box::pin(unfit::run(args)).await,
        Measure::Peers(args) => Box::pin(peers::run(args)).await,
        Measure::Failover(args) => Box::pin(failover::run(args)).await,
        Measure::Flush(args) => Box::pin(flush::run(args)).await,
        Measure::Fleet(args) => Box::pin(fleet::run(args)).await,
        Measure::Depth(args) => Box::pin(depth::run(args)).await,
        Measure::Agents(args) => Box::pin(agents::run(args)).await,
        Measure::All => anyhow::bail!("`all` is taken apart before"),
    }
}
