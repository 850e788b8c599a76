//! The command line.

use clap::{Args, Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures JobWorker on this machine", version)]
pub struct Cli {
    /// One JSON object a measurement instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    /// Writes each result into docs/benchmarks.md, between its marks
    #[arg(long, global = true)]
    pub write: bool,
    #[command(subcommand)]
    pub measure: Measure,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Measure {
    /// `echo hi` over REST, in a real container, against `docker run --rm` with the same flags
    Echo(EchoArgs),
    /// One job after the other on an idle system, with a simulated agent: what the control plane adds
    Idle(IdleArgs),
    /// Many jobs through the control plane, with simulated agents
    Throughput(ThroughputArgs),
    /// Much output of one job to a client's file, against `docker run > file`
    Output(OutputArgs),
    /// Memory at rest and with many jobs waiting, and the time to start with them
    Memory(MemoryArgs),
    /// How much jobs that no worker fits delay one that fits
    Unfit(UnfitArgs),
    /// The same number of jobs through BullMQ on Redis (installs it by npm)
    Peers(PeersArgs),
    /// Separate programs: the leader killed again and again, until work is given out anew
    Failover(FailoverArgs),
    /// Separate programs: Redis wiped with many jobs waiting, until all are back in order
    Flush(FlushArgs),
    /// Separate programs: many jobs through them, against what the database itself can do
    Fleet(FleetArgs),
    /// Separate programs: how much slower a start and a submission are with many jobs waiting
    Depth(DepthArgs),
    /// Separate programs: thousands of agents on one scheduler
    Agents(AgentsArgs),
    /// All of them with their defaults, one after the other
    All,
}

impl Measure {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::Idle(_) => "idle",
            Self::Throughput(_) => "throughput",
            Self::Output(_) => "output",
            Self::Memory(_) => "memory",
            Self::Unfit(_) => "unfit",
            Self::Peers(_) => "peers",
            Self::Failover(_) => "failover",
            Self::Flush(_) => "flush",
            Self::Fleet(_) => "fleet",
            Self::Depth(_) => "depth",
            Self::Agents(_) => "agents",
            Self::All => "all",
        }
    }

    /// What is to be measured, one by one.
    pub fn each(&self) -> Vec<Self> {
        match self {
            Self::All => vec![
                Self::Echo(EchoArgs::default()),
                Self::Idle(IdleArgs::default()),
                Self::Throughput(ThroughputArgs::default()),
                Self::Output(OutputArgs::default()),
                Self::Memory(MemoryArgs::default()),
                Self::Unfit(UnfitArgs::default()),
                Self::Peers(PeersArgs::default()),
                Self::Failover(FailoverArgs::default()),
                Self::Flush(FlushArgs::default()),
                Self::Fleet(FleetArgs::default()),
                Self::Depth(DepthArgs::default()),
                Self::Agents(AgentsArgs::default()),
            ],
            one => vec![one.clone()],
        }
    }
}

/// A default that clap and `all` share.
macro_rules! defaults {
    ($($name:ident { $($field:ident: $value:expr),+ })+) => {
        $(impl Default for $name {
            fn default() -> Self {
                Self { $($field: $value),+ }
            }
        })+
    };
}

defaults! {
    EchoArgs { pairs: 30, warm_up: 3 }
    IdleArgs { jobs: 1_000, warm_up: 50 }
    ThroughputArgs { jobs: 60_000, agents: 4, slots: 250, submitters: 4, batch: 1_000 }
    OutputArgs { mib: 1_024, rounds: 3 }
    MemoryArgs { jobs: 100_000 }
    UnfitArgs { jobs: 100_000, samples: 300, warm_up: 20 }
    PeersArgs { jobs: 60_000 }
    FailoverArgs { kills: 20, seed: 1 }
    FlushArgs { jobs: vec![10_000, 1_000_000] }
    FleetArgs { jobs: 20_000, agents: 4, slots: 250, submitters: 4, batch: 1_000 }
    DepthArgs { few: 1_000, many: 1_000_000, samples: 400 }
    AgentsArgs { agents: 10_000, attempts: 8, seconds: 60 }
}

