//! Settings of accounts, remembered for a moment so that placements and assignments need no row each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::config::AccountLimits;
use common::ids::AccountId;
use common::log::LOG_BYTES_MAX_DEFAULT;
use common::store::Stores;
use common::time::{Mono, SharedClock};

/// How long a changed setting may take to be heeded.
const KEPT: Duration = Duration::from_secs(10);

/// Most accounts remembered; past it all are forgotten and asked for again.
const ACCOUNTS_MAX: usize = 10_000;

/// What the scheduler heeds of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub weight: u32,
    pub running_max: Option<u32>,
    pub log_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1,
            running_max: None,
            log_bytes_max: LOG_BYTES_MAX_DEFAULT,
        }
    }
}

pub struct Accounts {
    stores: Stores,
    clock: SharedClock,
    limits: AccountLimits,
    known: Mutex<HashMap<AccountId, (Mono, Settings)>>,
}

impl Accounts {
    pub fn new(stores: Stores, clock: SharedClock, limits: AccountLimits) -> Self {
        Self {
            stores,
            clock,
            limits,
            known: Mutex::default(),
        }
    }

    /// The settings of an account; the default ones where it is unknown, the last known ones where the store is away.
    pub async fn settings(&self, id: &AccountId) -> Settings {
        let now = self.clock.mono();
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .copied();
        if let Some((at, settings)) = known
            && now.since(at) < KEPT
        {
            return settings;
        }
        let settings = match self.stores.identity.account(id).await {
            Ok(Some(account)) => Settings {
                weight: account.weight,
                running_max: self.limits.running(account.running_max),
                log_bytes_max: account.log_bytes_max,
            },
            Ok(None) => self.unknown(),
            Err(error) => {
                tracing::warn!(%error, account = %id, "the settings of an account could not be read");
                return known.map_or_else(|| self.unknown(), |(_, settings)| settings);
            }
        };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ACCOUNTS_MAX {
            all.clear();
        }
        all.insert(id.clone(), (now, settings));
        settings
    }

    /// Of an account without a record.
    fn unknown(&self) -> Settings {
        Settings {
            running_max: self.limits.running(None),
            ..Settings::default()
        }
    }
}
