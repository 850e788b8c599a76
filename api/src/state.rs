//! What every handler has at hand.

use std::sync::Arc;

use common::service::Jobs;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::{SharedClock, Timestamp};
use tokio::sync::Semaphore;

use crate::auth::{Passwords, Tokens};
use crate::config::Config;
use crate::services::fleet::FleetCache;
use crate::services::waiting::WaitingRooms;

pub type App = Arc<AppState>;

pub struct AppState {
    pub config: Config,
    pub stores: Stores,
    pub clock: SharedClock,
    pub jobs: Jobs,
    pub fleet: FleetCache,
    pub waiting: WaitingRooms,
    pub tokens: Tokens,
    pub passwords: Passwords,
    /// One permit a log follower.
    pub followers: Arc<Semaphore>,
    pub tasks: Tasks,
}

impl AppState {
    pub fn new(config: Config, stores: Stores, clock: SharedClock, tasks: Tasks) -> App {
        Arc::new(Self {
            jobs: Jobs::new(stores.clone(), clock.clone()),
            fleet: FleetCache::new(stores.clone(), clock.clone()),
            waiting: WaitingRooms::new(stores.clone(), clock.clone(), config.accounts),
            tokens: Tokens::new(&config),
            passwords: Passwords::new(config.hashes_at_once),
            followers: Arc::new(Semaphore::new(config.followers_max)),
            config,
            stores,
            clock,
            tasks,
        })
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
