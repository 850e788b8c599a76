//! `jobworker-agent`: the worker agent as a program of its own. Everything it does is in the library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::config::LeaseTimes;
use common::ids::PoolName;
use common::program;
use common::protocol::token::WorkerKey;
use common::tasks::Tasks;
use common::time::SystemClock;
use worker_agent::executor::docker::DockerConfig;
use worker_agent::{Config, OnStop, ServerUrl};

/// Runs jobs of a JobWorker installation in containers on this machine.
#[derive(Debug, Parser)]
#[command(name = "jobworker-agent", version)]
struct Args {
    /// The control plane's worker listener.
    #[arg(long, env = "JOBWORKER_SERVER", default_value = "ws://127.0.0.1:8080")]
    server: String,

    /// This worker's key, as one line.
    #[arg(
        long,
        env = "JOBWORKER_WORKER_KEY",
        hide_env_values = true,
        required_unless_present = "key_file"
    )]
    key: Option<String>,

    /// A file with this worker's key.
    #[arg(long, env = "JOBWORKER_WORKER_KEY_FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,

    /// The audience that worker tokens are made for, as the control plane is configured.
    #[arg(long, env = "JOBWORKER_AUDIENCE", default_value = worker_agent::config::AUDIENCE_DEFAULT)]
    audience: String,

    /// Journal, spools and inputs are kept here.
    #[arg(
        long,
        env = "JOBWORKER_AGENT_STATE",
        default_value = "/var/lib/jobworker-agent"
    )]
    state: PathBuf,

    #[arg(long, env = "JOBWORKER_POOL", default_value = "default")]
    pool: PoolName,

    /// A label that jobs can ask for; may be given more than once.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,

    /// Thousandths of a CPU that jobs may have together; all of them by default.
    #[arg(long, env = "JOBWORKER_CPU_MILLIS")]
    cpu_millis: Option<u32>,

    /// Memory that jobs may have together; four fifths by default.
    #[arg(long, env = "JOBWORKER_MEMORY_MIB")]
    memory_mib: Option<u32>,

    /// Disk that jobs may have together; what is free by default.
    #[arg(long, env = "JOBWORKER_DISK_MIB")]
    disk_mib: Option<u32>,

    /// How many jobs may run at the same time.
    #[arg(long, env = "JOBWORKER_SLOTS")]
    slots: Option<u32>,

    /// At the end wait this many seconds for running jobs instead of leaving them to the next start.
    #[arg(long, env = "JOBWORKER_DRAIN_SECONDS")]
    drain_seconds: Option<u64>,

    /// Allow an unencrypted connection to another host.
    #[arg(long, env = "JOBWORKER_INSECURE_DEV")]
    insecure_dev: bool,

    /// Short times of leases, for tests; the control plane has to have the same.
    #[arg(long, hide = true)]
    scaled_times: bool,
}

fn main() -> ExitCode {
    program::run(|| start(Args::parse()))
}

fn start(args: Args) -> anyhow::Result<()> {
    let times = if args.scaled_times {
        LeaseTimes::SCALED
    } else {
        LeaseTimes::REAL
    };
    let config = configure(args, &times)?;
    let mut docker = DockerConfig::new(config.key.worker.clone(), config.state_folder.clone());
    docker.kill_grace = times.kill_grace;
    program::block_on(async {
        let tasks = Tasks::new();
        program::stop_on_signals(&tasks).context("no handlers for signals")?;
        worker_agent::run_docker(config, docker, Arc::new(SystemClock), tasks).await?;
        Ok(())
    })
}

fn configure(args: Args, times: &LeaseTimes) -> anyhow::Result<Config> {
    let line = match (args.key, args.key_file) {
        (Some(line), _) => line,
        (None, Some(file)) => {
            std::fs::read_to_string(&file).with_context(|| format!("the key file {}", file.display()))?
        }
        (None, None) => anyhow::bail!("give this worker's key"),
    };
    let key = WorkerKey::parse(&line).context("the worker's key is not one line `jwwk1:…`")?;
    let server = ServerUrl::parse(&args.server, args.insecure_dev)?;
    let mut config = Config::new(key, server, args.state);
    config.link = times.into();
    config.audience = args.audience;
    config.pool = args.pool;
    config.labels = args.labels.into_iter().collect::<BTreeMap<_, _>>();
    let capacity = &mut config.capacity;
    capacity.cpu_millis = args.cpu_millis.unwrap_or(capacity.cpu_millis);
    capacity.memory_mib = args.memory_mib.unwrap_or(capacity.memory_mib);
    capacity.disk_mib = args.disk_mib.unwrap_or(capacity.disk_mib);
    capacity.slots = args.slots.unwrap_or(capacity.slots);
    if let Some(seconds) = args.drain_seconds {
        config.on_stop = OnStop::Drain {
            within: Duration::from_secs(seconds),
        };
    }
    Ok(config)
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected KEY=VALUE".to_owned())
}
