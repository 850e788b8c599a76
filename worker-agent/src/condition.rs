//! Whether this node can start jobs: looked at now and then, and at once where a start has failed for the node's sake.
//!
//! Invariant: such a failure is reported only after the look that it asked for, whose answer goes out with the next
//! heartbeat, which a change brings forward. So a node whose engine is gone costs the jobs that it has one try each,
//! and is given no more to fail.

use std::sync::Arc;
use std::time::Duration;

use common::tasks::Tasks;
use common::worker::Condition;
use tokio::sync::watch;

use crate::executor::Executor;

/// Longest that the executor is waited for.
const WITHIN: Duration = Duration::from_secs(5);

pub struct NodeCondition {
    executor: Arc<dyn Executor>,
    known: watch::Sender<Condition>,
}

impl NodeCondition {
    /// After a first look: a hello would else promise what nobody has looked at.
    pub async fn looked_at(executor: Arc<dyn Executor>) -> Self {
        let known = watch::Sender::new(ask(&executor).await);
        Self { executor, known }
    }

    /// Told of every change.
    pub fn subscribe(&self) -> watch::Receiver<Condition> {
        self.known.subscribe()
    }

    /// Ends after the answer is known to whoever has subscribed.
    pub async fn look(&self) {
        let found = ask(&self.executor).await;
        self.known.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
    }

    /// Looks until the agent stops.
    pub fn keep_looking(self: &Arc<Self>, tasks: &Tasks, every: Duration) {
        let (this, stopping) = (Arc::clone(self), tasks.stopping().clone());
        tasks.spawn("condition", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(every) => this.look().await,
                    () = stopping.cancelled() => break,
                }
            }
        });
    }
}

async fn ask(executor: &Arc<dyn Executor>) -> Condition {
    tokio::time::timeout(WITHIN, executor.condition())
        .await
        .unwrap_or_else(|_| Condition::Unready {
            reasons: vec!["the container engine does not answer".into()],
        })
}
