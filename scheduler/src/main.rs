//! `jobworker-scheduler`: a scheduler replica as a program of its own: one of them leads, each holds agents' sockets.
//! All that it does is in the library; here its settings are read and its stores are opened.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use common::config::LeaseTimes;
use common::ids::WorkerId;
use common::program;
use common::protocol::token::FleetSecrets;
use common::settings::Settings;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use scheduler::{Config, Scheduler};
use tokio::net::TcpListener;

/// How long writes under way get at the end.
const JOIN_WITHIN: Duration = Duration::from_secs(15);

/// Gives out the jobs of a JobWorker installation and holds its workers' connections, over MongoDB and Redis.
///
/// Settings come from the environment: MONGODB_URI (mongodb://127.0.0.1:27017/cmd-executor), REDIS_URL
/// (redis://127.0.0.1:6379), WORKER_TOKEN_SECRET (at least 32 bytes, the same for every replica) and, while it is being
/// changed, WORKER_TOKEN_SECRET_PREVIOUS, SCHEDULER_LOCK_KEY, SCHEDULER_LOCK_TTL_MS (5000), WORKER_CONNECTIONS_MAX
/// (1024), PORT (that port of every interface instead of --listen), RUST_LOG.
#[derive(Debug, Parser)]
#[command(name = "jobworker-scheduler", version, args_conflicts_with_subcommands = true)]
struct Args {
    /// Where workers reach it, by WebSocket and HTTP; a proxy in front adds TLS
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// What workers sign their tokens for
    #[arg(long, env = "JOBWORKER_AUDIENCE", default_value = Config::AUDIENCE_DEFAULT)]
    audience: String,

    /// For development: a missing WORKER_TOKEN_SECRET is made for this run
    #[arg(long)]
    dev: bool,

    /// Times short enough to watch leases end, for tests
    #[arg(long, hide = true)]
    scaled_times: bool,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Prints the key of one worker, for its `jobworker-agent --key-file`
    WorkerKey {
        /// The worker's name
        worker: WorkerId,
    },
}

fn main() -> ExitCode {
    program::run(|| start(Args::parse()))
}

fn start(args: Args) -> anyhow::Result<()> {
    let settings = Settings::of_process(args.dev);
    let fleet = fleet(&settings)?;
    if let Some(Verb::WorkerKey { worker }) = &args.verb {
        println!("{}", fleet.worker_key(worker, 1).to_text().expose());
        return Ok(());
    }
    let config = configure(&args, &settings, fleet)?;
    let address = settings.address(args.listen)?;
    program::block_on(Box::pin(serve(config, &settings, address)))
}

/// Key ids follow from the secrets themselves, so that changing one needs no further setting.
fn fleet(settings: &Settings) -> anyhow::Result<FleetSecrets> {
    use sha2::{Digest, Sha256};
    let mut secrets = Vec::new();
    for name in ["WORKER_TOKEN_SECRET", "WORKER_TOKEN_SECRET_PREVIOUS"] {
        if name == "WORKER_TOKEN_SECRET_PREVIOUS" && settings.text(name).is_none() {
            continue;
        }
        let secret = settings.secret(name)?;
        let digest = Sha256::new_with_prefix(b"jobworker key id\n")
            .chain_update(secret.expose())
            .finalize();
        let id = format!("k{}", data_encoding::HEXLOWER.encode(&digest[..4]));
        secrets.push((id, secret));
    }
    FleetSecrets::new(secrets).context("WORKER_TOKEN_SECRET and WORKER_TOKEN_SECRET_PREVIOUS must differ")
}

fn configure(args: &Args, settings: &Settings, fleet: FleetSecrets) -> anyhow::Result<Config> {
    let mut config = Config::new(fleet);
    config.audience.clone_from(&args.audience);
    if let Some(key) = settings.text("SCHEDULER_LOCK_KEY") {
        key.clone_into(&mut config.lock_key);
    }
    if args.scaled_times {
        config.times = LeaseTimes::SCALED;
    }
    let ttl = u64::try_from(config.times.lock_ttl.as_millis())?;
    let ttl = settings.number("SCHEDULER_LOCK_TTL_MS", ttl, 500..=60_000)?;
    config.times.lock_ttl = Duration::from_millis(ttl);
    let connections = config.limits.connections_max as u64;
    let connections = settings.number("WORKER_CONNECTIONS_MAX", connections, 1..=1_000_000)?;
    config.limits.connections_max = usize::try_from(connections)?;
    Ok(config)
}

async fn serve(config: Config, settings: &Settings, address: SocketAddr) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("could not listen on {address}: take another with --listen"))?;
    let opened = Box::pin(storage::open_closable(&settings.store(), Arc::clone(&clock))).await?;
    let tasks = Tasks::new();
    program::stop_on_signals(&tasks).context("no handlers for signals")?;
    let scheduler = Scheduler::start(config, opened.stores, clock, listener, &tasks)?;
    tracing::info!(address = %scheduler.address(), "the scheduler serves workers");
    tasks.stopping().cancelled().await;
    if !tasks.join(JOIN_WITHIN).await {
        tracing::warn!("some parts did not end in time");
    }
    opened.closing.close().await;
    Ok(())
}
