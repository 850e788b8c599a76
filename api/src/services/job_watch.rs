//! One job, as whoever holds a request open may see it: its row, and when to look at it again.
//!
//! A lost hint costs one tick, and no client costs a growing buffer: only rows are told, never hints.

use std::time::Duration;

use common::identity::Principal;
use common::ids::{AttemptId, JobId};
use common::job::Job;
use common::store::{HintStream, StoreError, Topic};

use crate::auth::Standing;
use crate::error::ApiError;
use crate::state::App;

/// The longest that a lost hint delays news.
const TICK: Duration = Duration::from_secs(1);

pub struct JobWatch {
    app: App,
    job: JobId,
    standing: Standing,
    hints: HintStream,
}

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

impl JobWatch {
    /// For a caller who was let in just now.
    pub fn new(app: App, job: JobId, caller: Principal) -> Self {
        Self {
            // before the first look, or a change could fall between
            hints: app.stores.hints.subscribe(),
            standing: Standing::new(&app, caller),
            app,
            job,
        }
    }

    /// The row as it is now.
    ///
    /// # Errors
    /// Rows cannot be read.
    pub async fn look(&mut self) -> Result<Result<Job, Unseen>, StoreError> {
        if !self.standing.holds(&self.app).await? {
            return Ok(Err(Unseen::NotAllowed));
        }
        let job = self.app.stores.jobs.get(self.job).await?;
        Ok(job.filter(|job| !job.hidden).ok_or(Unseen::Hidden))
    }

    /// Until the job, or the log of this attempt, may be new; or this program stops.
    pub async fn news(&mut self, log: Option<AttemptId>) {
        // Also where hints were lost: that is no reason to wait for the tick.
        let of_this_job = async {
            while let Some(topic) = self.hints.next().await {
                let is_news = match topic {
                    Topic::Job(job) => job == self.job,
                    Topic::Log(attempt) => Some(attempt) == log,
                    Topic::Queue | Topic::Capacity | Topic::Worker(_) => false,
                };
                if is_news {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.app.tasks.stopping().cancelled() => {}
            () = tokio::time::sleep(TICK) => {}
            () = of_this_job => {}
        }
    }
}
