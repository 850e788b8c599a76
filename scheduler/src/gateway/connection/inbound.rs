//! What the agent says, message by message; what it speaks of is checked against the rows before anything is done.

use common::ids::{AttemptId, JobId};
use common::lifecycle::{JobEvent, Refusal};
use common::log::LogChunk;
use common::protocol::{CloseCode, FromWorker, HELD_ATTEMPTS_MAX, ToWorker, Verdict, VerdictFor};

use super::beat::Heartbeat;
use super::hello::effective;
use super::known::{Known, Standing, standing};
use super::socket::Inbound;
use super::{Connection, Done, End};
use crate::gateway::reports::{Answer, Report};

impl Connection {
    pub(super) async fn inbound(&mut self, inbound: Inbound) -> Result<(), End> {
        self.heard = self.gateway.clock.mono();
        self.allowance = self.allowance.saturating_sub(1);
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
            FromWorker::Heartbeat {
                number,
                attempts,
                condition,
                draining,
                load,
            } => {
                self.beat(Heartbeat {
                    waited: false,
                    number,
                    attempts,
                    condition: effective(condition, draining),
                    load,
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
            FromWorker::Result { job, attempt, report } => {
                self.look_up(job, attempt).await?;
                self.result(job, attempt, report);
                Ok(())
            }
        }
    }

    async fn chunk(&mut self, job: JobId, chunk: LogChunk) -> Result<(), End> {
        // A store counts in 63 bits; a chunk that it can never take must not be tried for ever.
        if i64::try_from(chunk.seq).is_err() {
            return Err(End::Close(CloseCode::BadMessage, "not a chunk's number"));
        }
        match self.look_up(job, chunk.attempt).await? {
            Standing::Ours => {
                self.load_tracks(chunk.attempt).await?;
                self.take_chunk(job, chunk);
            }
            Standing::Stale | Standing::Foreign => self.socket.put(&ToWorker::LogAck {
                job,
                attempt: chunk.attempt,
                stream: chunk.stream,
                seq: chunk.seq,
                stale: true,
            }),
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
        let answer = self.gateway.reports.ask(Report {
            job,
            event: JobEvent::Started { attempt },
        });
        self.starts_under_way += 1;
        self.begin(async move { Done::Started(job, attempt, answer.await) });
    }

    pub(super) fn started_answered(&mut self, job: JobId, attempt: AttemptId, answer: Option<Answer>) {
        self.starts_under_way -= 1;
        match answer {
            // Running already, or ended by its own result that came right behind.
            Some(Answer::Done | Answer::Refused(Refusal::Unchanged)) => {}
            Some(Answer::Refused(_) | Answer::Unknown) => {
                tracing::debug!(%job, %attempt, "a start came too late");
                self.stop(attempt);
            }
            // Asked again until the store answers: a start that is lost would leave the row behind the truth.
            Some(Answer::StoreAway) => {
                self.starts_under_way += 1;
                let gateway = std::sync::Arc::clone(&self.gateway);
                self.begin(async move {
                    tokio::time::sleep(super::TICK).await;
                    let answer = gateway
                        .reports
                        .ask(Report {
                            job,
                            event: JobEvent::Started { attempt },
                        })
                        .await;
                    Done::Started(job, attempt, answer)
                });
            }
            None => {}
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
