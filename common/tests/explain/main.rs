//! Explanations as laws: over arbitrary fleets and jobs, and over every outcome.
#![allow(clippy::unwrap_used, clippy::panic)]

mod endings;
mod estimates;
mod reasons;

use std::collections::HashSet;
use std::time::Duration;

use common::explain::{Facts, Fleet, Holding, Place};
use common::ids::{AttemptId, SessionId};
use common::job::{Job, JobState, Lease};
use common::lifecycle::testing;
use common::time::Timestamp;
use common::worker::Worker;

const CONTACT: Duration = Duration::from_secs(15);
/// What the tests call now.
const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - seconds * 1_000)
}

/// Heard a second ago.
fn worker(name: &str) -> Worker {
    Worker {
        heard_at: ago(1),
        ..testing::worker(name)
    }
}

/// Every session lives.
fn fleet(workers: Vec<Worker>, held: &[Job]) -> Fleet {
    let live: HashSet<SessionId> = workers.iter().filter_map(|worker| worker.session).collect();
    let held = held.iter().filter_map(Holding::of).collect();
    Fleet::new(workers, &live, held, false)
}

fn facts(fleet: &Fleet) -> Facts<'_> {
    Facts {
        now: NOW,
        contact: CONTACT,
        fleet,
        running_max: None,
        place: Some(Place {
            before: 0,
            of: 1,
            account: 1,
            all: 1,
        }),
        typical: None,
        kept: None,
    }
}

fn queued() -> Job {
    let mut job = testing::job(testing::spec());
    job.state = JobState::Queued { since: ago(5) };
    job
}

/// A job that `worker` runs since so many seconds.
fn running(worker: &str, seconds: i64) -> Job {
    let mut job = testing::job(testing::spec());
    let lease: Lease = testing::lease(worker);
    job.state = JobState::Running {
        attempt: AttemptId::random(),
        lease,
        since: ago(seconds),
    };
    job
}
