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
        tasks.keep("condition", move || {
            let (this, stopping) = (Arc::clone(&this), stopping.clone());
            async move {
                loop {
                    tokio::select! {
                        () = tokio::time::sleep(every) => this.look().await,
                        () = stopping.cancelled() => break,
                    }
                }
            }
        });
    }
}

async fn ask(executor: &Arc<dyn Executor>) -> Condition {
    let asked = tokio::time::timeout(WITHIN, executor.condition()).await;
    asked.unwrap_or_else(|_| Condition::Unready {
        reasons: vec!["the container engine does not answer".into()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::StartFailure;
    use crate::executor::fake::FakeExecutor;

    const SOON: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_look_that_panics_is_not_the_last_one() {
        let (fake, tasks) = (Arc::new(FakeExecutor::default()), Tasks::new());
        let condition = Arc::new(NodeCondition::looked_at(Arc::clone(&fake) as Arc<dyn Executor>).await);
        let mut told = condition.subscribe();
        fake.panic_at_the_next_look();
        fake.refuse(Some(StartFailure::Infra {
            message: "gone".to_owned(),
        }));
        condition.keep_looking(&tasks, SOON);
        let unready = told.wait_for(|condition| *condition != Condition::Ready);
        let unready = tokio::time::timeout(PATIENCE, unready).await;
        assert!(unready.is_ok_and(|told| told.is_ok()), "a second look");
        tasks.stop();
    }
}
