//! The transition function.

use super::{Effect, JobEvent, Refusal, Rules, Step, accepted_before};
use crate::attempt::{Attempt, AttemptEnd, AttemptReport, Outcome, OutcomeClass};
use crate::ids::AttemptId;
use crate::job::{ATTEMPTS_KEPT, CancelRequest, CancelledBy, Epoch, FailureCause, Job, JobState, Lease};
use crate::log::MissingLogs;
use crate::retry::{self, Budget};
use crate::time::Timestamp;

/// The job after `event`, or why the event does not apply to it.
///
/// # Errors
/// A [`Refusal`], which is an ordinary answer and never a fault of the program.
pub fn step(job: &Job, event: JobEvent, now: Timestamp) -> Result<Step, Refusal> {
    step_by(&Rules::default(), job, event, now)
}

/// [`step`] with some checks left out, for the proof and the negative control alone.
///
/// # Errors
/// As [`step`].
pub fn step_by(rules: &Rules, job: &Job, event: JobEvent, now: Timestamp) -> Result<Step, Refusal> {
    let raise = rules.take_over_raises_revision || !matches!(event, JobEvent::TakenOver { .. });
    let mut draft = Draft {
        rules,
        job: job.clone(),
        effects: Vec::new(),
        now,
    };
    match event {
        JobEvent::Due => draft.due(),
        JobEvent::Claimed {
            attempt,
            lease,
            epoch,
        } => draft.claim(attempt, lease, epoch),
        JobEvent::Started { attempt } => draft.start(attempt),
        JobEvent::Finished {
            attempt,
            report,
            logs_missing,
        } => draft.finish(attempt, *report, logs_missing),
        JobEvent::Absent { attempt } => draft.absent(attempt),
        JobEvent::Expired { attempt, epoch } => draft.expire(attempt, epoch),
        JobEvent::QueueDeadlinePassed => draft.give_up_waiting(),
        JobEvent::TakenOver { epoch } => draft.take_over(epoch),
        JobEvent::CancelAsked(request) => draft.cancel(request),
        JobEvent::Deleted { by } => draft.delete(by),
    }?;
    if raise {
        draft.job.revision = draft.job.revision.next();
    }
    Ok(Step {
        job: draft.job,
        effects: draft.effects,
    })
}

struct Draft<'a> {
    rules: &'a Rules,
    job: Job,
    effects: Vec<Effect>,
    now: Timestamp,
}

