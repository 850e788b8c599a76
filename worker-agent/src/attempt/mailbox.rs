//! What the session tells an attempt: a letter box whose letters of one kind merge, so that it is bounded by
//! construction, never blocks the session and never loses the newest word.

use std::sync::{Mutex, PoisonError};

use common::log::Stream;
use common::protocol::ResultVerdict;
use common::time::Mono;
use tokio::sync::Notify;

use crate::link::Outbox;

#[derive(Debug, Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

/// Everything that came since the last look.
#[derive(Debug, Default)]
pub struct Mail {
    /// The lease was renewed until then.
    pub deadline: Option<Mono>,
    /// For each stream, the highest chunk up to which all are stored.
    pub stored: [Option<u64>; 2],
    /// No more of the log is wanted.
    pub logs_stale: bool,
    pub cancel: Option<Option<String>>,
    /// The control plane does not want the run any more.
    pub stop: bool,
    /// The agent is shutting down, and jobs are not to outlive it.
    pub drain: bool,
    /// It was assigned once more: say again how far it is.
    pub assigned_again: bool,
    pub result: Option<ResultVerdict>,
    /// The link came up, or went down.
    pub link: Option<Option<Outbox>>,
    /// End the task at once and leave the container alone.
    pub leave: bool,
}

impl Mailbox {
    pub fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    pub fn put_stored(&self, stream: Stream, seq: u64) {
        self.put(|mail| {
            let place = &mut mail.stored[stream.index()];
            *place = (*place).max(Some(seq));
        });
    }

    /// Waits for mail; cancel-safe.
    pub async fn take(&self) -> Mail {
        self.arrived.notified().await;
        std::mem::take(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
