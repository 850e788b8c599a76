//! Heartbeats: renewed in the gateway's lane, then judged by the rows, then acknowledged.

use std::collections::HashSet;
use std::time::Duration;

use common::ids::AttemptId;
use common::job::StateName;
use common::lifecycle::JobEvent;
use common::protocol::{CloseCode, HeldAttempt, ToWorker};
use common::store::{AgentWords, Beat, BeatAnswer, Holding, StoreError, Topic};
use common::worker::{Condition, Load};

use super::hello::judge;
use super::{Connection, Done, End, SUPERSEDED};

/// A load that changed is written this often: a statement of its own for each worker, where that one lives is one for
/// thousands.
const LOAD_EVERY: Duration = Duration::from_secs(30);

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
    Renewed(Vec<Holding>),
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
        let now = self.gateway.clock.mono();
        // Capacity decides at once, and so does what keeps a job from starting; the rest is for people to look at.
        let is_new = self.condition != heartbeat.condition
            || self.load_told.as_ref().is_none_or(|(told, pulling)| {
                now.since(*told) >= LOAD_EVERY || *pulling != heartbeat.load.pulling
            });
        let state = is_new.then(|| (heartbeat.condition.clone(), heartbeat.load.clone()));
        if is_new {
            self.load_told = Some((now, heartbeat.load.pulling.clone()));
        }
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
                            heard_at: clock.now(),
                            state,
                        };
                        let (stored, holdings) = tokio::join!(
                            stores.workers.refresh(&worker, &words),
                            stores.jobs.holdings(session)
                        );
                        Ok::<_, StoreError>(if stored? {
                            Judged::Renewed(holdings?)
                        } else {
                            Judged::Superseded
                        })
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
            Judged::Renewed(holdings) => {
                // Capacity that has come or gone is hinted.
                if self.condition != heartbeat.condition {
                    self.condition = heartbeat.condition;
                    self.gateway.stores.hints.send(Topic::Capacity);
                }
                if !heartbeat.waited {
                    self.end_absent(&holdings, &heartbeat.attempts);
                }
                self.acknowledged = heartbeat.number;
                let current = holdings.iter().map(|holding| holding.attempt).collect();
                let verdicts = judge(&current, &heartbeat.attempts);
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
            // Whether the row was told is not known either.
            Judged::Unknown => self.load_told = None,
        }
        if let Some(next) = self.next_beat.take() {
            self.beat(next);
        }
        Ok(())
    }

    /// What runs by the rows but was missing twice in a row, from hello or heartbeats, has ended unseen; what is only
    /// assigned is sent again.
    fn end_absent(&mut self, holdings: &[Holding], listed: &[HeldAttempt]) {
        let listed: HashSet<AttemptId> = listed.iter().map(|held| held.attempt).collect();
        let missing_before = std::mem::take(&mut self.missing_once);
        for Holding {
            job, attempt, state, ..
        } in holdings
            .iter()
            .filter(|holding| !listed.contains(&holding.attempt))
            .copied()
        {
            // A heartbeat may be older than the rows that it is judged by: only one that came after the start was seen
            // here can tell that something that runs is missing.
            let seen = (attempt, state);
            if !missing_before.contains(&seen) {
                self.missing_once.insert(seen);
                continue;
            }
            // Its result may be on its way through our own hands.
            if self.results.is_handling(attempt) {
                continue;
            }
            match state {
                StateName::Running => {
                    tracing::warn!(%job, %attempt, "the agent does not know an attempt that should run");
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
