//! What agents report of their attempts, of all connections of this gateway, written in batches: load the rows,
//! decide, commit; what was changed by somebody else meanwhile is loaded and decided again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::ids::JobId;
use common::job::Job;
use common::lifecycle::{JobEvent, Refusal};
use common::service::Jobs;
use common::store::{CommitError, StoreError};

use super::lane::{Inbox, Lane, lane};

const BATCH: usize = 256;

/// Questions that wait: a few batches, past which agents are read more slowly.
const DEPTH: usize = 2_048;

/// Most times that one event is decided anew because somebody else was quicker.
const CONFLICTS_MAX: usize = 32;

#[derive(Debug, Clone)]
pub struct Report {
    pub job: JobId,
    pub event: JobEvent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused(Refusal),
    /// There is no such job.
    Unknown,
    /// The fate of the write is unknown: to be asked again, which is harmless.
    StoreAway,
}

pub type Reports = Lane<Report, Answer>;

pub fn reports() -> (Reports, Inbox<Report, Answer>) {
    lane(DEPTH)
}

/// Writes until nobody asks any more.
pub async fn run(mut inbox: Inbox<Report, Answer>, jobs: Jobs) {
    while let Some(asked) = inbox.batch(BATCH, Duration::ZERO).await {
        let (reports, replies): (Vec<Report>, Vec<_>) = asked.into_iter().unzip();
        for (answer, reply) in apply(&jobs, &reports).await.into_iter().zip(replies) {
            // A connection that has closed meanwhile needs no answer; its agent will ask again.
            let _ = reply.send(answer);
        }
    }
}

/// Applies reports, those of one job in the order given; answers in order.
pub async fn apply(jobs: &Jobs, reports: &[Report]) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = vec![None; reports.len()];
    let mut conflicts = 0;
    while conflicts < CONFLICTS_MAX && answers.iter().any(Option::is_none) {
        match round(jobs, reports, &mut answers).await {
            Ok(clean) => conflicts += usize::from(!clean),
            Err(error) => {
                tracing::warn!(%error, "reports of agents wait for the store");
                break;
            }
        }
    }
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or(Answer::StoreAway))
        .collect()
}

/// The first open report of each job; false when somebody else was quicker somewhere.
async fn round(jobs: &Jobs, reports: &[Report], answers: &mut [Option<Answer>]) -> Result<bool, StoreError> {
    let mut taken = HashSet::new();
    let open: Vec<usize> = (0..reports.len())
        .filter(|&place| answers[place].is_none() && taken.insert(reports[place].job))
        .collect();
    let ids: Vec<JobId> = open.iter().map(|&place| reports[place].job).collect();
    let rows = jobs.stores().jobs.get_many(&ids).await?;
    let rows: HashMap<JobId, Job> = rows.into_iter().map(|job| (job.id, job)).collect();
    let (mut steps, mut places) = (Vec::new(), Vec::new());
    for place in open {
        let report = &reports[place];
        let Some(row) = rows.get(&report.job) else {
            answers[place] = Some(Answer::Unknown);
            continue;
        };
        match jobs.decide(row, report.event.clone()) {
            Ok(step) => {
                steps.push((row, step));
                places.push(place);
            }
            Err(refusal) => answers[place] = Some(Answer::Refused(refusal)),
        }
    }
    if steps.is_empty() {
        return Ok(true);
    }
    let mut clean = true;
    for (place, written) in places.into_iter().zip(jobs.commit(steps).await?) {
        match written {
            Ok(_) => answers[place] = Some(Answer::Done),
            Err(CommitError::NotFound) => answers[place] = Some(Answer::Unknown),
            Err(CommitError::Conflict) => clean = false,
        }
    }
    Ok(clean)
}
