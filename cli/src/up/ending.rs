//! How `up` ends: what becomes of the jobs that run here, and what people are told about them.

use std::time::Duration;

use common::config::LeaseTimes;
use common::ids::JobId;
use common::job::{CancelRequest, CancelledBy, Job};
use common::lifecycle::JobEvent;
use common::service::Jobs;
use common::store::{Held, Stores};
use common::time::SharedClock;

use crate::args::UpArgs;
use crate::output::note;

/// Jobs looked at in one read.
const PAGE: usize = 500;
/// Beyond the longest grace of the jobs that are stopped, for their last words to be stored.
const STOP_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Cancels what runs, or says that it goes on.
pub async fn end_jobs(args: &UpArgs, stores: &Stores, clock: &SharedClock, times: &LeaseTimes) {
    let held = held(stores).await;
    if held.is_empty() {
        return;
    }
    if args.stop_jobs {
        stop_jobs(stores, clock, held).await;
        return;
    }
    let until_end = times.lost_after.saturating_sub(times.kill_grace).as_secs();
    let go_on = if held.len() == 1 {
        "1 job goes on in its container until its lease ends".to_owned()
    } else {
        format!(
            "{} jobs go on in their containers until their lease ends",
            held.len()
        )
    };
    note(&format!(
        "{go_on} in {until_end} s; `jobworker up` again takes them up (`--stop-jobs` cancels instead)"
    ));
}

async fn stop_jobs(stores: &Stores, clock: &SharedClock, jobs: Vec<Job>) {
    note(&format!("cancelling what runs: {}", jobs.len()));
    let service = Jobs::new(stores.clone(), clock.clone());
    let longest = jobs
        .iter()
        .map(|job| job.spec.limits.grace)
        .max()
        .unwrap_or_default();
    for job in &jobs {
        let asked = JobEvent::CancelAsked(CancelRequest {
            by: CancelledBy::System,
            why: Some("`jobworker up` was ended with --stop-jobs".to_owned()),
            at: clock.now(),
        });
        if let Err(error) = service.apply(job.id, asked).await {
            tracing::warn!(%error, job = %job.id, "a job could not be cancelled");
        }
    }
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let ended = async {
        while held(stores).await.iter().any(|job| ids.contains(&job.id)) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(longest + STOP_WITHIN, ended).await.is_err() {
        note("some jobs did not end in time; they end with their lease");
    }
}

/// Every job that is given to a worker. A store that does not answer holds nothing up.
async fn held(stores: &Stores) -> Vec<Job> {
    let mut found: Vec<Job> = Vec::new();
    loop {
        let after = found.last().map(|job| job.id);
        match stores.jobs.held(&Held::Any, after, PAGE).await {
            Ok(page) if page.is_empty() => return found,
            Ok(page) => found.extend(page),
            Err(error) => {
                tracing::warn!(%error, "the jobs that run could not be counted");
                return found;
            }
        }
    }
}
