//! Tracked background tasks: nothing is spawned that nobody waits for.
//!
//! [`Tasks`] is cheap to clone. [`Tasks::stop`] asks every task to end through the shared token; [`Tasks::join`]
//! waits for them. A task that panics is logged by name and does not take the process along; one that the program
//! cannot do without is kept by [`Tasks::keep`], which begins it anew.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The first pause before a kept task begins anew: whatever made it panic may be over by then.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest: a task that panics at once each time costs next to nothing, and its log stays readable.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A life of this length forgives the panics before it.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    host: Option<Arc<dyn Host>>,
}

/// What runs a group's tasks in a simulation, where one process stands for many: it can hold all of them still, and
/// end them between two steps, as signals do to a program.
pub trait Host: Send + Sync {
    fn hosted(&self, name: &'static str, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()>;
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks")
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group whose tasks run on `host`.
    pub fn hosted_by(host: Arc<dyn Host>) -> Self {
        Self {
            host: Some(host),
            ..Self::default()
        }
    }

    /// A group that stops with this one, but can be stopped alone.
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stopping: self.stopping.child_token(),
            host: self.host.clone(),
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
        if let Some(host) = &self.host {
            let hosted = host.hosted(name, task.boxed());
            return tokio::spawn(self.tracker.track_future(hosted));
        }
        let guarded = std::panic::AssertUnwindSafe(task).catch_unwind();
        tokio::spawn(self.tracker.track_future(async move {
            if guarded.await.is_err() {
                tracing::error!(task = name, "a background task panicked");
            }
        }))
    }

    /// Spawns a task that the program cannot do without: when it panics, `begin` makes it anew after a pause that
    /// doubles with each panic, until it ends by itself or the tasks stop. What it was doing at the time is lost.
    pub fn keep<F, T>(&self, name: &'static str, mut begin: F) -> tokio::task::JoinHandle<()>
    where
        F: FnMut() -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let stopping = self.stopping.clone();
        self.spawn(name, async move {
            let mut pause = None;
            loop {
                let begun = tokio::time::Instant::now();
                let life = std::panic::AssertUnwindSafe(async { begin().await });
                if life.catch_unwind().await.is_ok() || stopping.is_cancelled() {
                    return;
                }
                let next = pause_after(pause, begun.elapsed());
                tracing::error!(task = name, pause = ?next, "a background task panicked; it begins anew");
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(next) => {}
                }
                pause = Some(next);
            }
        })
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

/// The pause after a life that ended in a panic; `before` is the pause before that life.
fn pause_after(before: Option<Duration>, lived: Duration) -> Duration {
    match before {
        Some(pause) if lived < FORGIVEN_AFTER => (pause * 2).min(PAUSE_MAX),
        Some(_) | None => PAUSE_MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Tells that it lives, then panics; from its life `good` on it goes on until it is stopped.
    fn panicking(tasks: &Tasks, good: u32) -> mpsc::Receiver<u32> {
        let (tell, told) = mpsc::channel(16);
        let (stopping, mut life) = (tasks.stopping().clone(), 0);
        tasks.keep("test", move || {
            life += 1;
            let (tell, stopping) = (tell.clone(), stopping.clone());
            async move {
                tell.send(life).await.unwrap();
                assert!(life >= good, "as the test asked");
                stopping.cancelled().await;
            }
        });
        told
    }

    async fn lives(told: &mut mpsc::Receiver<u32>) -> Option<u32> {
        tokio::time::timeout(DEADLINE, told.recv()).await.unwrap()
    }

    #[tokio::test]
    async fn a_kept_task_that_panics_begins_anew_after_its_pauses() {
        let (tasks, begun) = (Tasks::new(), tokio::time::Instant::now());
        let mut told = panicking(&tasks, 4);
        for life in 1..=4 {
            assert_eq!(lives(&mut told).await, Some(life));
        }
        assert!(begun.elapsed() >= 7 * PAUSE_MIN, "{:?}", begun.elapsed());
        tasks.stop();
        assert!(tasks.join(DEADLINE).await);
        assert_eq!(lives(&mut told).await, None);
    }

    #[tokio::test]
    async fn a_kept_task_that_ends_has_ended_and_a_stop_ends_every_pause() {
        let tasks = Tasks::new();
        tasks.keep("ends", || async {}).await.unwrap();
        let mut told = panicking(&tasks, u32::MAX);
        assert_eq!(lives(&mut told).await, Some(1));
        tasks.stop();
        assert!(tasks.join(DEADLINE).await);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_long_life_forgives() {
        let soon = Duration::ZERO;
        assert_eq!(pause_after(None, soon), PAUSE_MIN);
        assert_eq!(pause_after(Some(PAUSE_MIN), soon), 2 * PAUSE_MIN);
        assert_eq!(pause_after(Some(PAUSE_MAX), soon), PAUSE_MAX);
        assert_eq!(pause_after(Some(PAUSE_MAX), FORGIVEN_AFTER), PAUSE_MIN);
    }
}
