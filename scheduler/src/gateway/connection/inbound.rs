//! What the agent says, message by message; what it speaks of is checked against the rows before anything is done.

use std::sync::Arc;
use std::time::Duration;

use common::ids::{AttemptId, JobId};
use common::lifecycle::{JobEvent, Refusal};
use common::log::{LogChunk, NUMBER_MAX};
use common::protocol::{CloseCode, FromWorker, HELD_ATTEMPTS_MAX, ToWorker, Verdict, VerdictFor};

use super::beat::Heartbeat;
use super::hello::effective;
use super::known::{Known, Standing, standing};
use super::socket::Inbound;
use super::watch::AGAIN_AFTER;
use super::{Connection, Done, End, plausible};
use crate::gateway::reports::{Answer, Report};

impl Connection {
    pub(super) async fn inbound(&mut self, inbound: Inbound) -> Result<(), End> {
        self.watch.heard(self.gateway.clock.mono());
        match inbound {
            Inbound::Alive => Ok(()),
            Inbound::Gone => Err(End::Gone),
            Inbound::Bad(code) => Err(End::Close(code, "not a message")),
            Inbound::Chunk(job, chunk) => self.chunk(job, chunk).await,
            Inbound::Message(message) => self.message(message).await,
        }
    }

    async fn message(&mut self, message: FromWorker) -> Result<(), End> {
        match message {
            FromWorker::Hello { .. } => Err(End::Close(CloseCode::BadMessage, "hello comes once")),
            // Decoded to a chunk by the socket.
            FromWorker::LogChunk { .. } => Ok(()),
            FromWorker::Heartbeat { attempts, .. } if attempts.len() > HELD_ATTEMPTS_MAX => {
                Err(End::Close(CloseCode::BadMessage, "too many attempts"))
            }
            // Its agent counts upwards, and a socket keeps the order: whatever repeats one must not renew a lease.
            FromWorker::Heartbeat { number, .. } if number <= self.last_beat => {
                Err(End::Close(CloseCode::BadMessage, "a heartbeat came again"))
            }
            FromWorker::Heartbeat {
                number,
                attempts,
                condition,
                draining,
                load,
            } => {
                self.last_beat = number;
                self.beat(Heartbeat {
                    waited: false,
                    number,
                    attempts,
                    condition: effective(condition, draining),
                    load: plausible::load(load),
                });
                Ok(())
            }
            FromWorker::Started { job, attempt } => {
                self.look_up(job, attempt).await?;
                self.started(job, attempt);
                Ok(())
            }
            FromWorker::CancelAck { job, attempt } => {
                self.look_up(job, attempt).await?;
                tracing::debug!(%job, %attempt, "the agent ends a cancelled attempt");
                Ok(())
            }
            FromWorker::Result { report, .. } if !plausible::report(&report) => {
                Err(End::Close(CloseCode::BadMessage, "not a possible report"))
            }
            FromWorker::Result { job, attempt, report } => {
                self.look_up(job, attempt).await?;
                self.result(job, attempt, report);
                Ok(())
            }
        }
    }

    async fn chunk(&mut self, job: JobId, chunk: LogChunk) -> Result<(), End> {
        // A store that cannot take a number would be asked to for ever.
        if chunk.seq > NUMBER_MAX {
            return Err(End::Close(CloseCode::BadMessage, "not a chunk's number"));
        }
        let wanted = match self.look_up(job, chunk.attempt).await? {
            Standing::Ours => {
                self.load_tracks(chunk.attempt).await?;
                self.has_room(job, &chunk).await?
            }
            Standing::Stale | Standing::Foreign => false,
        };
        if wanted {
            self.take_chunk(job, chunk);
        } else {
            self.socket.put(&ToWorker::LogAck {
                job,
                attempt: chunk.attempt,
                stream: chunk.stream,
                seq: chunk.seq,
                stale: true,
            });
        }
        Ok(())
    }

    /// Whose attempt it is; from the row, once. An agent that speaks of another's is turned away.
    async fn look_up(&mut self, job: JobId, attempt: AttemptId) -> Result<Standing, End> {
        let standing = match self.attempts.get(attempt) {
            Some(known) if known.job != job => Standing::Foreign,
            Some(known) => known.standing,
            None => {
                let row = self.gateway.stores.jobs.get(job).await?;
                let found = standing(row.as_ref(), attempt, &self.worker, self.session);
                if found != Standing::Foreign {
                    self.attempts.insert(attempt, Known::new(job, found));
                }
                found
            }
        };
        match standing {
            Standing::Ours | Standing::Stale => Ok(standing),
            Standing::Foreign => {
                tracing::warn!(worker = %self.worker, %job, %attempt, "a worker spoke of another's attempt");
                Err(End::Close(CloseCode::NotYours, "the attempt is another worker's"))
            }
        }
    }

    fn started(&mut self, job: JobId, attempt: AttemptId) {
        self.starts_under_way += 1;
        self.ask_started(job, attempt, Duration::ZERO);
    }

    fn ask_started(&mut self, job: JobId, attempt: AttemptId, after: Duration) {
        let event = JobEvent::Started { attempt };
        // Asked at the call where nothing is waited for, so that a result right behind it is decided after it.
        let now = after.is_zero().then(|| {
            self.gateway.reports.ask(Report {
                job,
                event: event.clone(),
            })
        });
        let gateway = Arc::clone(&self.gateway);
        self.begin(async move {
            let answer = match now {
                Some(asked) => asked.await,
                None => {
                    tokio::time::sleep(after).await;
                    gateway.reports.ask(Report { job, event }).await
                }
            };
            Done::Started(job, attempt, answer.unwrap_or(Answer::StoreAway))
        });
    }

    pub(super) fn started_answered(&mut self, job: JobId, attempt: AttemptId, answer: Answer) {
        self.starts_under_way -= 1;
        match answer {
            // Running already, or ended by its own result that came right behind.
            Answer::Done | Answer::Refused(Refusal::Unchanged) => {}
            Answer::Refused(_) | Answer::Unknown => {
                tracing::debug!(%job, %attempt, "a start came too late");
                self.stop(attempt);
            }
            // Asked again until the store answers: a start that is lost would leave the row behind the truth.
            Answer::StoreAway => {
                self.starts_under_way += 1;
                self.ask_started(job, attempt, AGAIN_AFTER);
            }
        }
    }

    /// A verdict outside of a heartbeat: the acknowledgement of the last one again, which renews nothing.
    fn stop(&mut self, attempt: AttemptId) {
        self.socket.put(&ToWorker::HeartbeatAck {
            number: self.acknowledged,
            verdicts: vec![VerdictFor {
                attempt,
                verdict: Verdict::Stop,
            }],
        });
    }
}
