//! Heartbeats: renewed in the gateway's lane, then judged by the rows, then acknowledged.

use std::collections::HashSet;

use common::ids::AttemptId;
use common::job::{Job, JobState};
use common::lifecycle::JobEvent;
use common::protocol::{CloseCode, HeldAttempt, ToWorker};
use common::store::{AgentWords, Beat, BeatAnswer, StoreError, Topic};
use common::worker::{Condition, Load};

use super::hello::{held_by, judge};
use super::{Connection, Done, End, SUPERSEDED};

#[derive(Debug, Clone)]
pub struct Heartbeat {
    pub number: u64,
    /// It was read while another was being judged, and so is older than the rows that it is judged by.
    pub waited: bool,
    pub attempts: Vec<HeldAttempt>,
    pub condition: Condition,
    pub load: Load,
}

/// What became of a heartbeat.
pub struct Beaten {
    heartbeat: Heartbeat,
    answer: Judged,
}

enum Judged {
    Renewed(Vec<Job>),
    Lost,
    Superseded,
    /// The store did not answer: nothing is acknowledged, the agent counts on and asks again.
    Unknown,
}

impl Connection {
    /// One renewal is under way at a time; of those that come meanwhile the last one counts.
    pub(super) fn beat(&mut self, heartbeat: Heartbeat) {
        if self.beating {
            self.next_beat = Some(Heartbeat {
                waited: true,
                ..heartbeat
            });
            return;
        }
        self.beating = true;
        let renewal = self.gateway.renewals.ask(Beat {
            session: self.session,
            conn: self.conn,
        });
        let (stores, clock) = (
            self.gateway.stores.clone(),
            std::sync::Arc::clone(&self.gateway.clock),
        );
        let (worker, session, conn) = (self.worker.clone(), self.session, self.conn);
        self.begin(async move {
            let answer = match renewal.await.flatten() {
                None => Judged::Unknown,
                Some(BeatAnswer::Lost) => Judged::Lost,
                Some(BeatAnswer::Superseded) => Judged::Superseded,
                Some(BeatAnswer::Renewed) => {
                    let looked = async {
                        let words = AgentWords {
                            session,
                            conn,
                            condition: heartbeat.condition.clone(),
                            load: heartbeat.load.clone(),
                            heard_at: clock.now(),
                        };
                        let Some(before) = stores.workers.refresh(&worker, &words).await? else {
                            return Ok(Judged::Superseded);
                        };
                        // Capacity that has come or gone is hinted.
                        if before.condition != words.condition {
                            stores.hints.send(Topic::Capacity);
                        }
                        Ok::<_, StoreError>(Judged::Renewed(held_by(&stores, session).await?))
                    };
                    looked.await.unwrap_or_else(|error| {
                        tracing::warn!(%error, "a heartbeat could not be judged");
                        Judged::Unknown
                    })
                }
            };
            Done::Beaten(Box::new(Beaten { heartbeat, answer }))
        });
    }

    pub(super) fn beaten(&mut self, beaten: Beaten) -> Result<(), End> {
        self.beating = false;
        let Beaten { heartbeat, answer } = beaten;
        match answer {
            Judged::Renewed(rows) => {
                if !heartbeat.waited {
                    self.end_absent(&rows, &heartbeat.attempts);
                }
                self.acknowledged = heartbeat.number;
                let verdicts = judge(&rows, &heartbeat.attempts);
                self.socket.put(&ToWorker::HeartbeatAck {
                    number: heartbeat.number,
                    verdicts,
                });
            }
            Judged::Lost => {
                return Err(End::Close(
                    CloseCode::GoingAway,
                    "the session is lost, begin anew",
                ));
            }
            Judged::Superseded => {
                return Err(SUPERSEDED);
            }
            Judged::Unknown => {}
        }
        if let Some(next) = self.next_beat.take() {
            self.beat(next);
        }
        Ok(())
    }

    /// What runs by the rows but was missing twice in a row, from hello or heartbeats, has ended unseen; what is only
    /// assigned is sent again.
    fn end_absent(&mut self, rows: &[Job], listed: &[HeldAttempt]) {
        let listed: HashSet<AttemptId> = listed.iter().map(|held| held.attempt).collect();
        let missing_before = std::mem::take(&mut self.missing_once);
        for job in rows {
            let Some(attempt) = job.state.attempt().filter(|attempt| !listed.contains(attempt)) else {
                continue;
            };
            // A heartbeat may be older than the rows that it is judged by: only one that came after the start was seen
            // here can tell that something that runs is missing.
            let seen = (attempt, job.state.name());
            if !missing_before.contains(&seen) {
                self.missing_once.insert(seen);
                continue;
            }
            // Its result may be on its way through our own hands.
            if self.results.is_handling(attempt) {
                continue;
            }
            match job.state {
                JobState::Running { .. } => {
                    tracing::warn!(job = %job.id, %attempt, "the agent does not know an attempt that should run");
                    self.end(job, attempt, JobEvent::Absent { attempt });
                }
                _ => {
                    if let Some(known) = self.attempts.get(attempt) {
                        (known.assigned, known.cancelled) = (false, false);
                    }
                }
            }
        }
    }
}
