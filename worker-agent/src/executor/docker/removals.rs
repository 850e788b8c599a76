//! Containers that are to go: removed in the background, however often the engine has to be asked.
//!
//! Invariants: whatever is handed over here is asked for until it is gone, and its user is its own until then. An engine
//! that is away, or has no containerd, is waited for; what a whole one refuses is kept on a list that one task works off,
//! so that nothing else waits for it. A node with a long list is not ready, which bounds it. What stays behind when the
//! agent stops is found by its next life.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use common::tasks::Tasks;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::engine::{Health, words};
use super::handle::Handle;
use super::shared::{Shared, blocking};
use crate::executor::ExecutorError;

/// Containers that wait to be removed. While it is full no more are made, and whoever ends one waits.
const WAITING_MAX: usize = 256;
/// Removals at the same time: each costs the engine CPU that jobs want.
const REAPERS: usize = 2;
/// Before a removal is asked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// With more that cannot be removed the node takes nothing new.
const STUCK_MAX: usize = 32;
/// Of those, asked for at the same time: an engine may hang over some.
const STUCK_AT_ONCE: usize = 8;

pub struct Removals {
    waiting: mpsc::Sender<Handle>,
    /// By the container's name.
    stuck: Mutex<BTreeMap<String, Stuck>>,
}

struct Stuck {
    handle: Handle,
    why: String,
}

/// The other end of [`Removals`].
pub struct Waiting(mpsc::Receiver<Handle>);

impl Removals {
    pub fn new() -> (Self, Waiting) {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        let removals = Self {
            waiting,
            stuck: Mutex::default(),
        };
        (removals, Waiting(receiver))
    }

    /// Why the node should take nothing new.
    pub fn problem(&self) -> Option<String> {
        let stuck = self.stuck();
        let (name, first) = stuck.first_key_value()?;
        (stuck.len() > STUCK_MAX).then(|| {
            format!(
                "{} containers or their workspaces cannot be removed, such as {name}: {} (end what holds it, or start \
                 the engine anew)",
                stuck.len(),
                first.why
            )
        })
    }

    /// Waits while as many are to be removed as may be, so that none is made faster than others go.
    pub async fn room(&self) {
        // without the other end the agent stops, and what is made goes with it
        let _ = self.waiting.reserve().await;
    }

    /// Asks for what failed until it succeeds.
    pub fn keep_asking(&self, handle: Handle, error: &ExecutorError) {
        let why = error.message.clone();
        let name = handle.name.clone();
        self.stuck().insert(name, Stuck { handle, why });
    }

    /// Why the container of that name could not be removed; none where it is not on the list.
    pub fn why_stuck(&self, name: &str) -> Option<ExecutorError> {
        self.stuck()
            .get(name)
            .map(|stuck| ExecutorError::new(stuck.why.clone()))
    }

    fn stuck(&self) -> MutexGuard<'_, BTreeMap<String, Stuck>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes what is [reaped](Shared::reap), until the agent stops.
pub fn start(shared: &Arc<Shared>, waiting: Waiting) {
    let tasks = &shared.tasks;
    let waiting = Arc::new(tokio::sync::Mutex::new(waiting.0));
    for _ in 0..REAPERS {
        let (weak, waiting, tasks) = (Arc::downgrade(shared), Arc::clone(&waiting), tasks.clone());
        shared.tasks.keep("reaper", move || {
            reap_all(weak.clone(), Arc::clone(&waiting), tasks.clone())
        });
    }
    let (weak, tasks) = (Arc::downgrade(shared), tasks.clone());
    shared
        .tasks
        .keep("stuck removals", move || ask_again(weak.clone(), tasks.clone()));
}

async fn reap_all(
    shared: Weak<Shared>,
    waiting: Arc<tokio::sync::Mutex<mpsc::Receiver<Handle>>>,
    tasks: Tasks,
) {
    loop {
        let next = async { waiting.lock().await.recv().await };
        let handle = tokio::select! {
            biased;
            // what is queued is still removed
            handle = next => handle,
            () = tasks.stopping().cancelled() => return,
        };
        let (Some(handle), Some(shared)) = (handle, shared.upgrade()) else {
            return;
        };
        shared.remove_once_there_is_an_engine(handle).await;
    }
}

async fn ask_again(shared: Weak<Shared>, tasks: Tasks) {
    let stopping = tasks.stopping();
    let pause = || stopping.run_until_cancelled(tokio::time::sleep(AGAIN));
    while pause().await.is_some() {
        let Some(shared) = shared.upgrade() else { return };
        stopping.run_until_cancelled(shared.remove_stuck()).await;
    }
}

impl Shared {
    /// Removes it in the background.
    pub async fn reap(self: &Arc<Self>, handle: Handle) {
        if let Err(unsent) = self.removals.waiting.send(handle).await {
            self.remove_once_there_is_an_engine(unsent.0).await;
        }
    }

