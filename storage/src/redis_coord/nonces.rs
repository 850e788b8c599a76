//! Nonces used once, by `SET NX`, each kept as long as its token is good.
//!
//! The store knows when it was born: a token signed before that is refused, since its use may have been forgotten. A
//! wiped store is born anew at its next use, and so is one on another run of the server (a restored snapshot or a
//! promoted replica may lack the last uses). Clocks differ between replicas and agents, so each process also remembers
//! what it accepted itself: no wipe makes it accept a token again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::store::{Nonces, StoreError};
use common::time::Timestamp;

use super::{Shared, millis, scripts};
use crate::embedded::{NONCE_LEN_MAX, UsedNonces};

pub struct SharedNonces {
    shared: Arc<Shared>,
    /// What this process accepted.
    ours: UsedNonces,
}

impl SharedNonces {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            ours: UsedNonces::new(Timestamp::from_millis(i64::MIN)),
        }
    }

    /// Has the store be born now, unless it lives: so that the first handshake of all is not refused.
    pub async fn be_born(&self, now: Timestamp) -> Result<(), StoreError> {
        // Signed before any birth, so it is refused and leaves no key.
        let before = Timestamp::from_millis(i64::MIN);
        self.ask("", before, Duration::ZERO, now).await.map(drop)
    }

    async fn ask(
        &self,
        nonce: &str,
        signed_at: Timestamp,
        life: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let keys = &self.shared.keys;
        let server = self.shared.link.server().await?;
        let call = scripts::call(
            &scripts::USE_ONCE,
            &[&keys.born, &keys.nonce(nonce)],
            (
                &server.run,
                now.as_millis(),
                signed_at.as_millis(),
                millis(life).max(1),
            ),
        );
        self.shared.link.command(&call).await
    }
}

#[async_trait]
impl Nonces for SharedNonces {
    async fn use_once(
        &self,
        nonce: &str,
        signed_at: Timestamp,
        kept: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if nonce.len() > NONCE_LEN_MAX {
            return Ok(false);
        }
        // A token signed by a clock ahead of ours stays acceptable for that much longer.
        let life = kept + signed_at.since(now);
        Ok(self.ask(nonce, signed_at, life, now).await?
            && self.ours.use_once(nonce, signed_at, kept, now).await?)
    }
}
