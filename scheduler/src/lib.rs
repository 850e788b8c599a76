//! The scheduler: one leader of many replicas gives waiting jobs to workers, and every replica is a gateway that holds
//! workers' sockets.
//!
//! Leader and gateways never call each other: they meet in rows, which are the truth, and in hints, which may be lost.
//! What may be written by whom is the safety argument of the system (`docs/ARCHITECTURE.md`).

mod accounts;
mod config;
mod door;
mod fair_share;
mod gateway;
mod leader;
mod placement;

use std::net::SocketAddr;
use std::sync::Arc;

use common::config::UnsafeTimes;
use common::job::Epoch;
use common::service::Jobs;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::SharedClock;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::config::{Config, Limits, Queueing};
pub use self::door::Door;
use crate::accounts::Accounts;
use crate::leader::Context;

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Times(#[from] UnsafeTimes),
    #[error("the workers' listener has no address")]
    Listener(#[source] std::io::Error),
}

/// A running replica. It runs on its tasks and ends with them; this is only a view.
#[derive(Debug, Clone)]
pub struct Scheduler {
    address: SocketAddr,
    leading: watch::Receiver<Option<Epoch>>,
}

impl Scheduler {
    /// Starts a replica: it tries to lead, and serves workers on `listener`, until `tasks` stop.
    ///
    /// # Errors
    /// When the times are not safe, or the listener is broken.
    pub fn start(
        config: Config,
        stores: Stores,
        clock: SharedClock,
        listener: TcpListener,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        config.times.check()?;
        let address = listener.local_addr().map_err(StartError::Listener)?;
        let jobs = Jobs::new(stores, Arc::clone(&clock));
        let (gateway, leading) = start(config, jobs, clock, tasks);
        gateway::listen(gateway, listener, tasks);
        Ok(Self { address, leading })
    }

    /// Where workers connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The term that this replica leads, if it does now.
    pub fn leads(&self) -> Option<Epoch> {
        *self.leading.borrow()
    }
}

/// Starts what every replica has, with or without a listener.
fn start(
    config: Config,
    jobs: Jobs,
    clock: SharedClock,
    tasks: &Tasks,
) -> (Arc<gateway::Gateway>, watch::Receiver<Option<Epoch>>) {
    let stores = jobs.stores().clone();
    let accounts = Accounts::new(stores.clone(), Arc::clone(&clock), config.accounts);
    let context = Context {
        config: Arc::new(config),
        accounts: Arc::new(accounts),
        jobs,
        stores,
        clock,
    };
    let gateway = gateway::start(&context, tasks);
    let (leading, watched) = watch::channel(None);
    tasks.keep("leader", {
        let tasks = tasks.clone();
        move || leader::run(context.clone(), leading.clone(), tasks.clone())
    });
    (gateway, watched)
}
