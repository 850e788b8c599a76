//! Hints over a broadcast channel.

use async_trait::async_trait;
use common::store::{Hint, HintStream, Hints};
use tokio::sync::broadcast;

/// Hints that a slow reader may be behind by; then it is told to look at everything, which costs it less.
const BEHIND_MAX: usize = 4_096;

pub struct LocalHints(broadcast::Sender<Option<Hint>>);

impl LocalHints {
    pub fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }
}

#[async_trait]
impl Hints for LocalHints {
    fn send(&self, hint: Hint) {
        // Nobody listening is no fault.
        let _ = self.0.send(Some(hint));
    }

    fn subscribe(&self) -> HintStream {
        HintStream::new(self.0.subscribe())
    }
}
