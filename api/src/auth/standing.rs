//! Whether whoever makes a long request may still make it.

use std::time::Duration;

use common::identity::Principal;
use common::store::StoreError;
use common::time::Mono;

use super::still_holds;
use crate::state::AppState;

/// How often it is looked at again: with a tick of a second more, a request that is held open ends within five seconds
/// of a sign-out.
const EVERY: Duration = Duration::from_secs(4);

/// The caller of a request that is held open, asked for now and then. A sign-in or key that was revoked or has expired,
/// a user who was disabled or moved, loses what it had opened too.
pub struct Standing {
    caller: Principal,
    looked_at: Mono,
}

impl Standing {
    /// Of a caller who was let in just now.
    pub fn new(app: &AppState, caller: Principal) -> Self {
        Self {
            caller,
            looked_at: app.clock.mono(),
        }
    }

    /// # Errors
    /// The rows cannot be read.
    pub async fn holds(&mut self, app: &AppState) -> Result<bool, StoreError> {
        let now = app.clock.mono();
        if now.since(self.looked_at) < EVERY {
            return Ok(true);
        }
        let holds = still_holds(app, &self.caller).await?;
        self.looked_at = now;
        Ok(holds)
    }
}
