//! What earlier lives of the agent left.
//!
//! Invariant: nothing is made and nothing removed before it was looked at once, when the engine first answers. So every
//! container that is there then is of an earlier life, and keeps its user until it is gone.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::handle::Handle;
use super::shared::{Shared, blocking};
use crate::executor::ExecutorError;

/// Workspaces that were there at the start.
pub struct Leftovers {
    workspaces: Vec<String>,
    looked_at: OnceCell<()>,
}

impl Leftovers {
    pub const fn new(workspaces: Vec<String>) -> Self {
        Self {
            workspaces,
            looked_at: OnceCell::const_new(),
        }
    }
}

impl Shared {
    /// Marks the users of containers that are there, and removes workspaces whose container is gone. Does nothing once
    /// that is done.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn look_at_leftovers(&self) -> Result<(), ExecutorError> {
        let looked_at = &self.leftovers.looked_at;
        looked_at.get_or_try_init(|| self.look_once()).await.copied()
    }

    async fn look_once(&self) -> Result<(), ExecutorError> {
        let listed = self.list().await?;
        for container in &listed {
            if let Some(user) = container.user {
                self.users.mark(&container.handle.name, user);
            }
        }
        let mut gone = self.leftovers.workspaces.clone();
        gone.retain(|name| listed.iter().all(|container| container.handle.name != *name));
        let workspaces = Arc::clone(&self.workspaces);
        let stay = blocking(move || {
            let removed = gone.into_iter().map(|name| (workspaces.remove(&name), name));
            removed
                .filter_map(|(removed, name)| Some((removed.err()?, name)))
                .collect::<Vec<_>>()
        });
        for (error, name) in stay.await? {
            tracing::warn!(%error, name, "a workspace of an earlier life stays for now");
            self.removals
                .keep_asking(Handle::of_none(&name), &ExecutorError::new(error.to_string()));
        }
        Ok(())
    }
}
