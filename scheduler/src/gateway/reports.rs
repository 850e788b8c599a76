//! What agents report of their attempts, of all connections of this gateway, written in batches: load the rows,
//! decide, commit; what was changed by somebody else meanwhile is loaded and decided again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use common::ids::JobId;
use common::job::Job;
use common::lifecycle::{JobEvent, Refusal, Step};
use common::service::Jobs;
use common::store::{CommitError, StoreError};

use super::lane::{Inbox, Lane, Lent, lane};

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
pub async fn run(mut inbox: Lent<Report, Answer>, jobs: Jobs) {
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

/// A job's row and what its reports make of it together.
struct Change<'a> {
    row: &'a Job,
    step: Step,
    /// The reports that hold once it is stored, each with its answer.
    answers: Vec<(usize, Answer)>,
}

/// All open reports, those of one job decided one upon the other and written as one change: an agent's `started` and
/// the result right behind it cost one write. False when somebody else was quicker somewhere.
async fn round(jobs: &Jobs, reports: &[Report], answers: &mut [Option<Answer>]) -> Result<bool, StoreError> {
    let open: Vec<usize> = (0..reports.len())
        .filter(|&place| answers[place].is_none())
        .collect();
    let ids: HashSet<JobId> = open.iter().map(|&place| reports[place].job).collect();
    let ids: Vec<JobId> = ids.into_iter().collect();
    let rows = jobs.stores().jobs.get_many(&ids).await?;
    let rows: HashMap<JobId, Job> = rows.into_iter().map(|job| (job.id, job)).collect();
    let mut changes: Vec<Change<'_>> = Vec::new();
    let mut change_of: HashMap<JobId, usize> = HashMap::new();
    for place in open {
        let report = &reports[place];
        let Some(row) = rows.get(&report.job) else {
            // A row that cannot be read was left out, and is not gone: somebody may mend it.
            answers[place] = Some(match jobs.stores().jobs.get(report.job).await {
                Ok(None) => Answer::Unknown,
                Ok(Some(_)) | Err(_) => Answer::StoreAway,
            });
            continue;
        };
        match change_of.get(&report.job).and_then(|&at| changes.get_mut(at)) {
            Some(change) => change.add(jobs, place, report),
            None => match jobs.decide(row, report.event.clone()) {
                Ok(step) => {
                    change_of.insert(report.job, changes.len());
                    let answers = vec![(place, Answer::Done)];
                    changes.push(Change { row, step, answers });
                }
                Err(refusal) => answers[place] = Some(Answer::Refused(refusal)),
            },
        }
    }
    if changes.is_empty() {
        return Ok(true);
    }
    let (steps, held): (Vec<_>, Vec<_>) = changes
        .into_iter()
        .map(|change| ((change.row, change.step), change.answers))
        .unzip();
    let mut clean = true;
    for (held, written) in held.into_iter().zip(jobs.commit(steps).await?) {
        for (place, answer) in held {
            match written {
                Ok(_) => answers[place] = Some(answer),
                Err(CommitError::NotFound) => answers[place] = Some(Answer::Unknown),
                Err(CommitError::Conflict) => clean = false,
                // kept by its agent: somebody may mend the row
                Err(CommitError::Unchangeable) => answers[place] = Some(Answer::StoreAway),
            }
        }
    }
    Ok(clean)
}

impl Change<'_> {
    /// Decides a further report upon what the ones before it make of the job. A refusal counts once those are stored.
    fn add(&mut self, jobs: &Jobs, place: usize, report: &Report) {
        let answer = match jobs.decide(&self.step.job, report.event.clone()) {
            Ok(Step { job, effects }) => {
                self.step.job = job;
                self.step.effects.extend(effects);
                Answer::Done
            }
            Err(refusal) => Answer::Refused(refusal),
        };
        self.answers.push((place, answer));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use common::attempt::{AttemptReport, Outcome};
    use common::config::StoreConfig;
    use common::ids::AttemptId;
    use common::job::{Epoch, Revision, StateName};
    use common::lifecycle::testing;
    use common::log::MissingLogs;
    use common::store::NewJob;
    use common::time::{SharedClock, SystemClock};

    use super::*;

    /// A job that was just given to a worker.
    async fn assigned() -> (tempfile::TempDir, Jobs, Job, AttemptId) {
        let place = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let folder = place.path().to_owned();
        let stores = storage::open(&StoreConfig::Embedded { folder }, Arc::clone(&clock))
            .await
            .unwrap();
        let jobs = Jobs::new(stores, clock);
        let job = testing::job(testing::spec());
        let new = NewJob {
            job: job.clone(),
            key: None,
        };
        jobs.submit(vec![new]).await.unwrap();
        let (attempt, lease) = (testing::attempt(), testing::lease("w"));
        let claimed = JobEvent::Claimed {
            attempt,
            lease,
            epoch: Epoch(1),
        };
        let job = jobs.apply_to(&job, claimed).await.unwrap().unwrap();
        (place, jobs, job, attempt)
    }

    fn finished(attempt: AttemptId, code: i32) -> JobEvent {
        JobEvent::Finished {
            attempt,
            report: Box::new(AttemptReport::bare(Outcome::Exited { code })),
            logs_missing: MissingLogs::default(),
        }
    }

    #[tokio::test]
    async fn a_start_and_its_result_that_come_together_are_one_change_of_the_row() {
        let (_place, jobs, job, attempt) = assigned().await;
        let events = [
            JobEvent::Started { attempt },
            finished(attempt, 0),
            finished(attempt, 0),
            finished(attempt, 1),
        ];
        let reports: Vec<Report> = events.map(|event| Report { job: job.id, event }).into();
        let answers = apply(&jobs, &reports).await;
        assert_eq!(answers[..2], [Answer::Done, Answer::Done]);
        assert_eq!(answers[2], Answer::Refused(Refusal::AlreadyAccepted));
        assert!(matches!(answers[3], Answer::Refused(_)), "{answers:?}");
        let row = jobs.stores().jobs.get(job.id).await.unwrap().unwrap();
        assert_eq!(row.state.name(), StateName::Succeeded);
        assert!(row.attempts[0].started_at.is_some());
        assert_eq!(row.revision, Revision(job.revision.0 + 2));
    }

    #[tokio::test]
    async fn a_result_of_another_attempt_does_not_spoil_what_comes_with_it() {
        let (_place, jobs, job, attempt) = assigned().await;
        let events = [JobEvent::Started { attempt }, finished(AttemptId::random(), 0)];
        let reports: Vec<Report> = events.map(|event| Report { job: job.id, event }).into();
        let answers = apply(&jobs, &reports).await;
        assert_eq!(answers, [Answer::Done, Answer::Refused(Refusal::StaleAttempt)]);
        let row = jobs.stores().jobs.get(job.id).await.unwrap().unwrap();
        assert_eq!(row.state.name(), StateName::Running);
    }
}
