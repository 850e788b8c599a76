//! A request that is answered when its job has ended, or when the client's patience has.
//!
//! It reads one row at each hint of its job and at each tick, so a lost hint costs one tick and no client costs a
//! growing buffer. A store that is away meanwhile ends nothing: the job is acknowledged, and what was last known of it
//! is a true answer.

use std::time::Duration;

use common::identity::Principal;
use common::ids::JobId;
use common::job::Job;
use common::store::{HintStream, StoreError, Topic};

use crate::auth::Standing;
use crate::state::AppState;

/// Not longer than the idle time-outs of common load balancers: the answer has to come before they give up.
pub const WAIT_SECONDS_MAX: u64 = 60;

/// The longest that a lost hint delays the answer.
const TICK: Duration = Duration::from_secs(1);

/// `job` as it stands at its end, or once `within` is over, or when this program stops. None where the caller may not
/// see it any longer.
pub async fn until_end(app: &AppState, caller: Principal, job: Job, within: Duration) -> Option<Job> {
    let id = job.id;
    let mut last = job;
    // before the first look, or the end could fall between
    let mut hints = app.stores.hints.subscribe();
    let mut standing = Standing::new(app, caller);
    let stopping = app.tasks.stopping();
    let over = tokio::time::sleep(within);
    let mut over = std::pin::pin!(over);
    loop {
        match look(app, &mut standing, id).await {
            Ok(Some(job)) => last = job,
            Ok(None) => return None,
            Err(error) => {
                tracing::debug!(%error, "a job's end is waited for at a store that does not answer")
            }
        }
        if last.state.is_terminal() {
            return Some(last);
        }
        tokio::select! {
            () = stopping.cancelled() => return Some(last),
            () = over.as_mut() => return Some(last),
            () = news(&mut hints, id) => {}
        }
    }
}

async fn look(app: &AppState, standing: &mut Standing, id: JobId) -> Result<Option<Job>, StoreError> {
    if !standing.holds(app).await? {
        return Ok(None);
    }
    let job = app.stores.jobs.get(id).await?;
    Ok(job.filter(|job| !job.hidden))
}

/// Until something may be new.
async fn news(hints: &mut HintStream, id: JobId) {
    let of_this_job = async {
        while let Some(topic) = hints.next().await {
            if topic == Topic::Job(id) {
                return;
            }
        }
    };
    tokio::time::timeout(TICK, of_this_job).await.unwrap_or_default();
}
