//! Flags of `jobworker up`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use common::job::Resources;

use crate::quantity::worker_size;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Needs no server beside it: jobs, logs and files are kept in the state folder (SQLite and plain
files). Where MONGODB_URI and REDIS_URL name servers, they are kept there instead. The first start
makes its secrets and an administrator, whose password is printed once.

Ctrl-C (or SIGTERM) ends it. Jobs that run go on in their containers, and the next `jobworker up`
takes them up again, if it comes before their lease ends (290 s); their output is kept meanwhile.
`--stop-jobs` cancels them instead.

Examples:
  jobworker up
  jobworker up --listen 127.0.0.1:0 --worker-listen 127.0.0.1:0 --ready-file ready.json
  DEFAULT_IMAGE=debian:bookworm-slim jobworker up --slots 4")]
pub struct UpArgs {
    /// Folder of everything that stays [default: $XDG_STATE_HOME/jobworker, else ~/.local/state/jobworker]
    #[arg(long, value_name = "DIR", env = "JOBWORKER_STATE")]
    pub state: Option<PathBuf>,
    /// Where the API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3000")]
    pub listen: SocketAddr,
    /// Where workers connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub worker_listen: SocketAddr,
    /// Image of jobs that name none
    #[arg(
        long,
        value_name = "IMAGE",
        env = "DEFAULT_IMAGE",
        default_value = "debian:bookworm-slim"
    )]
    pub image: String,
    /// Most jobs at the same time on this machine [default: as many as it has CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub slots: Option<u32>,
    /// The largest worker that may still join: `CPUS,MEMORY,DISK`. Jobs that no registered worker could run, but such
    /// a one could, wait for it instead of being refused
    #[arg(long, value_name = "SIZE", value_parser = worker_size)]
    pub fleet_ceiling: Option<Resources>,
    /// Starts no worker here
    #[arg(long)]
    pub no_agent: bool,
    /// At the end, cancels the jobs that run here instead of leaving their containers to the next start
    #[arg(long)]
    pub stop_jobs: bool,
    /// Writes the first administrator's password to this file (0600) instead of printing it
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Once ready, writes `{"api", "workers", "pid"}` to this file
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Short times of leases, for tests
    #[arg(long, hide = true)]
    pub scaled_times: bool,
    /// Requests are not counted, for benchmarks
    #[arg(long, hide = true)]
    pub no_rate_limits: bool,
}