#[derive(Debug, Clone, Args)]
pub struct EchoArgs {
    /// Measured pairs, interleaved
    #[arg(long, default_value_t = Self::default().pairs)]
    pub pairs: usize,
    /// Pairs before them that do not count
    #[arg(long, default_value_t = Self::default().warm_up)]
    pub warm_up: usize,
}

#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
    /// Jobs before them that do not count
    #[arg(long, default_value_t = Self::default().warm_up)]
    pub warm_up: usize,
}

#[derive(Debug, Clone, Args)]
pub struct ThroughputArgs {
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
    /// Simulated agents, each with a WebSocket of its own
    #[arg(long, default_value_t = Self::default().agents)]
    pub agents: usize,
    /// Slots of each
    #[arg(long, default_value_t = Self::default().slots)]
    pub slots: u32,
    /// Clients that submit at the same time
    #[arg(long, default_value_t = Self::default().submitters)]
    pub submitters: usize,
    /// Jobs a request
    #[arg(long, default_value_t = Self::default().batch)]
    pub batch: usize,
}

#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// MiB of output of each run
    #[arg(long, default_value_t = Self::default().mib)]
    pub mib: u64,
    /// Times that each way has its turn
    #[arg(long, default_value_t = Self::default().rounds, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryArgs {
    /// Jobs that wait
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
}

#[derive(Debug, Clone, Args)]
pub struct UnfitArgs {
    /// Jobs that wait and that no worker fits
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
    /// Jobs that fit, of each side
    #[arg(long, default_value_t = Self::default().samples)]
    pub samples: usize,
    /// Jobs before them that do not count
    #[arg(long, default_value_t = Self::default().warm_up)]
    pub warm_up: usize,
}

#[derive(Debug, Clone, Args)]
pub struct PeersArgs {
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
}

#[derive(Debug, Clone, Args)]
pub struct FailoverArgs {
    #[arg(long, default_value_t = Self::default().kills)]
    pub kills: usize,
    /// Of the random instants
    #[arg(long, default_value_t = Self::default().seed)]
    pub seed: u64,
}

#[derive(Debug, Clone, Args)]
pub struct FlushArgs {
    /// Jobs that wait; a run for each number
    #[arg(long, value_delimiter = ',', default_values_t = Self::default().jobs)]
    pub jobs: Vec<usize>,
}

#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    #[arg(long, default_value_t = Self::default().jobs)]
    pub jobs: usize,
    /// Simulated agents, each with a WebSocket of its own
    #[arg(long, default_value_t = Self::default().agents)]
    pub agents: usize,
    /// Slots of each
    #[arg(long, default_value_t = Self::default().slots)]
    pub slots: u32,
    /// Clients that submit at the same time
    #[arg(long, default_value_t = Self::default().submitters)]
    pub submitters: usize,
    /// Jobs a request
    #[arg(long, default_value_t = Self::default().batch)]
    pub batch: usize,
}

#[derive(Debug, Clone, Args)]
pub struct DepthArgs {
    /// Jobs that wait in the first run
    #[arg(long, default_value_t = Self::default().few)]
    pub few: usize,
    /// Jobs that wait in the second
    #[arg(long, default_value_t = Self::default().many)]
    pub many: usize,
    /// Starts, and submissions, of each run
    #[arg(long, default_value_t = Self::default().samples)]
    pub samples: usize,
}

#[derive(Debug, Clone, Args)]
pub struct AgentsArgs {
    #[arg(long, default_value_t = Self::default().agents)]
    pub agents: usize,
    /// That each runs in the second part
    #[arg(long, default_value_t = Self::default().attempts)]
    pub attempts: u32,
    /// That memory and processor are watched for, in each part
    #[arg(long, default_value_t = Self::default().seconds)]
    pub seconds: u64,
}
