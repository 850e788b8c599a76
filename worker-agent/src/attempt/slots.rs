//! Slot numbers: each living container has one, which names the host uid that its job runs as.
//!
//! There are twice as many as attempts run at a time, so that a container that is being removed does not hold the next
//! one up. A job that was seen to end gives its slot back before its container is removed: nothing runs there any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Clone)]
pub struct Slots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    at_a_time: u32,
    /// How many hold each.
    taken: Mutex<BTreeMap<u32, u32>>,
    /// Of those, how many are kept by containers that cannot be removed.
    kept: AtomicU32,
    freed: Notify,
}

/// Dropping it frees the slot.
#[derive(Debug)]
pub struct Slot {
    pub number: u32,
    kept: bool,
    shared: Arc<Shared>,
}

impl Slots {
    pub fn new(at_a_time: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                at_a_time: at_a_time.max(1),
                taken: Mutex::default(),
                kept: AtomicU32::new(0),
                freed: Notify::new(),
            }),
        }
    }

    /// The lowest free slot, waiting for one if need be.
    pub async fn acquire(&self) -> Slot {
        loop {
            let freed = self.shared.freed.notified();
            if let Some(number) = self.shared.lowest() {
                // Another waiter may find one as well.
                self.shared.freed.notify_one();
                return self.slot(number);
            }
            freed.await;
        }
    }

    /// The slot of a container of an earlier life. Two may claim one number: of an attempt that had ended, whose
    /// container is perhaps still there, and of the one that was given its slot after it.
    pub fn claim(&self, number: u32) -> Slot {
        *self.shared.taken().entry(number).or_default() += 1;
        self.slot(number)
    }

    /// Why no more attempts should be taken: with so many slots kept, one more might wait for its own without end.
    pub fn problem(&self) -> Option<String> {
        let kept = self.shared.kept.load(Ordering::Relaxed);
        (kept >= self.shared.at_a_time).then(|| {
            format!(
                "{kept} containers of jobs that are over cannot be removed, and keep the users that other jobs would \
                 have: the agent's log names them and says why (docker rm -f removes one)"
            )
        })
    }

    fn slot(&self, number: u32) -> Slot {
        Slot {
            number,
            kept: false,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Slot {
    /// Its container cannot be removed yet.
    pub fn keep(&mut self) {
        if !std::mem::replace(&mut self.kept, true) {
            self.shared.kept.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn lowest(&self) -> Option<u32> {
        let mut taken = self.taken();
        let number = (0..self.at_a_time.saturating_mul(2)).find(|number| !taken.contains_key(number))?;
        taken.insert(number, 1);
        Some(number)
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<u32, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.kept {
            self.shared.kept.fetch_sub(1, Ordering::Relaxed);
        }
        let mut taken = self.shared.taken();
        if let Some(holders) = taken.get_mut(&self.number) {
            *holders -= 1;
            if *holders == 0 {
                taken.remove(&self.number);
            }
        }
        drop(taken);
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_that_two_claimed_is_free_when_both_have_gone() {
        let slots = Slots::new(1);
        let (ended, runs) = (slots.claim(0), slots.claim(0));
        drop(ended);
        assert_eq!(slots.acquire().await.number, 1);
        drop(runs);
        assert_eq!(slots.acquire().await.number, 0);
    }

    #[tokio::test]
    async fn with_as_many_kept_as_may_run_no_more_are_taken_until_one_is_let_go() {
        let slots = Slots::new(2);
        let (mut one, mut other) = (slots.acquire().await, slots.acquire().await);
        one.keep();
        one.keep();
        assert_eq!(slots.problem(), None);
        other.keep();
        assert!(slots.problem().unwrap().contains("2 containers"));
        drop(one);
        assert_eq!(slots.problem(), None);
    }
}