    /// Asks once before it returns, and goes on in the background where that fails.
    ///
    /// # Errors
    /// It is not removed yet.
    pub async fn remove_now_or_later(&self, mut handle: Handle) -> Result<(), ExecutorError> {
        let removed = self.remove(&mut handle).await;
        if let Err(error) = &removed {
            tracing::warn!(container = %handle.name, %error, "not removed yet");
            self.removals.keep_asking(handle, error);
        }
        removed
    }

    async fn remove_once_there_is_an_engine(&self, mut handle: Handle) {
        loop {
            let Err(error) = self.remove(&mut handle).await else {
                return;
            };
            tracing::warn!(container = %handle.name, %error, "not removed yet");
            if matches!(self.engine.health().await, Ok(Health::Whole)) {
                self.removals.keep_asking(handle, &error);
                return;
            }
            let stopping = self.tasks.stopping().cancelled();
            if tokio::time::timeout(AGAIN, stopping).await.is_ok() {
                return;
            }
        }
    }

    async fn remove_stuck(&self) {
        let handles: Vec<Handle> = {
            let stuck = self.removals.stuck();
            stuck.values().map(|stuck| stuck.handle.clone()).collect()
        };
        futures_util::stream::iter(handles)
            .for_each_concurrent(STUCK_AT_ONCE, |mut handle| async move {
                match self.remove(&mut handle).await {
                    Ok(()) => {
                        self.removals.stuck().remove(&handle.name);
                        tracing::info!(container = %handle.name, "removed at last");
                    }
                    Err(error) => {
                        tracing::debug!(container = %handle.name, %error, "still not removed");
                        self.removals.keep_asking(handle, &error);
                    }
                }
            })
            .await;
    }

    /// Kills and removes container, anonymous volumes and workspace; the user is free then.
    ///
    /// # Errors
    /// When the engine does not answer or refuses, a container may still come, or the workspace stays.
    async fn remove(&self, handle: &mut Handle) -> Result<(), ExecutorError> {
        self.look_at_leftovers().await?;
        if !handle.container.0.is_empty() {
            let was_there = self
                .engine
                .remove(&handle.container.0)
                .await
                .map_err(|error| ExecutorError::new(words(&error)))?;
            if !was_there && handle.may_still_come(self.clock.mono()) {
                return Err(ExecutorError::new(
                    "the engine did not say whether it made the container, and may still do it",
                ));
            }
        }
        let workspaces = Arc::clone(&self.workspaces);
        let name = handle.name.clone();
        blocking(move || workspaces.remove(&name))
            .await?
            .map_err(|error| ExecutorError {
                message: format!("the workspace stays: {error}"),
                source: Some(error.into()),
            })?;
        self.users.free(&handle.name);
        self.leftovers.settled(&handle.name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::executor::ContainerRef;

    #[tokio::test]
    async fn none_is_made_while_as_many_are_to_be_removed_as_may_be() {
        let (removals, mut waiting) = Removals::new();
        let has_room = || {
            tokio::task::unconstrained(removals.room())
                .now_or_never()
                .is_some()
        };
        for number in 0..WAITING_MAX {
            assert!(has_room(), "{number}");
            removals.waiting.send(Handle::of_none("jw")).await.unwrap();
        }
        assert!(!has_room());
        waiting.0.recv().await.unwrap();
        assert!(has_room());
    }

    #[test]
    fn a_node_with_more_stuck_containers_than_it_may_have_says_what_is_wrong_with_one() {
        let (removals, _waiting) = Removals::new();
        let error = ExecutorError::new("device busy");
        for number in 0..=STUCK_MAX {
            assert_eq!(removals.problem(), None, "{number}");
            let name = format!("jw-{number:02}");
            removals.keep_asking(Handle::of(ContainerRef(name.clone()), &name), &error);
        }
        let problem = removals.problem().unwrap();
        for part in ["33 containers", "jw-00", "device busy"] {
            assert!(problem.contains(part), "{problem}");
        }
    }
}
