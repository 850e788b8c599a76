//! Assignments and cancels on their way to the agent, each once a connection.

use common::attempt::{AttemptReport, NotStartedReason, Outcome};
use common::ids::{AttemptId, JobId};
use common::job::{Job, JobState};
use common::lifecycle::JobEvent;
use common::log::MissingLogs;
use common::protocol::{Assignment, CONTROL_FRAME_BYTES_MAX, InputSource, ToWorker};
use common::store::{StoreError, Stores};

use super::known::{Known, Standing};
use super::{Connection, Done, End};
use crate::gateway::reports::{Answer, Report};

impl Connection {
    /// Tells the agent what the row wants of it, unless this connection has done so.
    pub(super) async fn deliver(&mut self, job: Job) -> Result<(), End> {
        let Some((attempt, lease)) = job.state.held() else {
            return Ok(());
        };
        if lease.session != self.session {
            return Ok(());
        }
        let known = self.attempts.get(attempt);
        let (assigned, cancelled, in_hello) = known.map_or((false, false, false), |known| {
            (known.assigned, known.cancelled, known.in_hello)
        });
        let is_assigned = matches!(job.state, JobState::Assigned { .. });
        if job.cancel.is_some() {
            if cancelled {
                return Ok(());
            }
            let is_unheard_of = is_assigned && !assigned && !in_hello;
            if is_unheard_of && self.acknowledged == 0 {
                // The hello may be from before the assignment: a heartbeat tells. It is delivered again until then.
                return Ok(());
            }
            self.mark(&job, attempt).cancelled = true;
            if is_unheard_of {
                // The agent has never heard of it: there is nobody who could confirm.
                self.end(job.id, attempt, JobEvent::Absent { attempt });
            } else {
                let why = job.cancel.as_ref().and_then(|request| request.why.clone());
                self.socket.put(&ToWorker::Cancel {
                    job: job.id,
                    attempt,
                    why,
                });
            }
        } else if is_assigned && !assigned {
            self.mark(&job, attempt).assigned = true;
            self.assign(&job, attempt).await?;
        }
        Ok(())
    }

    fn mark(&mut self, job: &Job, attempt: AttemptId) -> &mut Known {
        self.attempts.insert(attempt, Known::new(job.id, Standing::Ours))
    }

    async fn assign(&mut self, job: &Job, attempt: AttemptId) -> Result<(), End> {
        let number = job
            .attempt(attempt)
            .map_or(job.attempts_total, |attempt| attempt.number);
        let inputs = match inputs(&self.gateway.stores, job).await? {
            Ok(inputs) => inputs,
            Err(message) => {
                self.refuse(job, attempt, NotStartedReason::BadInputs, message);
                return Ok(());
            }
        };
        let settings = self.gateway.accounts.settings(&job.account).await;
        let message = ToWorker::JobAssign(Box::new(Assignment {
            job: job.id,
            attempt,
            number,
            account: job.account.clone(),
            spec: (*job.spec).clone(),
            inputs,
            log_bytes_max: settings.log_bytes_max,
        }));
        let length = serde_json::to_vec(&message).map_or(usize::MAX, |text| text.len());
        if length > CONTROL_FRAME_BYTES_MAX {
            let message = format!(
                "the job with the list of its inputs has {length} bytes, more than the {CONTROL_FRAME_BYTES_MAX} that can be sent to a worker"
            );
            self.refuse(job, attempt, NotStartedReason::Other, message);
        } else {
            self.socket.put(&message);
        }
        Ok(())
    }

    /// Ends an attempt that cannot be sent: it would not go better elsewhere.
    fn refuse(&mut self, job: &Job, attempt: AttemptId, reason: NotStartedReason, message: String) {
        let report = Box::new(AttemptReport::bare(Outcome::NotStarted { reason, message }));
        self.end(
            job.id,
            attempt,
            JobEvent::Finished {
                attempt,
                report,
                logs_missing: MissingLogs::default(),
            },
        );
    }

    /// The gateway itself ends an attempt.
    pub(super) fn end(&mut self, job: JobId, attempt: AttemptId, event: JobEvent) {
        if let Some(known) = self.attempts.get(attempt) {
            known.standing = Standing::Stale;
        }
        let ended = self.gateway.reports.ask(Report { job, event });
        self.starts_under_way += 1;
        self.begin(async move { Done::Ended(attempt, ended.await.unwrap_or(Answer::StoreAway)) });
    }

    /// An end that could not be written is tried again when the row comes by again.
    pub(super) fn ended(&mut self, attempt: AttemptId, answer: &Answer) {
        self.starts_under_way -= 1;
        if *answer == Answer::StoreAway
            && let Some(known) = self.attempts.get(attempt)
        {
            (known.standing, known.assigned, known.cancelled) = (Standing::Ours, false, false);
        }
    }
}

/// What the inputs are, or a sentence about the one that is gone.
async fn inputs(stores: &Stores, job: &Job) -> Result<Result<Vec<InputSource>, String>, StoreError> {
    let mut sources = Vec::with_capacity(job.spec.inputs.len());
    for input in &job.spec.inputs {
        match stores.files.meta(input.file).await? {
            Some(meta) if meta.account == job.account => {
                sources.push(InputSource {
                    file: meta.id,
                    bytes: meta.bytes,
                    sha256: meta.sha256,
                });
            }
            Some(_) | None => {
                return Ok(Err(format!(
                    "the input file {} is not there any more",
                    input.file
                )));
            }
        }
    }
    Ok(Ok(sources))
}
