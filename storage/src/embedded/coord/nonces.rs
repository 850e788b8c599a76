//! Nonces used once, remembered until their tokens are too old to be accepted anyway.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::store::{Nonces, StoreError};
use common::time::Timestamp;

use super::held;

/// Nonces remembered at a time; past it new ones are refused, which an honest agent survives by trying again.
/// 100,000 agents that all connect anew within one minute fit.
const REMEMBERED_MAX: usize = 200_000;
/// Longest nonce, in bytes; ours are far shorter.
pub const NONCE_LEN_MAX: usize = 256;

pub struct UsedNonces {
    birth: Timestamp,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    nonces: HashSet<Arc<str>>,
    by_end: BTreeSet<(Timestamp, Arc<str>)>,
}

impl UsedNonces {
    pub fn new(birth: Timestamp) -> Self {
        Self {
            birth,
            used: Mutex::default(),
        }
    }
}

#[async_trait]
impl Nonces for UsedNonces {
    async fn use_once(
        &self,
        nonce: &str,
        signed_at: Timestamp,
        kept: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if signed_at < self.birth || nonce.len() > NONCE_LEN_MAX {
            return Ok(false);
        }
        let mut used = held(&self.used);
        while used.by_end.first().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, old)) = used.by_end.pop_first() {
                used.nonces.remove(&old);
            }
        }
        if used.nonces.len() >= REMEMBERED_MAX || used.nonces.contains(nonce) {
            return Ok(false);
        }
        let nonce: Arc<str> = nonce.into();
        // A token signed by a clock ahead of ours stays acceptable for that much longer.
        let end = now.max(signed_at).after(kept);
        used.nonces.insert(Arc::clone(&nonce));
        used.by_end.insert((end, nonce));
        Ok(true)
    }
}
