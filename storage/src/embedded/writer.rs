//! The writer of a database: one at a time, group commit.
//!
//! While one group's commit is under way the next collects in a bounded channel, which a thread empties; a group is one
//! transaction, and each of its requests is answered after the commit. Whoever finds nobody writing commits a small
//! request where it stands ([`Lane::at_once`]), since to wake the thread and be woken by it takes as long as the commit.
//! Invariants: an answered request is durable; none overtakes one that waits; a request that fails changes nothing and
//! spoils no other (the group is undone and each request of it is made alone, which is why work is `FnMut`); a failed
//! commit is answered to the whole group. Once closed, or should the thread die, callers get [`StoreError::Unavailable`].

mod group;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::store::StoreError;
use rusqlite::Connection;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};

use self::group::{Call, Group, Request, Writer};
use super::folder::Folder;
use super::sqlite;
use super::wal_room::WalRoom;

/// What is written to.
pub(super) trait State: Send + 'static {
    fn db(&self) -> &Connection;

    /// Everything that has to be durable before the commit is.
    fn before_commit(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn committed(&mut self) {}

    fn rolled_back(&mut self) {}
}

impl State for Connection {
    fn db(&self) -> &Connection {
        self
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Requests that may wait.
    pub(super) queue: usize,
    /// Most requests in one group.
    pub(super) group: usize,
    /// A group is closed once its requests weigh this much together.
    pub(super) weight: usize,
    /// A request of no more weight may be committed on its caller's thread.
    pub(super) at_once: usize,
}

/// The way to a writer, whose thread ends when the last of these is dropped.
pub(super) struct Lane<S> {
    to_thread: mpsc::Sender<Message<S>>,
    shared: Arc<Shared<S>>,
    at_once: usize,
}

impl<S> Clone for Lane<S> {
    fn clone(&self) -> Self {
        Self {
            to_thread: self.to_thread.clone(),
            shared: Arc::clone(&self.shared),
            at_once: self.at_once,
        }
    }
}

struct Shared<S> {
    /// None once closed.
    writer: Mutex<Option<Writer<S>>>,
    /// Requests on their way to the thread, or with it.
    waiting: AtomicUsize,
    /// Whether the last group was committed promptly.
    prompt: AtomicBool,
}

impl<S> Shared<S> {
    fn writer(&self) -> MutexGuard<'_, Option<Writer<S>>> {
        // A panic of a request is caught below, and its group undone.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of [`Shared::waiting`] for as long as it lives.
struct Ticket<S>(Arc<Shared<S>>);

impl<S> Ticket<S> {
    fn of(shared: &Arc<Shared<S>>) -> Self {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Message<S> {
    Work(Box<dyn Request<S>>, Ticket<S>),
    /// The log has no room left.
    Room,
    Close(oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
#[error("the store is closed")]
pub(super) struct Closed;

impl<S: State> Lane<S> {
    /// The folder stays locked as long as the thread lives.
    pub(super) fn start(
        name: &'static str,
        state: S,
        size: Size,
        folder: Arc<Folder>,
        room: Option<WalRoom>,
    ) -> Result<Self, StoreError> {
        let (to_thread, receiver) = mpsc::channel(size.queue);
        let shared = Arc::new(Shared {
            writer: Mutex::new(Some(Writer { state, room })),
            waiting: AtomicUsize::new(0),
            prompt: AtomicBool::new(true),
        });
        let lane = Self {
            to_thread,
            shared: Arc::clone(&shared),
            at_once: size.at_once,
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                let closing = serve(receiver, &shared, size);
                drop(shared.writer().take());
                drop(folder);
                if let Some(reply) = closing {
                    // Whoever closes may have gone away; the lane is closed all the same.
                    let _ = reply.send(());
                }
            })
            .map_err(sqlite::io)?;
        Ok(lane)
    }

    /// Does `work` in a transaction and answers after its commit. `work` may run twice, the first run being undone.
    pub(super) async fn write<T, F>(&self, weight: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_then(weight, work, |_| ()).await
    }

    /// As [`Lane::write`]; once the outcome stands, and before it is answered, `after` sees it, in the order of commits,
    /// also where the caller has gone away.
    pub(super) async fn write_then<T, F, A>(&self, weight: usize, work: F, after: A) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&mut S) -> Result<T, StoreError> + Send + 'static,
        A: FnOnce(&Result<T, StoreError>) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call {
            weight,
            work,
            after,
            outcome: None,
            reply,
        };
        if let Some(request) = self.at_once(Box::new(call)) {
            let ticket = Ticket::of(&self.shared);
            self.to_thread
                .send(Message::Work(request, ticket))
                .await
                .map_err(|_| StoreError::Unavailable(Box::new(Closed)))?;
        }
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable(Box::new(Closed))))
    }

    /// Commits `request` on this very thread where nobody writes or waits, the disk answers promptly, and the runtime
    /// has another thread that goes on meanwhile. Gives it back otherwise.
    ///
    /// Once in some thousand commits SQLite also moves its log into the database here, which takes some 50 ms.
    fn at_once(&self, request: Box<dyn Request<S>>) -> Option<Box<dyn Request<S>>> {
        let shared = &self.shared;
        let fit = request.weight() <= self.at_once
            && shared.prompt.load(Ordering::Relaxed)
            && shared.waiting.load(Ordering::SeqCst) == 0
            && others_go_on();
        if !fit {
            return Some(request);
        }
        let Ok(mut writer) = shared.writer.try_lock() else {
            return Some(request);
        };
        let Some(open) = writer.as_mut() else {
            return Some(request);
        };
        shared.prompt.store(open.write(vec![request]), Ordering::Relaxed);
        let used_up = open.room.as_ref().is_some_and(WalRoom::is_used_up);
        drop(writer);
        if used_up {
            // Where the thread has something to do it sees to the room by itself.
            let _ = self.to_thread.try_send(Message::Room);
        }
        None
    }

    /// Waits for what is under way, then ends the thread.
    pub(super) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.to_thread.send(Message::Close(reply)).await.is_ok() {
            // An error means that the thread is gone, which is what was asked for.
            let _ = closed.await;
        }
    }
}

/// Whether a runtime runs us that has more threads than this one.
fn others_go_on() -> bool {
    Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
    })
}

/// Until closed; gives back who wants to know that it is.
fn serve<S: State>(
    mut receiver: mpsc::Receiver<Message<S>>,
    shared: &Shared<S>,
    size: Size,
) -> Option<oneshot::Sender<()>> {
    while let Some(first) = receiver.blocking_recv() {
        let (mut group, mut tickets): (Group<S>, Vec<Ticket<S>>) = Default::default();
        let (mut weight, mut closing) = (0, None);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Work(request, ticket) => {
                    weight += request.weight();
                    group.push(request);
                    tickets.push(ticket);
                }
                Message::Room => {}
                Message::Close(reply) => {
                    closing = Some(reply);
                    break;
                }
            }
            if group.len() >= size.group || weight >= size.weight {
                break;
            }
            next = receiver.try_recv().ok();
        }
        if let Some(writer) = shared.writer().as_mut() {
            if !group.is_empty() {
                shared.prompt.store(writer.write(group), Ordering::Relaxed);
            }
            // After the answers: nobody waits for it.
            if let Some(room) = &mut writer.room {
                room.keep_ahead();
            }
        }
        drop(tickets);
        if closing.is_some() {
            return closing;
        }
    }
    None
}
