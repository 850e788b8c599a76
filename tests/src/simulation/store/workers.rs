//! Workers, their sessions and the leader's term in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use common::ids::{SessionId, WorkerId};
use common::job::Epoch;
use common::store::{AgentWords, Beat, BeatAnswer, LeaderTerms, StoreError, WorkerStore};
use common::time::Timestamp;
use common::worker::{Session, Worker};

use super::{Backends, Caller, Client, Service, held};

#[derive(Default)]
pub struct Workers {
    workers: BTreeMap<WorkerId, Worker>,
    sessions: BTreeMap<SessionId, Session>,
    term: u64,
}

impl Workers {
    pub fn all_sessions(&self) -> Vec<Session> {
        self.sessions.values().cloned().collect()
    }

    fn put(&mut self, mut new: Worker, replaces: Option<SessionId>) -> bool {
        if let Some(row) = self.workers.get(&new.id) {
            let speaks = if row.session == new.session {
                row.conn <= new.conn
            } else {
                row.session == replaces
            };
            if !speaks {
                return false;
            }
            (new.draining, new.registered_at, new.load) = (row.draining, row.registered_at, row.load.clone());
        }
        self.workers.insert(new.id.clone(), new);
        true
    }

    fn refresh(&mut self, id: &WorkerId, words: AgentWords) -> bool {
        let Some(row) = self.workers.get_mut(id) else {
            return false;
        };
        if row.session != Some(words.session) || row.conn != words.conn {
            return false;
        }
        row.heard_at = words.heard_at;
        if let Some(state) = words.state {
            (row.condition, row.load) = state;
        }
        true
    }

    fn open(&mut self, id: SessionId, worker: WorkerId, now: Timestamp) -> Result<Session, StoreError> {
        match self.sessions.get(&id) {
            Some(there) if !there.lost && there.worker == worker => return Ok(there.clone()),
            Some(_) => return Err(StoreError::Exists),
            None => {}
        }
        let session = Session {
            id,
            worker,
            beat: 1,
            conn: 1,
            lost: false,
            opened_at: now,
        };
        self.sessions.insert(id, session.clone());
        Ok(session)
    }

    fn resume(&mut self, id: SessionId, worker: &WorkerId) -> Option<Session> {
        let session = self.sessions.get_mut(&id)?;
        if session.lost || session.worker != *worker {
            return None;
        }
        session.conn += 1;
        session.beat += 1;
        Some(session.clone())
    }

    fn beat(&mut self, beat: Beat) -> BeatAnswer {
        match self.sessions.get_mut(&beat.session) {
            Some(session) if session.lost => BeatAnswer::Lost,
            Some(session) if session.conn != beat.conn => BeatAnswer::Superseded,
            Some(session) => {
                session.beat += 1;
                BeatAnswer::Renewed
            }
            None => BeatAnswer::Lost,
        }
    }

    fn lose(&mut self, id: SessionId, beat: u64) -> Option<Session> {
        let session = self.sessions.get_mut(&id)?;
        if session.lost || session.beat != beat {
            return None;
        }
        session.lost = true;
        Some(session.clone())
    }
}

fn note(backends: &Backends, by: Caller, session: Option<&Session>) {
    if let Some(session) = session {
        backends.observer.session_changed(by, session);
    }
}

#[async_trait]
impl WorkerStore for Client {
    async fn put(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, StoreError> {
        let worker = worker.clone();
        self.call(Service::Rows, "put_worker", move |backends, _| {
            Ok(held(&backends.workers).put(worker, replaces))
        })
        .await
    }

    async fn refresh(&self, id: &WorkerId, words: &AgentWords) -> Result<bool, StoreError> {
        let (id, words) = (id.clone(), words.clone());
        self.call(Service::Rows, "refresh_worker", move |backends, _| {
            Ok(held(&backends.workers).refresh(&id, words))
        })
        .await
    }

    async fn set_draining(&self, id: &WorkerId, draining: bool) -> Result<Option<Worker>, StoreError> {
        let id = id.clone();
        self.call(Service::Rows, "set_draining", move |backends, _| {
            let mut workers = held(&backends.workers);
            Ok(workers.workers.get_mut(&id).map(|row| {
                row.draining = draining;
                row.clone()
            }))
        })
        .await
    }

    async fn get(&self, id: &WorkerId) -> Result<Option<Worker>, StoreError> {
        let id = id.clone();
        self.call(Service::Rows, "get_worker", move |backends, _| {
            Ok(held(&backends.workers).workers.get(&id).cloned())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Worker>, StoreError> {
        self.call(Service::Rows, "list_workers", |backends, _| {
            Ok(held(&backends.workers).workers.values().cloned().collect())
        })
        .await
    }

    async fn open_session(
        &self,
        id: SessionId,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Session, StoreError> {
        let worker = worker.clone();
        self.call(Service::Rows, "open_session", move |backends, by| {
            let opened = held(&backends.workers).open(id, worker, now)?;
            note(backends, by, Some(&opened));
            Ok(opened)
        })
        .await
    }

    async fn resume_session(&self, id: SessionId, worker: &WorkerId) -> Result<Option<Session>, StoreError> {
        let worker = worker.clone();
        self.call(Service::Rows, "resume_session", move |backends, by| {
            let resumed = held(&backends.workers).resume(id, &worker);
            note(backends, by, resumed.as_ref());
            Ok(resumed)
        })
        .await
    }

    async fn beat(&self, beats: &[Beat]) -> Result<Vec<BeatAnswer>, StoreError> {
        let beats = beats.to_vec();
        self.call(Service::Rows, "beat", move |backends, _| {
            let mut workers = held(&backends.workers);
            Ok(beats.into_iter().map(|beat| workers.beat(beat)).collect())
        })
        .await
    }

    async fn declare_lost(&self, id: SessionId, beat: u64) -> Result<bool, StoreError> {
        self.call(Service::Rows, "declare_lost", move |backends, by| {
            let lost = held(&backends.workers).lose(id, beat);
            note(backends, by, lost.as_ref());
            Ok(lost.is_some())
        })
        .await
    }

    async fn live_sessions(&self) -> Result<Vec<Session>, StoreError> {
        self.call(Service::Rows, "live_sessions", |backends, _| {
            let workers = held(&backends.workers);
            let live = workers.sessions.values().filter(|session| !session.lost);
            Ok(live.cloned().collect())
        })
        .await
    }

    async fn sessions(&self, ids: &[SessionId]) -> Result<Vec<Session>, StoreError> {
        let ids = ids.to_vec();
        self.call(Service::Rows, "sessions", move |backends, _| {
            let workers = held(&backends.workers);
            Ok(ids
                .iter()
                .filter_map(|id| workers.sessions.get(id).cloned())
                .collect())
        })
        .await
    }
}

#[async_trait]
impl LeaderTerms for Client {
    async fn begin(&self) -> Result<Epoch, StoreError> {
        self.call(Service::Rows, "begin_term", |backends, by| {
            let mut workers = held(&backends.workers);
            workers.term += 1;
            let epoch = Epoch(workers.term);
            drop(workers);
            backends.observer.term_begun(by, epoch);
            Ok(epoch)
        })
        .await
    }

    async fn current(&self) -> Result<Epoch, StoreError> {
        self.call(Service::Rows, "current_term", |backends, _| {
            Ok(Epoch(held(&backends.workers).term))
        })
        .await
    }
}
