//! Which connections this gateway has: one a worker, the newest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::ids::{SessionId, WorkerId};
use common::job::Job;
use common::protocol::HELD_ATTEMPTS_MAX;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Rows that wait for one connection; what finds no room is found again at the next tick.
const ROOM: usize = HELD_ATTEMPTS_MAX;

#[derive(Default)]
pub struct Registry {
    connections: Mutex<HashMap<WorkerId, Entry>>,
}

struct Entry {
    session: SessionId,
    conn: u64,
    /// Boxed: the channel makes room for dozens at once, for each of thousands of connections.
    found: mpsc::Sender<Box<Job>>,
    superseded: CancellationToken,
}

/// A connection's place; leaves it when dropped.
pub struct Place {
    registry: Arc<Registry>,
    worker: WorkerId,
    session: SessionId,
    conn: u64,
    pub found: mpsc::Receiver<Box<Job>>,
    pub superseded: CancellationToken,
}

impl Registry {
    /// Enters a connection and turns an older one of the same worker away. None when a newer one of the same session
    /// is there already.
    pub fn enter(self: &Arc<Self>, worker: &WorkerId, session: SessionId, conn: u64) -> Option<Place> {
        let (sender, found) = mpsc::channel(ROOM);
        let superseded = CancellationToken::new();
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = connections.get(worker) {
            if there.session == session && there.conn > conn {
                return None;
            }
            there.superseded.cancel();
        }
        let entry = Entry {
            session,
            conn,
            found: sender,
            superseded: superseded.clone(),
        };
        connections.insert(worker.clone(), entry);
        let place = Place {
            registry: Arc::clone(self),
            worker: worker.clone(),
            session,
            conn,
            found,
            superseded,
        };
        Some(place)
    }

    /// Whether a connection of this session is here.
    pub fn speaks(&self, worker: &WorkerId, session: SessionId) -> bool {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections
            .get(worker)
            .is_some_and(|entry| entry.session == session)
    }

    /// Sessions of all connections, or of those of `workers`.
    pub fn sessions(&self, workers: Option<&std::collections::HashSet<WorkerId>>) -> Vec<SessionId> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        match workers {
            None => connections.values().map(|entry| entry.session).collect(),
            Some(workers) => workers
                .iter()
                .filter_map(|worker| connections.get(worker))
                .map(|entry| entry.session)
                .collect(),
        }
    }

    /// Hands a row to the connection whose session holds it.
    pub fn hand_over(&self, job: Job) {
        let Some(lease) = job.state.lease() else { return };
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = connections.get(&lease.worker)
            && entry.session == lease.session
        {
            // A full one is behind with what it has; the next tick brings this row again.
            let _ = entry.found.try_send(Box::new(job));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self
            .registry
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ours = connections
            .get(&self.worker)
            .is_some_and(|entry| entry.session == self.session && entry.conn == self.conn);
        if ours {
            connections.remove(&self.worker);
        }
    }
}
