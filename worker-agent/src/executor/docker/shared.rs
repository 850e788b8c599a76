//! What every part of the executor holds: the engine, the workspaces, and who removes containers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{RemoveContainerOptions, WaitContainerOptions};
use common::tasks::Tasks;
use common::time::SharedClock;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::engine::{Engine, Health, is_conflict, is_not_found, words};
use super::policy::Policy;
use super::run::Handle;
use super::workspace::Workspaces;
use crate::executor::ExecutorError;

/// Containers that wait to be removed; more than slots ever end at once. When it is full, whoever ends one waits.
const REAPING_MAX: usize = 256;
/// Removals at the same time: each costs the engine CPU that jobs want.
const REAPERS: usize = 2;
/// Before a removal that failed is tried again; from one refusal to the next it doubles, up to the longest.
const REAP_AGAIN: Duration = Duration::from_secs(2);
const REAP_AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long somebody else's removal of a container is waited for.
const REMOVAL_MAX: Duration = Duration::from_secs(10);

/// Users from the first on that are slots'; spare containers have those above. Twice the slots of the largest node.
pub const SLOT_USERS: u32 = 10_000;

pub struct Shared {
    pub engine: Arc<Engine>,
    pub workspaces: Arc<Workspaces>,
    pub policy: Policy,
    pub clock: SharedClock,
    pub state: PathBuf,
    pub init_setting: Option<PathBuf>,
    /// Of this agent and this state folder: the label that says what is ours.
    pub owner: String,
    /// Of this process: the label that tells what earlier ones made.
    pub life: String,
    /// Container names begin with it.
    pub name_prefix: String,
    pub uid_base: u32,
    pub tasks: Tasks,
    pub own: Own,
}

/// What only [`Shared`] itself touches.
pub struct Own {
    /// Users of containers that are there; slots have their own and do not ask.
    uids: Mutex<BTreeSet<u32>>,
    reaping: mpsc::Sender<Handle>,
}

impl Shared {
    /// With its reapers at work.
    pub fn start(make: impl FnOnce(Own) -> Self) -> Arc<Self> {
        let (reaping, due) = mpsc::channel(REAPING_MAX);
        let shared = Arc::new(make(Own {
            uids: Mutex::default(),
            reaping,
        }));
        let due = Arc::new(tokio::sync::Mutex::new(due));
        for _ in 0..REAPERS {
            let (weak, due, tasks) = (Arc::downgrade(&shared), Arc::clone(&due), shared.tasks.clone());
            shared.tasks.keep("reaper", move || {
                reap_all(weak.clone(), Arc::clone(&due), tasks.clone())
            });
        }
        shared
    }

    /// Removes it in the background.
    pub async fn reap(self: &Arc<Self>, handle: Handle) {
        if let Err(unsent) = self.own.reaping.send(handle).await {
            self.remove_once_there_is_an_engine(unsent.0).await;
        }
    }

    /// An engine that is away, or has no containerd, is waited for, however long. What a whole one refuses is asked
    /// for again beside, so that nothing else waits for it.
    async fn remove_once_there_is_an_engine(self: &Arc<Self>, handle: Handle) {
        loop {
            let Err(error) = self.remove(&handle).await else {
                return;
            };
            tracing::warn!(container = %handle.name, %error, "not removed yet");
            if matches!(self.engine.health().await, Ok(Health::Whole)) {
                let shared = Arc::clone(self);
                self.tasks
                    .spawn("removal", async move { shared.insist_on_removal(&handle).await });
                return;
            }
            if self.stopped_within(REAP_AGAIN).await {
                return;
            }
        }
    }

    async fn insist_on_removal(&self, handle: &Handle) {
        let mut pause = REAP_AGAIN;
        while !self.stopped_within(pause).await {
            let Err(error) = self.remove(handle).await else {
                return;
            };
            tracing::warn!(container = %handle.name, %error, "the engine refuses to remove it");
            pause = (pause * 2).min(REAP_AGAIN_MAX);
        }
    }

