//! Where lifecycle and store meet, once: load, step, commit; on a changed revision load again and decide again.

use crate::error::ServiceError;
use crate::ids::JobId;
use crate::job::{FieldError, Job, validate};
use crate::lifecycle::{Effect, FENCED, JobEvent, Refusal, Rules, Step, step_by};
use crate::queue::QueueEntry;
use crate::store::{Commit, CommitError, Inserted, NewJob, StoreError, Stores, Topic};
use crate::time::{SharedClock, Timestamp};

/// Most times that one event is decided anew because somebody else was quicker. A row is contended by one gateway,
/// one leader and a user: more than this many losses in a row mean that something is wrong.
const CONFLICTS_MAX: usize = 32;

/// Applies events to jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    stores: Stores,
    clock: SharedClock,
    rules: Rules,
}

/// What became of an event.
#[derive(Debug)]
pub enum Applied {
    /// Stored; the job as it stands now.
    Done(Job),
    /// The row as loaded refuses; nothing was changed.
    Refused(Refusal, Job),
    /// There is no such job.
    Unknown,
}

impl Jobs {
    pub fn new(stores: Stores, clock: SharedClock) -> Self {
        if !FENCED {
            tracing::error!(
                "this program was built without fences: it loses results, to show what they are for"
            );
        }
        Self {
            stores,
            clock,
            rules: Rules::default(),
        }
    }

    /// With some checks left out: for the negative control alone.
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    pub const fn stores(&self) -> &Stores {
        &self.stores
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Stores new jobs, then puts them into the queue. Acknowledge only after this has answered.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] with every broken rule when any job breaks one: then nothing is stored.
    pub async fn submit(&self, jobs: Vec<NewJob>) -> Result<Vec<Inserted>, ServiceError> {
        let broken = broken_rules(&jobs);
        if !broken.is_empty() {
            return Err(ServiceError::Invalid(broken));
        }
        let entries: Vec<Option<QueueEntry>> = jobs.iter().map(|new| QueueEntry::of(&new.job)).collect();
        let answers = self.stores.jobs.insert(jobs).await?;
        let stored: Vec<QueueEntry> = entries
            .into_iter()
            .zip(&answers)
            .filter_map(|(entry, answer)| entry.filter(|_| *answer == Inserted::Stored))
            .collect();
        if !stored.is_empty() {
            // After the rows, and allowed to fail: the reconcile finds what is missing here.
            self.push(&stored).await;
        }
        Ok(answers)
    }

    /// Applies one event to one job, until it is stored or the row refuses.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the fate of the write is unknown.
    pub async fn apply(&self, id: JobId, event: JobEvent) -> Result<Applied, StoreError> {
        for _ in 0..CONFLICTS_MAX {
            let Some(job) = self.stores.jobs.get(id).await? else {
                return Ok(Applied::Unknown);
            };
            match self.apply_to(&job, event.clone()).await? {
                Ok(changed) => return Ok(Applied::Done(changed)),
                Err(NotApplied::Refused(refusal)) => return Ok(Applied::Refused(refusal, job)),
                Err(NotApplied::Commit(CommitError::NotFound)) => return Ok(Applied::Unknown),
                Err(NotApplied::Commit(CommitError::Conflict)) => {}
                Err(NotApplied::Commit(refused @ CommitError::Unchangeable)) => {
                    return Err(StoreError::Corrupt {
                        what: format!("the row of {id}"),
                        source: Some(Box::new(refused)),
                    });
                }
            }
        }
        Err(StoreError::Unavailable(
            "a row changed too often while an event was applied to it".into(),
        ))
    }

    /// Applies one event to a job as loaded; on a conflict the caller loads again.
    ///
    /// # Errors
    /// As [`Jobs::apply`].
    pub async fn apply_to(&self, job: &Job, event: JobEvent) -> Result<Result<Job, NotApplied>, StoreError> {
        let step = match step_by(&self.rules, job, event, self.now()) {
            Ok(step) => step,
            Err(refusal) => return Ok(Err(NotApplied::Refused(refusal))),
        };
        let mut answers = self.commit(vec![(job, step)]).await?;
        Ok(answers
            .pop()
            .unwrap_or(Err(CommitError::NotFound))
            .map_err(NotApplied::Commit))
    }

    /// Decides, without writing: for callers that collect a batch for [`Jobs::commit`].
    ///
    /// # Errors
    /// The refusal.
    pub fn decide(&self, job: &Job, event: JobEvent) -> Result<Step, Refusal> {
        step_by(&self.rules, job, event, self.now())
    }

    /// Writes a batch of decided steps, each from the job that it was decided on, and runs the effects of those that
    /// were stored. Answers in order.
    ///
    /// # Errors
    /// As [`Jobs::apply`].
    pub async fn commit(
        &self,
        steps: Vec<(&Job, Step)>,
    ) -> Result<Vec<Result<Job, CommitError>>, StoreError> {
        let changes = steps
            .iter()
            .map(|(from, step)| Commit {
                job: step.job.clone(),
                expected: from.revision,
            })
            .collect();
        let answers = self.stores.jobs.commit(changes).await?;
        let mut done = Vec::with_capacity(answers.len());
        let (mut enqueue, mut dequeue) = (Vec::new(), Vec::new());
        for ((from, step), answer) in steps.into_iter().zip(answers) {
            if answer.is_ok() {
                for effect in step.effects {
                    match effect {
                        Effect::Enqueue => enqueue.extend(QueueEntry::of(&step.job)),
                        Effect::Dequeue => dequeue.extend(QueueEntry::of(from)),
                        Effect::WakeWorker(worker) => self.stores.hints.send(Topic::Worker(worker)),
                        Effect::SlotFreed(_) => self.stores.hints.send(Topic::Capacity),
                        Effect::JobChanged(job) => self.stores.hints.send(Topic::Job(job)),
                    }
                }
            }
            done.push(answer.map(|()| step.job));
        }
        if !enqueue.is_empty() {
            self.push(&enqueue).await;
        }
        if !dequeue.is_empty()
            && let Err(error) = self.stores.queue.remove(&dequeue).await
        {
            tracing::warn!(%error, "the queue keeps entries of jobs that left it; claims will drop them");
        }
        Ok(done)
    }

    async fn push(&self, entries: &[QueueEntry]) {
        if let Err(error) = self.stores.queue.push(entries).await {
            tracing::warn!(%error, jobs = entries.len(), "the queue was not told of new jobs; the reconcile will");
        }
        self.stores.hints.send(Topic::Queue);
    }
}

/// Why [`Jobs::apply_to`] changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotApplied {
    Refused(Refusal),
    Commit(CommitError),
}

fn broken_rules(jobs: &[NewJob]) -> Vec<FieldError> {
    let many = jobs.len() > 1;
    let rules_of = |(place, new): (usize, &NewJob)| {
        validate(&new.job.spec).into_iter().map(move |mut error| {
            if many {
                error.field = format!("jobs[{place}].{}", error.field);
            }
            error
        })
    };
    jobs.iter().enumerate().flat_map(rules_of).collect()
}
