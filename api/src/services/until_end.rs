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
use crate::error::ApiError;
use crate::state::AppState;

/// Well within the idle time-outs of common proxies: nginx and most load balancers give up after 60 s without a byte,
/// some after 30 s, and the answer has to come before.
pub const WAIT_SECONDS_MAX: u64 = 25;

/// The longest that a lost hint delays the answer.
const TICK: Duration = Duration::from_secs(1);

/// Why the job is not shown to whoever has waited for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unseen {
    /// The caller's sign-in or key has ended meanwhile, or its user was shut out.
    NotAllowed,
    /// The job is not there for users any more.
    Hidden,
}

impl From<Unseen> for ApiError {
    fn from(unseen: Unseen) -> Self {
        match unseen {
            Unseen::NotAllowed => Self::unauthenticated(),
            Unseen::Hidden => Self::not_found("job"),
        }
    }
}

/// `job` as it stands at its end, or once `within` is over, or when this program stops.
///
/// # Errors
/// [`Unseen`]: the caller may not see it any longer.
pub async fn until_end(app: &AppState, caller: Principal, job: Job, within: Duration) -> Result<Job, Unseen> {
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
            () = stopping.cancelled() => return Ok(last),
            () = over.as_mut() => return Ok(last),
            () = news(&mut hints, id) => {}
        }
    }
}

async fn look(app: &AppState, standing: &mut Standing, id: JobId) -> Result<Result<Job, Unseen>, StoreError> {
    if !standing.holds(app).await? {
        return Ok(Err(Unseen::NotAllowed));
    }
    let job = app.stores.jobs.get(id).await?;
    Ok(job.filter(|job| !job.hidden).ok_or(Unseen::Hidden))
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
