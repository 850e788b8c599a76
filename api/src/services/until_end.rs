//! A request that is answered when its job has ended, or when the client's patience has.
//!
//! A store that is away meanwhile ends nothing: the job is acknowledged, and what was last known of it is a true answer.

use std::time::Duration;

use common::identity::Principal;
use common::job::Job;

use super::job_watch::{JobWatch, Unseen};
use crate::state::App;

/// Well within the idle time-outs of common proxies: nginx and most load balancers give up after 60 s without a byte,
/// some after 30 s, and the answer has to come before.
pub const WAIT_SECONDS_MAX: u64 = 25;

/// `job` as it stands at its end, or once `within` is over, or when this program stops.
///
/// # Errors
/// [`Unseen`]: the caller may not see it any longer.
pub async fn until_end(app: &App, caller: Principal, job: Job, within: Duration) -> Result<Job, Unseen> {
    let mut watch = JobWatch::new(app.clone(), job.id, caller);
    let mut last = job;
    let over = tokio::time::sleep(within);
    let mut over = std::pin::pin!(over);
    loop {
        match watch.look().await {
            Ok(Ok(job)) => last = job,
            Ok(Err(unseen)) => return Err(unseen),
            Err(error) => {
                tracing::debug!(%error, "a job's end is waited for at a store that does not answer")
            }
        }
        if last.state.is_terminal() {
            return Ok(last);
        }
        tokio::select! {
            () = over.as_mut() => return Ok(last),
            () = watch.news(None) => {}
        }
        // A program that stops does not look once more at a store that may be away.
        if app.tasks.stopping().is_cancelled() {
            return Ok(last);
        }
    }
}
