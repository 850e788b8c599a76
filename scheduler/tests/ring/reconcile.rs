//! Places of the queue that are lost one by one are found, by each of the two ways that the leader has beside the look
//! with which a term begins. The clock stands still but where a test turns it, so that no other way can have found them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::config::LeaseTimes;
use common::ids::{JobId, UserId};
use common::job::Job;
use common::lifecycle::testing::{account, spec};
use common::queue::QueueEntry;
use common::time::{Clock, ManualClock, SharedClock, SystemClock};

use crate::gated::Gated;
use crate::ring::{PATIENT, Ring, until};

/// The lock is trusted for as long as a test turns the clock on.
const TIMES: LeaseTimes = LeaseTimes {
    lock_ttl: Duration::from_secs(200),
    sweep: Duration::from_millis(100),
    ..PATIENT
};
/// A walk comes without cause after so many sweeps.
const SWEEPS_BETWEEN_WALKS: u32 = 60;

struct Fixture {
    ring: Ring,
    clock: Arc<ManualClock>,
    queue: Arc<Gated>,
}

impl Fixture {
    /// A leader whose first walk is over.
    async fn start() -> Self {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let shared = Arc::clone(&clock) as SharedClock;
        let mut gated = None;
        let ring = Ring::by_clock(
            shared,
            TIMES,
            |mut stores| {
                gated = Some(Gated::before(&mut stores.queue));
                stores
            },
            |_| {},
        )
        .await;
        let fixture = Self {
            ring,
            clock,
            queue: gated.unwrap(),
        };
        fixture.looks().await;
        fixture
    }

    /// The reconcile has looked, whole, more often than it takes to see a difference twice.
    async fn looks(&self) {
        let looks = || self.queue.looks.load(Ordering::SeqCst);
        let wanted = looks() + 6;
        until("the reconcile looks", || async {
            let seen = looks();
            if seen >= wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    async fn entry(&self, id: JobId) -> QueueEntry {
        QueueEntry::of(&self.ring.job(id).await).unwrap()
    }

    async fn lose(&self, entry: &QueueEntry) {
        let queue = &self.ring.stores.queue;
        queue.remove(std::slice::from_ref(entry)).await.unwrap();
        assert!(!self.has(entry).await);
    }

    async fn has(&self, entry: &QueueEntry) -> bool {
        self.ring.stores.queue.place(entry).await.unwrap().is_some()
    }

    async fn found_again(&self, entry: &QueueEntry) {
        until("the job has its place again", || async {
            if self.has(entry).await {
                Ok(())
            } else {
                Err("none")
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_place_that_is_lost_is_found_by_a_count_that_differs_twice() {
    let fixture = Fixture::start().await;
    let first = fixture.ring.submit(spec()).await;
    let second = fixture.ring.submit(spec()).await;
    for id in [first, second, first] {
        let entry = fixture.entry(id).await;
        fixture.lose(&entry).await;
        fixture.found_again(&entry).await;
        // What is missing when a walk has just ended is taken for what no walk mends, for twelve sweeps.
        fixture.looks().await;
    }
    assert_eq!(fixture.ring.stores.queue.len().await.unwrap(), 2);
}

#[tokio::test]
async fn a_place_that_is_lost_beside_one_of_nobody_is_found_after_sixty_sweeps() {
    let fixture = Fixture::start().await;
    let stores = &fixture.ring.stores;
    let lost = fixture.entry(fixture.ring.submit(spec()).await).await;
    fixture.ring.submit(spec()).await;
    // of a job that has no row: the queue is as long as the rows say
    let now = fixture.clock.now();
    let alice = UserId::new("alice").unwrap();
    let nobody = Job::submitted(JobId::generate(now), account("acme"), alice, spec(), now);
    let stale = QueueEntry::of(&nobody).unwrap();
    stores.queue.push(&[stale]).await.unwrap();
    fixture.lose(&lost).await;
    assert_eq!(
        stores.queue.len().await.unwrap(),
        stores.jobs.count_queued().await.unwrap()
    );

    fixture.looks().await;
    fixture.clock.advance(TIMES.sweep * (SWEEPS_BETWEEN_WALKS - 1));
    fixture.looks().await;
    assert!(!fixture.has(&lost).await, "equal counts tell nothing");
    fixture.clock.advance(TIMES.sweep);
    fixture.found_again(&lost).await;
}
