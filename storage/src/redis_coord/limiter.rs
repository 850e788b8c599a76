//! The sliding window of [`crate::embedded`], kept where every replica counts: one script, one key for each bucket,
//! which goes by itself when the window has passed.
//!
//! The same window in process stands before it, of the calls that this process let through. Whoever is over the limit
//! there is over the shared one as well, so a flood that one replica meets costs Redis nothing and the answer stays
//! exact. While Redis is away it decides alone: each replica then admits up to the limit, and never more.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{Quota, RateDecision, RateLimiter, StoreError};
use common::time::Timestamp;

use super::{Shared, millis, scripts};
use crate::embedded::{ENTRIES_EXACT, Limiter, PARTS};

pub struct SharedLimiter {
    shared: Arc<Shared>,
    /// What this process let through.
    ours: Limiter,
}

impl SharedLimiter {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            ours: Limiter::default(),
        }
    }

    async fn ask(&self, bucket: &str, quota: Quota, now: Timestamp) -> Result<RateDecision, StoreError> {
        let key = self.shared.keys.bucket(bucket);
        let window = millis(quota.window);
        let arguments = (quota.limit, window, now.as_millis(), ENTRIES_EXACT, PARTS);
        let check = scripts::call(&scripts::CHECK, &[&key], arguments);
        let (allowed, remaining, wait): (bool, u32, u64) = self.shared.link.command(&check).await?;
        Ok(RateDecision {
            allowed,
            limit: quota.limit,
            remaining,
            retry_after: Duration::from_millis(wait),
        })
    }
}

#[async_trait]
impl RateLimiter for SharedLimiter {
    async fn check(&self, bucket: &str, quota: Quota, now: Timestamp) -> Result<RateDecision, StoreError> {
        if let Some(refusal) = self.ours.refuses(bucket, quota, now) {
            return Ok(refusal);
        }
        match self.ask(bucket, quota, now).await {
            Ok(decision) => {
                if decision.allowed {
                    self.ours.check(bucket, quota, now).await?;
                }
                Ok(decision)
            }
            Err(error) if error.retryable() => {
                tracing::debug!(%error, "limits are counted by this process alone");
                self.ours.check(bucket, quota, now).await
            }
            Err(error) => Err(error),
        }
    }
}
