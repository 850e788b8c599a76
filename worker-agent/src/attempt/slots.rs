//! Slot numbers: each living container has one, which names the host uid that its job runs as.
//!
//! There are twice as many as attempts run at a time, so that a container that is being removed does not hold the next
//! one up.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Clone)]
pub struct Slots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    count: u32,
    taken: Mutex<BTreeSet<u32>>,
    freed: Notify,
}

/// Dropping it frees the slot.
#[derive(Debug)]
pub struct Slot {
    pub number: u32,
    shared: Arc<Shared>,
}

impl Slots {
    pub fn new(at_a_time: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                count: at_a_time.max(1).saturating_mul(2),
                taken: Mutex::new(BTreeSet::new()),
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

    /// The slot of a container that is adopted.
    pub fn claim(&self, number: u32) -> Slot {
        self.shared.taken().insert(number);
        self.slot(number)
    }

    fn slot(&self, number: u32) -> Slot {
        Slot {
            number,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Shared {
    fn lowest(&self) -> Option<u32> {
        let mut taken = self.taken();
        let number = (0..self.count).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(number)
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.taken().remove(&self.number);
        self.shared.freed.notify_one();
    }
}
