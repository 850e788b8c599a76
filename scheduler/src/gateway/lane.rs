//! A lane: many ask, one writes. While a write is under way the next batch collects, so each durable write is shared.
//!
//! Renewals, reports and log chunks have a lane each: none waits behind another's batch. A lane is bounded; who finds
//! it full waits, and stops reading its socket meanwhile.

use std::future::Future;
use std::time::Duration;

use common::tasks::Tasks;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

/// A question, and where its answer goes.
pub type Asked<Q, A> = (Q, oneshot::Sender<A>);

pub struct Lane<Q, A> {
    sender: mpsc::Sender<Asked<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Lane<Q, A> {
    /// Asks. What is asked first is answered first, as long as there is room: the place is taken at the call and not
    /// at the first poll. None when the lane is gone.
    pub fn ask(&self, question: Q) -> impl Future<Output = Option<A>> + Send + 'static + use<Q, A> {
        let (answer, answered) = oneshot::channel();
        let (late, sender) = match self.sender.try_send((question, answer)) {
            Ok(()) => (None, None),
            Err(mpsc::error::TrySendError::Full(asked)) => (Some(asked), Some(self.sender.clone())),
            // The dropped sender of the answer tells it.
            Err(mpsc::error::TrySendError::Closed(_)) => (None, None),
        };
        async move {
            if let (Some(asked), Some(sender)) = (late, sender) {
                sender.send(asked).await.ok()?;
            }
            answered.await.ok()
        }
    }
}

pub struct Inbox<Q, A> {
    receiver: mpsc::Receiver<Asked<Q, A>>,
}

/// An inbox for as long as its writer lives; the next writer finds it where this one left it.
pub type Lent<Q, A> = OwnedMutexGuard<Inbox<Q, A>>;

/// Keeps a lane's writer until nobody can ask any more. The questions that one was writing as it panicked are answered
/// by their dropped senders, as by a lane that is gone; those behind them are the next writer's.
///
/// The lane outlives the stop of `tasks`, so that what was asked before is still answered.
pub fn keep<Q, A, F, T>(tasks: &Tasks, name: &'static str, inbox: Inbox<Q, A>, mut write: F)
where
    Q: Send + 'static,
    A: Send + 'static,
    F: FnMut(Lent<Q, A>) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let inbox = std::sync::Arc::new(tokio::sync::Mutex::new(inbox));
    tasks.keep(name, move || {
        // The writer before has let go of it: one lives at a time.
        let lent = std::sync::Arc::clone(&inbox).try_lock_owned();
        let writing = lent.ok().map(&mut write);
        async move {
            if let Some(writing) = writing {
                writing.await;
            }
        }
    });
}

/// A lane with room for `depth` questions.
pub fn lane<Q, A>(depth: usize) -> (Lane<Q, A>, Inbox<Q, A>) {
    let (sender, receiver) = mpsc::channel(depth);
    (Lane { sender }, Inbox { receiver })
}

impl<Q, A> Inbox<Q, A> {
    /// The next batch of at most `most`: what is there `window` after its first question came. None when nobody can
    /// ask any more.
    pub async fn batch(&mut self, most: usize, window: Duration) -> Option<Vec<Asked<Q, A>>> {
        let mut batch = Vec::new();
        if self.receiver.recv_many(&mut batch, most).await == 0 {
            return None;
        }
        if !window.is_zero() {
            tokio::time::sleep(window).await;
        }
        while batch.len() < most
            && let Ok(asked) = self.receiver.try_recv()
        {
            batch.push(asked);
        }
        Some(batch)
    }
}
