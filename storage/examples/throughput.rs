//! Prints how many jobs a second the embedded store takes through a whole life: an insert and three guarded commits.
//!
//! `cargo run --release -p jobworker-storage --example throughput [folder]`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::attempt::{AttemptReport, Outcome};
use common::config::StoreConfig;
use common::ids::{AttemptId, JobId};
use common::job::{Epoch, Job};
use common::lifecycle::{JobEvent, step, testing};
use common::store::{Commit, NewJob, StoreError, Stores};
use common::tasks::Tasks;
use common::time::{Clock, SystemClock};

const JOBS: usize = 40_000;

#[tokio::main]
async fn main() -> Result<(), StoreError> {
    let temporary = tempfile::tempdir().map_err(|error| StoreError::Unavailable(Box::new(error)))?;
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| temporary.path().to_owned(), Into::into);
    let stores = storage::open(&StoreConfig::Embedded { folder }, Arc::new(SystemClock)).await?;
    for callers in [16, 64, 256] {
        let begin = SystemClock.mono();
        let (left, done) = (Arc::new(AtomicUsize::new(JOBS)), Arc::new(AtomicUsize::new(0)));
        let tasks = Tasks::new();
        for _ in 0..callers {
            let (stores, left, done) = (stores.clone(), Arc::clone(&left), Arc::clone(&done));
            tasks.spawn("caller", async move {
                let take = |left: usize| left.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    match live(&stores).await {
                        Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return tracing::error!(%error, "a caller gives up"),
                    }
                }
            });
        }
        tasks.join(std::time::Duration::from_secs(600)).await;
        let took = SystemClock.mono().since(begin).as_secs_f64();
        let done = done.load(Ordering::Relaxed);
        println!(
            "{callers:4} callers: {done} jobs in {took:.2} s, {:.0} jobs/s",
            done as f64 / took
        );
    }
    Ok(())
}

async fn live(stores: &Stores) -> Result<(), StoreError> {
    let now = SystemClock.now();
    let attempt = AttemptId::random();
    let mut job = Job {
        id: JobId::generate(now),
        ..testing::job(testing::spec())
    };
    let new = NewJob {
        job: job.clone(),
        key: None,
    };
    stores.jobs.insert(vec![new]).await?;
    let events = [
        JobEvent::Claimed {
            attempt,
            lease: testing::lease("node-1"),
            epoch: Epoch(1),
        },
        JobEvent::Started { attempt },
        JobEvent::Finished {
            attempt,
            report: Box::new(AttemptReport::bare(Outcome::Exited { code: 0 })),
            logs_missing: Default::default(),
        },
    ];
    for event in events {
        let next = step(&job, event, now).map_err(|refusal| StoreError::Unavailable(Box::new(refusal)))?;
        let change = Commit {
            job: next.job.clone(),
            expected: job.revision,
        };
        for answer in stores.jobs.commit(vec![change]).await? {
            answer.map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        }
        job = next.job;
    }
    Ok(())
}
