//! A queue that passes everything on, lets pushes through as it is told, and counts what is asked of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use common::queue::{HeldBack, Lane, QueueEntry};
use common::store::{Build, JobQueue, StoreError};
use tokio::sync::Semaphore;

/// More pushes than any test makes.
pub const OPEN: usize = 1_000;

/// A queue that lets pushes through one by one, as it is told.
pub struct Gated {
    queue: Arc<dyn JobQueue>,
    pub permits: Semaphore,
    /// Pushes that were asked for.
    pub asked: AtomicUsize,
    /// Of them, those that were dropped while they waited to be let through.
    pub given_up: AtomicUsize,
    /// How often its length was asked for: only the reconcile does.
    pub looks: AtomicUsize,
}

impl Gated {
    /// Stands before the queue that it takes the place of, and is open.
    pub fn before(queue: &mut Arc<dyn JobQueue>) -> Arc<Self> {
        let gated = Arc::new(Self {
            queue: Arc::clone(queue),
            permits: Semaphore::new(OPEN),
            asked: AtomicUsize::default(),
            given_up: AtomicUsize::default(),
            looks: AtomicUsize::default(),
        });
        *queue = Arc::clone(&gated) as Arc<dyn JobQueue>;
        gated
    }
}

struct GivenUp<'a>(&'a AtomicUsize);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl JobQueue for Gated {
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let waits = GivenUp(&self.given_up);
        self.permits.acquire().await.unwrap().forget();
        std::mem::forget(waits);
        self.queue.push(entries).await
    }

    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        self.queue.remove(entries).await
    }

    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        self.queue.heads(lane, skip, limit).await
    }

    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError> {
        self.queue.lanes().await
    }

    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError> {
        self.queue.place(entry).await
    }

    async fn len(&self) -> Result<u64, StoreError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.queue.len().await
    }

    async fn is_built(&self) -> Result<bool, StoreError> {
        self.queue.is_built().await
    }

    async fn begin_build(&self) -> Result<Build, StoreError> {
        self.queue.begin_build().await
    }

    async fn mark_built(&self, build: &Build) -> Result<bool, StoreError> {
        self.queue.mark_built(build).await
    }

    async fn tell_reservations(&self, reservations: &[HeldBack]) -> Result<(), StoreError> {
        self.queue.tell_reservations(reservations).await
    }

    async fn reservations(&self) -> Result<Vec<HeldBack>, StoreError> {
        self.queue.reservations().await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.queue.clear().await
    }
}
