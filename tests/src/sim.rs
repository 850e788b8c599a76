//! An agent without containers, in the test's own process: it lives on while the system is killed, loads the control
//! plane like hundreds of real jobs, and speaks with it over a real WebSocket under a key of the real fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use common::api_types::SubmitJob;
use common::config::LeaseTimes;
use common::ids::{PoolName, WorkerId};
use common::protocol::token::{FleetSecrets, WorkerKey};
use common::secret::Secret;
use common::tasks::Tasks;
use common::time::SystemClock;
use common::worker::Capacity;
use data_encoding::HEXLOWER;
use serde::Deserialize;
use tempfile::TempDir;
use worker_agent::executor::simulated::{Script, SimulatedExecutor};
use worker_agent::{Config, ServerUrl};

use crate::client::argv;
use crate::cluster::Cluster;
use crate::place;

/// Only simulated agents are in it.
pub const POOL: &str = "sim";
/// What each of its jobs prints.
pub const OUTPUT: &[u8] = b"simulated\n";

/// How often a folder is removed that comes back, and the pause before it is looked at: an agent ends within a second.
const REMOVALS_MAX: usize = 100;
const REMOVAL_PAUSE: Duration = Duration::from_millis(10);

/// As `up` keeps it.
#[derive(Deserialize)]
struct Kept {
    fleet_secret: String,
}

#[derive(Debug)]
pub struct Simulated {
    tasks: Tasks,
    folder: TempDir,
}

impl Simulated {
    /// An agent of the pool [`POOL`], each of whose jobs takes this long, that finds the control plane at `address`.
    ///
    /// # Errors
    /// When the cluster's fleet secret cannot be read.
    pub fn start(cluster: &Cluster, address: SocketAddr, slots: u32, runs_for: Duration) -> Result<Self> {
        Self::named("simulated", cluster, address, slots, runs_for)
    }

    /// As [`Simulated::start`], under a name of its own.
    ///
    /// # Errors
    /// When the cluster's fleet secret cannot be read.
    pub fn named(
        name: &str,
        cluster: &Cluster,
        address: SocketAddr,
        slots: u32,
        runs_for: Duration,
    ) -> Result<Self> {
        let key = fleet(cluster)?.worker_key(&WorkerId::new(name)?, 1);
        Self::by_key(key, address, slots, runs_for)
    }

    /// As [`Simulated::start`], with a key of any installation.
    ///
    /// # Errors
    /// When it finds no folder.
    pub fn by_key(key: WorkerKey, address: SocketAddr, slots: u32, runs_for: Duration) -> Result<Self> {
        let folder = place::folder("sim")?;
        let server = ServerUrl::parse(&format!("ws://{address}"), false)?;
        let mut config = Config::new(key, server, folder.path().to_owned());
        config.pool = PoolName::new(POOL)?;
        config.link = (&LeaseTimes::SCALED).into();
        config.capacity = Capacity {
            cpu_millis: 1_000_000,
            memory_mib: 1_000_000,
            disk_mib: 1_000_000,
            slots,
        };
        let executor = Arc::new(SimulatedExecutor::new(Script {
            runs_for,
            output: vec![Bytes::from_static(OUTPUT)],
            exit_code: 0,
        }));
        let tasks = Tasks::new();
        let running = tasks.clone();
        tasks.spawn("simulated agent", async move {
            let run = worker_agent::run(config, executor, Arc::new(SystemClock), running);
            if let Err(error) = Box::pin(run).await {
                println!("the simulated agent ended: {error}");
            }
        });
        Ok(Self { tasks, folder })
    }

    /// # Errors
    /// When it does not end in time.
    pub async fn stop(self) -> Result<()> {
        self.tasks.stop();
        if !self.tasks.join(Duration::from_secs(30)).await {
            bail!("the simulated agent does not end");
        }
        Ok(())
    }
}

impl Drop for Simulated {
    /// Of one that was not stopped, because its test has failed: what it is writing would come back behind the removal.
    #[expect(
        clippy::disallowed_methods,
        reason = "a drop cannot await; it looks at a condition, with a deadline"
    )]
    fn drop(&mut self) {
        self.tasks.stop();
        for _ in 0..REMOVALS_MAX {
            // its error is looked for in what is there
            let _ = std::fs::remove_dir_all(self.folder.path());
            // tidy: poll
            std::thread::sleep(REMOVAL_PAUSE);
            if !self.folder.path().exists() {
                return;
            }
        }
    }
}

/// The secrets that this cluster's workers' keys are made of.
///
/// # Errors
/// When they cannot be read.
pub fn fleet(cluster: &Cluster) -> Result<FleetSecrets> {
    let kept = std::fs::read(cluster.state().join("secrets.json"))?;
    let kept: Kept = serde_json::from_slice(&kept).context("secrets.json")?;
    let secret = HEXLOWER.decode(kept.fleet_secret.as_bytes())?;
    Ok(FleetSecrets::new(vec![("k1".to_owned(), Secret::new(secret))])?)
}

/// A job for it.
pub fn job() -> SubmitJob {
    SubmitJob {
        pool: PoolName::new(POOL).ok(),
        ..argv(&["simulated"])
    }
}
