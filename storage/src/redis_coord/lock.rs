//! The leader's lock: `SET NX PX`, renewed and released only by who holds it. Time is the server's own.
//!
//! It only decides who tries: a lock that a failover lost, or that ended early because a clock jumped, costs a change
//! of leaders and nothing else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{LeaderLock, StoreError};

use super::{Shared, millis, scripts};

pub struct Lock(pub(super) Arc<Shared>);

#[async_trait]
impl LeaderLock for Lock {
    async fn acquire(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let mut set = redis::cmd("SET");
        set.arg(self.0.keys.lock(key)).arg(token);
        set.arg("NX").arg("PX").arg(millis(ttl));
        let answer: Option<String> = self.0.link.command(&set).await?;
        Ok(answer.is_some())
    }

    async fn renew(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let key = self.0.keys.lock(key);
        let renew = scripts::call(&scripts::RENEW, &[&key], (token, millis(ttl)));
        self.0.link.command(&renew).await
    }

    async fn holds(&self, key: &str, token: &str) -> Result<bool, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(self.0.keys.lock(key));
        let holder: Option<String> = self.0.link.command(&get).await?;
        Ok(holder.as_deref() == Some(token))
    }

    async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let key = self.0.keys.lock(key);
        let release = scripts::call(&scripts::RELEASE, &[&key], token);
        self.0.link.command(&release).await
    }
}
