//! What every handler has at hand.

use std::sync::Arc;
use std::time::Duration;

use common::service::Jobs;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::{SharedClock, Timestamp};
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::{Passwords, Tokens};
use crate::config::Config;
use crate::error::ApiError;
use crate::services::fleet::FleetCache;
use crate::services::waiting::WaitingRooms;

/// Long enough for some of them to end, short for somebody who waits.
const HELD_OPEN_RETRY: Duration = Duration::from_secs(5);

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
    /// One permit a request that is held open: see [`AppState::hold_open`].
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

    /// Room for a request that stays open until something happens to a job.
    ///
    /// # Errors
    /// 503: as many are open as may be.
    pub fn hold_open(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.followers.clone().try_acquire_owned().map_err(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_followers",
                "Too many requests follow jobs or wait for their end now.",
            )
            .retry_after(HELD_OPEN_RETRY)
        })
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