    async fn stopped_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.tasks.stopping().cancelled())
            .await
            .is_ok()
    }

    /// Kills and removes container, anonymous volumes and workspace.
    ///
    /// # Errors
    /// When the engine does not answer or refuses, or the workspace stays.
    pub async fn remove(&self, handle: &Handle) -> Result<(), ExecutorError> {
        if !handle.container.0.is_empty() {
            self.remove_container(&handle.container.0)
                .await
                .map_err(|error| ExecutorError::new(words(&error)))?;
        }
        let workspaces = Arc::clone(&self.workspaces);
        let name = handle.name.clone();
        blocking(move || workspaces.remove(&name))
            .await?
            .map_err(|error| ExecutorError {
                message: format!("the workspace stays: {error}"),
                source: Some(error.into()),
            })?;
        if let Some(uid) = handle.uid {
            self.own
                .uids
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&uid);
        }
        Ok(())
    }

    async fn remove_container(&self, container: &str) -> Result<(), EngineError> {
        let client = self.engine.client()?;
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        let mut outcome = client.remove_container(container, Some(options.clone())).await;
        if outcome.as_ref().is_err_and(is_conflict) {
            // The engine is at it already, and may fail: when that is over it is asked again, which tells.
            let condition = WaitContainerOptions {
                condition: "removed".to_owned(),
            };
            let mut removed = std::pin::pin!(client.wait_container(container, Some(condition)));
            let _over = tokio::time::timeout(REMOVAL_MAX, removed.next()).await;
            outcome = client.remove_container(container, Some(options)).await;
        }
        match outcome {
            Err(error) if is_not_found(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// A user from `first` on that no container has.
    pub fn take_uid(&self, first: u32) -> u32 {
        let mut uids = self.own.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = (first..).find(|uid| !uids.contains(uid)).unwrap_or(first);
        uids.insert(uid);
        uid
    }

    /// The user of a container of an earlier life.
    pub fn mark_uid(&self, uid: u32) {
        self.own
            .uids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid);
    }

    /// Whether the engine, or the host with it, began anew after this time of the engine's (RFC 3339).
    pub fn engine_restarted_since(&self, started_at: &str) -> bool {
        let Some(container) = rfc3339_seconds(started_at) else {
            return false;
        };
        // whichever way it is started, one of the two is made anew: systemd may hold the socket, nobody the other
        [PathBuf::from("/run/docker.pid"), self.engine.socket.clone()]
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
            .filter_map(|made| made.duration_since(std::time::UNIX_EPOCH).ok())
            .any(|made| i64::try_from(made.as_secs()).unwrap_or(0) > container)
    }
}

async fn reap_all(
    shared: std::sync::Weak<Shared>,
    due: Arc<tokio::sync::Mutex<mpsc::Receiver<Handle>>>,
    tasks: Tasks,
) {
    loop {
        let next = async { due.lock().await.recv().await };
        let handle = tokio::select! {
            biased;
            handle = next => handle,
            // what is queued is still removed; what stays behind is found at the next start
            () = tasks.stopping().cancelled() => return,
        };
        let (Some(handle), Some(shared)) = (handle, shared.upgrade()) else {
            return;
        };
        shared.remove_once_there_is_an_engine(handle).await;
    }
}

/// Runs what blocks where it may.
///
/// # Errors
/// When it panicked, which is logged as an error of the executor's.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ExecutorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ExecutorError {
            message: "a step on the disk was not finished".to_owned(),
            source: Some(error.into()),
        })
}

/// Seconds since 1970 of `2026-11-22T12:00:00…Z`, the only form that engines use.
pub fn rfc3339_seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !text.ends_with('Z') {
        return None;
    }
    // days since 1970 by the civil calendar, with years that begin in March
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_times_are_read() {
        assert_eq!(rfc3339_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339_seconds("2024-02-29T12:34:56.789Z"), Some(1_709_210_096));
        assert_eq!(rfc3339_seconds("2000-03-01T00:00:01.0Z"), Some(951_868_801));
        assert_eq!(rfc3339_seconds(""), None);
        assert_eq!(rfc3339_seconds("2024-02-29T12:34:56+01:00"), None);
    }
}