impl Draft<'_> {
    fn due(&mut self) -> Result<(), Refusal> {
        match self.job.state {
            JobState::Scheduled { at } if at <= self.now => {
                self.job.state = JobState::Queued { since: self.now };
                self.effects.push(Effect::Enqueue);
                self.changed();
                Ok(())
            }
            JobState::Scheduled { .. } => Err(Refusal::Unchanged),
            _ => Err(self.wrong_state()),
        }
    }

    fn claim(&mut self, attempt: AttemptId, lease: Lease, epoch: Epoch) -> Result<(), Refusal> {
        if !matches!(self.job.state, JobState::Queued { .. }) {
            return Err(self.wrong_state());
        }
        if self.job.cancel.is_some() {
            return Err(Refusal::CancelPending);
        }
        self.check_epoch(epoch)?;
        self.job.epoch = epoch;
        self.job.attempts_total += 1;
        if self.job.attempts.len() == ATTEMPTS_KEPT {
            self.job.attempts.remove(0);
        }
        self.job.attempts.push(Attempt {
            id: attempt,
            number: self.job.attempts_total,
            lease: lease.clone(),
            assigned_at: self.now,
            started_at: None,
            end: None,
        });
        self.effects.push(Effect::WakeWorker(lease.worker.clone()));
        self.job.state = JobState::Assigned {
            attempt,
            lease,
            since: self.now,
        };
        self.changed();
        Ok(())
    }

    fn start(&mut self, attempt: AttemptId) -> Result<(), Refusal> {
        let (current, lease) = self.held(attempt)?;
        if matches!(self.job.state, JobState::Running { .. }) {
            return Err(Refusal::Unchanged);
        }
        let now = self.now;
        if let Some(attempt) = self.attempt_mut(current) {
            attempt.started_at = Some(now);
        }
        self.job.state = JobState::Running {
            attempt: current,
            lease,
            since: now,
        };
        self.changed();
        Ok(())
    }

    fn finish(
        &mut self,
        attempt: AttemptId,
        report: AttemptReport,
        missing: MissingLogs,
    ) -> Result<(), Refusal> {
        let hash = report.hash();
        if accepted_before(&self.job, attempt, &hash) {
            return Err(Refusal::AlreadyAccepted);
        }
        self.held(attempt)?;
        let outcome = report.outcome.clone();
        self.end_attempt(AttemptEnd {
            at: self.now,
            outcome: report.outcome,
            report_hash: Some(hash),
            usage: report.usage,
            timings: report.timings,
            logs: report.logs,
            logs_missing: missing,
            artifacts: report.artifacts,
            artifacts_refused: report.artifacts_refused,
            image_digest: report.image_digest,
        });
        self.conclude(outcome);
        Ok(())
    }

    fn absent(&mut self, attempt: AttemptId) -> Result<(), Refusal> {
        self.held(attempt)?;
        let outcome = Outcome::InfraError {
            message: "the agent does not know this attempt any more".into(),
        };
        self.end_unreported(outcome);
        Ok(())
    }

    fn expire(&mut self, attempt: AttemptId, epoch: Epoch) -> Result<(), Refusal> {
        self.held(attempt)?;
        if !self.rules.expire_older_terms && self.job.epoch != epoch {
            return Err(Refusal::StaleEpoch {
                found: self.job.epoch,
            });
        }
        self.check_epoch(epoch)?;
        self.job.epoch = epoch;
        self.end_unreported(Outcome::WorkerLost);
        Ok(())
    }

    fn give_up_waiting(&mut self) -> Result<(), Refusal> {
        match self.job.queue_deadline() {
            Some(deadline) if deadline <= self.now => {
                self.effects.push(Effect::Dequeue);
                self.fail(Outcome::QueueTimeout);
                Ok(())
            }
            Some(_) => Err(Refusal::Unchanged),
            None => Err(self.wrong_state()),
        }
    }

    fn take_over(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        if self.job.state.held().is_none() {
            return Err(self.wrong_state());
        }
        if self.job.epoch >= epoch {
            return Err(Refusal::Unchanged);
        }
        self.job.epoch = epoch;
        Ok(())
    }

    fn cancel(&mut self, request: CancelRequest) -> Result<(), Refusal> {
        match &self.job.state {
            JobState::Succeeded { .. } | JobState::Failed { .. } | JobState::Cancelled { .. } => {
                Err(Refusal::Ended(self.job.state.name()))
            }
            JobState::Scheduled { .. } | JobState::Queued { .. } => {
                self.job.state = JobState::Cancelled {
                    at: self.now,
                    by: request.by.clone(),
                };
                self.job.cancel = Some(request);
                self.effects.push(Effect::Dequeue);
                self.changed();
                Ok(())
            }
            JobState::Assigned { lease, .. } | JobState::Running { lease, .. } => {
                if self.job.cancel.is_some() {
                    return Err(Refusal::Unchanged);
                }
                self.effects.push(Effect::WakeWorker(lease.worker.clone()));
                self.job.cancel = Some(request);
                self.changed();
                Ok(())
            }
        }
    }

    fn delete(&mut self, by: CancelledBy) -> Result<(), Refusal> {
        if self.job.hidden {
            return Err(Refusal::Unchanged);
        }
        self.job.hidden = true;
        let request = CancelRequest {
            by,
            why: Some("deleted".into()),
            at: self.now,
        };
        match self.cancel(request) {
            Ok(()) | Err(Refusal::Ended(_) | Refusal::Unchanged) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// The current attempt and its lease, if `attempt` is it.
    fn held(&self, attempt: AttemptId) -> Result<(AttemptId, Lease), Refusal> {
        match self.job.state.held() {
            Some((current, lease)) if current == attempt || !self.rules.check_attempt => {
                Ok((current, lease.clone()))
            }
            Some(_) | None => Err(Refusal::StaleAttempt),
        }
    }

    fn check_epoch(&self, epoch: Epoch) -> Result<(), Refusal> {
        if self.rules.check_epoch && self.job.epoch > epoch {
            return Err(Refusal::StaleEpoch {
                found: self.job.epoch,
            });
        }
        Ok(())
    }

    fn end_unreported(&mut self, outcome: Outcome) {
        self.end_attempt(AttemptEnd::unreported(self.now, outcome.clone()));
        self.conclude(outcome);
    }

    fn end_attempt(&mut self, end: AttemptEnd) {
        let held = self
            .job
            .state
            .held()
            .map(|(attempt, lease)| (attempt, lease.worker.clone()));
        if let Some((current, worker)) = held {
            self.effects.push(Effect::SlotFreed(worker));
            if let Some(attempt) = self.attempt_mut(current) {
                attempt.end = Some(end);
            }
        }
    }

    /// What an attempt's end makes of the job: cancelled when that was asked for, whatever the end; else success,
    /// retry or failure.
    fn conclude(&mut self, outcome: Outcome) {
        if self.rules.finish_honours_cancel
            && let Some(request) = &self.job.cancel
        {
            self.job.state = JobState::Cancelled {
                at: self.now,
                by: request.by.clone(),
            };
            return self.changed();
        }
        let class = outcome.class();
        if class == OutcomeClass::Success {
            self.job.state = JobState::Succeeded { at: self.now };
            return self.changed();
        }
        match retry::decide(&self.job, class) {
            Some((budget, pause)) => {
                match budget {
                    Budget::User => self.job.user_retries += 1,
                    Budget::Infrastructure => self.job.infra_retries += 1,
                }
                self.job.state = JobState::Scheduled {
                    at: self.now.after(pause),
                };
                self.changed();
            }
            None => self.fail(outcome),
        }
    }

    fn fail(&mut self, outcome: Outcome) {
        self.job.state = JobState::Failed {
            at: self.now,
            cause: FailureCause { outcome },
        };
        self.changed();
    }

    fn attempt_mut(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.job
            .attempts
            .iter_mut()
            .rev()
            .find(|attempt| attempt.id == id)
    }

    fn changed(&mut self) {
        self.effects.push(Effect::JobChanged(self.job.id));
    }

    fn wrong_state(&self) -> Refusal {
        let name = self.job.state.name();
        if name.is_terminal() {
            Refusal::Ended(name)
        } else {
            Refusal::WrongState(name)
        }
    }
}
