//! Tracked background tasks: nothing is spawned that nobody waits for.
//!
//! [`Tasks`] is cheap to clone. [`Tasks::stop`] asks every task to end through the shared token; [`Tasks::join`]
//! waits for them. A task that panics is logged by name and does not take the process along.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops with this one, but can be stopped alone.
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stopping: self.stopping.child_token(),
        }
    }

    /// The signal to end; tasks select on `stopping().cancelled()`.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    #[expect(clippy::disallowed_methods, reason = "this is the tracked spawner")]
    pub fn spawn<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guarded = std::panic::AssertUnwindSafe(task).catch_unwind();
        tokio::spawn(self.tracker.track_future(async move {
            if guarded.await.is_err() {
                tracing::error!(task = name, "a background task panicked");
            }
        }))
    }

    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits for every task of the whole family, `within` at the most; false when some did not end.
    pub async fn join(&self, within: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}
