//! The leader's lock. One process has one leader at most, but the rules are those of any backend.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{LeaderLock, StoreError};
use common::time::{Mono, SharedClock};

use super::held;

pub struct Lock {
    clock: SharedClock,
    /// By key; as many as the program names locks.
    holders: Mutex<HashMap<String, Holder>>,
}

struct Holder {
    token: String,
    until: Mono,
}

impl Lock {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            holders: Mutex::default(),
        }
    }

    fn is_held(&self, holders: &HashMap<String, Holder>, key: &str, token: &str) -> bool {
        holders
            .get(key)
            .is_some_and(|holder| holder.token == token && self.clock.mono() < holder.until)
    }
}

#[async_trait]
impl LeaderLock for Lock {
    async fn acquire(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let now = self.clock.mono();
        let mut holders = held(&self.holders);
        if holders.get(key).is_some_and(|holder| now < holder.until) {
            return Ok(false);
        }
        let holder = Holder {
            token: token.to_owned(),
            until: now.after(ttl),
        };
        holders.insert(key.to_owned(), holder);
        Ok(true)
    }

    async fn renew(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let mut holders = held(&self.holders);
        let ours = self.is_held(&holders, key, token);
        if ours && let Some(holder) = holders.get_mut(key) {
            holder.until = self.clock.mono().after(ttl);
        }
        Ok(ours)
    }

    async fn holds(&self, key: &str, token: &str) -> Result<bool, StoreError> {
        Ok(self.is_held(&held(&self.holders), key, token))
    }

    async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let mut holders = held(&self.holders);
        if holders.get(key).is_some_and(|holder| holder.token == token) {
            holders.remove(key);
        }
        Ok(())
    }
}
