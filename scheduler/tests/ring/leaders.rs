//! One leader at a time, and a queue that may vanish.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::ids::{SessionId, WorkerId};
use common::job::{Epoch, Lease, StateName};
use common::lifecycle::JobEvent;
use common::lifecycle::testing::spec;
use common::store::{LeaderLock, StoreError, Stores};
use common::tasks::Tasks;

use crate::ring::{BRIEF, Ring, replica, until};

#[tokio::test]
async fn a_standby_takes_over_with_a_higher_term() {
    let ring = Ring::start().await;
    let first = until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let tasks = Tasks::new();
    let standby = replica(&ring.config, &ring.stores, &ring.clock, &tasks).await;
    assert_eq!(standby.leads(), None);
    ring.tasks.stop();
    let second = until("the standby leads", || async { standby.leads().ok_or("nobody") }).await;
    assert!(second > first, "{second:?} after {first:?}");
    tasks.stop();
}

#[tokio::test]
async fn a_leader_resigns_when_a_later_term_has_begun() {
    let ring = Ring::start().await;
    let first = until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let later = ring.stores.terms.begin().await.unwrap();
    assert!(later > first);
    let again = until("a later term is led", || async {
        ring.scheduler
            .leads()
            .filter(|epoch| *epoch > later)
            .ok_or(ring.scheduler.leads())
    })
    .await;
    assert!(again > later);
}

/// A lock that is found gone at the first second looks.
struct Slipping {
    inner: Arc<dyn LeaderLock>,
    slips_left: AtomicU32,
}

#[async_trait]
impl LeaderLock for Slipping {
    async fn acquire(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.inner.acquire(key, token, ttl).await
    }

    async fn renew(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        self.inner.renew(key, token, ttl).await
    }

    async fn holds(&self, key: &str, token: &str) -> Result<bool, StoreError> {
        let slips = self
            .slips_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match slips {
            Ok(_) => Ok(false),
            Err(_) => self.inner.holds(key, token).await,
        }
    }

    async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        self.inner.release(key, token).await
    }
}

#[tokio::test]
async fn a_term_whose_lock_is_gone_at_the_second_look_is_not_led() {
    let ring = Ring::with(BRIEF, |stores| Stores {
        lock: Arc::new(Slipping {
            inner: Arc::clone(&stores.lock),
            slips_left: AtomicU32::new(2),
        }),
        ..stores
    })
    .await;
    // Led without a second look, the first term would go on.
    let led = until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    assert_eq!(led, Epoch(3));
}

#[tokio::test]
async fn a_queue_that_was_wiped_is_made_anew() {
    let ring = Ring::start().await;
    until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    for _ in 0..30 {
        ring.submit(spec()).await;
    }
    ring.stores.queue.clear().await.unwrap();
    until("the queue is whole", || async {
        match ring.stores.queue.len().await.unwrap() {
            30 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test]
async fn a_single_entry_that_fell_out_of_the_queue_is_put_back() {
    let ring = Ring::start().await;
    until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let id = ring.submit(spec()).await;
    let entry = common::queue::QueueEntry::of(&ring.job(id).await).unwrap();
    ring.stores.queue.remove(&[entry]).await.unwrap();
    let mut agent = ring.agent("w").await;
    assert_eq!(agent.hear_assignment().await.job, id);
}

#[tokio::test]
async fn what_an_older_term_gave_to_an_unknown_session_is_taken_over_and_expires() {
    let ring = Ring::start().await;
    until("somebody leads", || async {
        ring.scheduler.leads().ok_or("nobody")
    })
    .await;
    let id = ring.submit(spec()).await;
    let lease = Lease {
        worker: WorkerId::new("ghost").unwrap(),
        session: SessionId::random(),
    };
    let claim = JobEvent::Claimed {
        attempt: common::ids::AttemptId::random(),
        lease,
        epoch: Epoch(0),
    };
    ring.jobs.apply(id, claim).await.unwrap();
    let job = until("the ghost's attempt has ended", || async {
        let job = ring.job(id).await;
        if job.attempts[0].end.is_some() {
            Ok(job)
        } else {
            Err(job.state)
        }
    })
    .await;
    assert!(job.epoch > Epoch(0));
    assert_ne!(job.state.name(), StateName::Assigned);
}
