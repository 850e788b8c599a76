//! What earlier lives of the agent left.
//!
//! Invariant: nothing is made and nothing removed before it was looked at once, when the engine first answers. So every
//! container that is there then is of an earlier life, and keeps its user until it is gone, whoever removed it: an
//! administrator, or the engine, which ends what was asked for by an agent that was killed meanwhile.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::engine::{is_not_found, words};
use super::handle::Handle;
use super::listing::Listed;
use super::shared::{Shared, blocking};
use crate::executor::ExecutorError;

/// Workspaces that were there at the start.
pub struct Leftovers {
    workspaces: Vec<String>,
    looked_at: OnceCell<()>,
    /// Containers of earlier lives that were there then, by name, without those that are known to be gone or that a run
    /// looks after.
    there: Mutex<BTreeSet<String>>,
}

impl Leftovers {
    pub const fn new(workspaces: Vec<String>) -> Self {
        Self {
            workspaces,
            looked_at: OnceCell::const_new(),
            there: Mutex::new(BTreeSet::new()),
        }
    }

    /// Nothing is left of the container of that name, or somebody looks after it.
    pub fn settled(&self, name: &str) {
        self.there().remove(name);
    }

    fn there(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.leftovers.there().insert(container.handle.name.clone());
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

    /// Removes the workspaces of leftovers that somebody else removed, and frees their users.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn follow_leftovers(&self, listed: &[Listed]) -> Result<(), ExecutorError> {
        let mut unlisted = self.leftovers.there().clone();
        for container in listed {
            unlisted.remove(&container.handle.name);
        }
        for name in unlisted {
            let client = self.engine.client();
            let client = client.map_err(|error| ExecutorError::new(words(&error)))?;
            // Asked for by name too: a workspace must not go from under a job for one list that was not whole.
            match client.inspect_container(&name, None).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {
                    let removed = self.remove_now_or_later(Handle::of_none(&name)).await;
                    tracing::info!(
                        name,
                        done = removed.is_ok(),
                        "somebody else removed a container of an earlier life"
                    );
                }
                Err(error) => return Err(ExecutorError::new(words(&error))),
            }
        }
        Ok(())
    }
}
