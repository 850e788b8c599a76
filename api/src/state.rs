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
    /// One permit a request that follows a log: see [`AppState::room_to_follow`].
    followers: Arc<Semaphore>,
    /// One permit a request that waits for a job's end: see [`AppState::room_to_wait`].
    waits: Arc<Semaphore>,
    pub tasks: Tasks,
}

impl AppState {
    pub fn new(config: Config, stores: Stores, clock: SharedClock, tasks: Tasks) -> App {
        Arc::new(Self {
            jobs: Jobs::new(stores.clone(), clock.clone()),
            fleet: FleetCache::new(stores.clone(), clock.clone()),
            waiting: WaitingRooms::new(stores.clone(), clock.clone(), tasks.clone(), config.accounts),
            tokens: Tokens::new(&config),
            passwords: Passwords::new(config.hashes_at_once),
            followers: Arc::new(Semaphore::new(config.followers_max)),
            waits: Arc::new(Semaphore::new(config.waits_max)),
            config,
            stores,
            clock,
            tasks,
        })
    }

    /// Room for a request that follows a log, for as long as the job lasts.
    ///
    /// # Errors
    /// 503: as many are open as may be.
    pub fn room_to_follow(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let sentence = "Too many requests follow jobs now.";
        hold_open(&self.followers, "too_many_followers", sentence)
    }

    /// Room for a request that waits for a job's end: apart from the followers', so that those who watch for hours
    /// keep nobody from submitting.
    ///
    /// # Errors
    /// 503: as many are open as may be.
    pub fn room_to_wait(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let sentence = "Too many requests wait for their job's end now: ask without `wait`, or later.";
        hold_open(&self.waits, "too_many_waits", sentence)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn hold_open(
    rooms: &Arc<Semaphore>,
    code: &'static str,
    sentence: &'static str,
) -> Result<OwnedSemaphorePermit, ApiError> {
    rooms.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, sentence).retry_after(HELD_OPEN_RETRY)
    })
}
