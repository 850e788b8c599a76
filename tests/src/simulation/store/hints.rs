//! Hints: each listener has an ear of its own, and what reaches it is the network's to say.

use std::collections::BTreeMap;

use common::store::{Hint, HintStream, Hints};
use tokio::sync::broadcast;

use super::{Caller, Client, held};

/// Hints that a slow listener may be behind by.
const BEHIND_MAX: usize = 1_024;

#[derive(Default)]
pub struct Exchange {
    ears: BTreeMap<Caller, broadcast::Sender<Option<Hint>>>,
}

impl Exchange {
    pub fn join(&mut self, caller: Caller) {
        self.ears
            .entry(caller)
            .or_insert_with(|| broadcast::Sender::new(BEHIND_MAX));
    }
}

impl Hints for Client {
    fn send(&self, hint: Hint) {
        for (&to, ear) in &held(&self.backends.exchange).ears {
            let Some((network, tasks)) = &self.network else {
                // Nobody listening is no fault; nor is it below.
                let _ = ear.send(Some(hint.clone()));
                continue;
            };
            for delay in network.hint(self.caller, to) {
                let (ear, hint) = (ear.clone(), hint.clone());
                if delay.is_zero() {
                    let _ = ear.send(Some(hint));
                    continue;
                }
                tasks.spawn("a hint", async move {
                    tokio::time::sleep(delay).await;
                    let _ = ear.send(Some(hint));
                });
            }
        }
    }

    fn subscribe(&self) -> HintStream {
        let mut exchange = held(&self.backends.exchange);
        exchange.join(self.caller);
        HintStream::new(exchange.ears[&self.caller].subscribe())
    }
}
