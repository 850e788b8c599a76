//! A replica without a listener: whoever holds its door brings the workers' connections. For simulations.

use std::sync::Arc;

use common::config::UnsafeTimes;
use common::ids::WorkerId;
use common::job::Epoch;
use common::service::Jobs;
use common::tasks::Tasks;
use common::time::SharedClock;
use tokio::sync::watch;

use crate::config::Config;
use crate::gateway::{Gateway, Line};

/// A running replica; a view of it, and the way in.
#[derive(Clone)]
pub struct Door {
    gateway: Arc<Gateway>,
    leading: watch::Receiver<Option<Epoch>>,
}

impl Door {
    /// Starts a replica on `jobs` and their stores: it tries to lead, and serves what [`Door::serve`] brings.
    ///
    /// # Errors
    /// When the times are not safe.
    pub fn open(config: Config, jobs: Jobs, clock: SharedClock, tasks: &Tasks) -> Result<Self, UnsafeTimes> {
        config.times.check()?;
        let (gateway, leading) = crate::start(config, jobs, clock, tasks);
        Ok(Self { gateway, leading })
    }

    /// Serves a connection of `worker`, who is believed: no token is asked for.
    pub fn serve(&self, worker: WorkerId, line: impl Line + 'static) {
        // The task is the replica's, and ends with it.
        drop(self.gateway.serve(worker, line));
    }

    /// The term that this replica leads, if it does now.
    pub fn leads(&self) -> Option<Epoch> {
        *self.leading.borrow()
    }
}
