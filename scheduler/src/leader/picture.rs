//! The leader's picture of the fleet: who may be given work, and what is taken of it.
//!
//! Made from rows alone. Between two full looks it follows its own claims and the hints about held jobs; since hints
//! may be lost, a full look each sweep corrects it. It errs on the side of giving too little: what may be held counts
//! as held.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::fit;
use common::ids::{AccountId, JobId, SessionId, WorkerId};
use common::job::{Job, Lease, Resources};
use common::store::{Held, StoreError, Stores};
use common::time::Mono;
use common::worker::{Capacity, Session, Worker};

use crate::placement::Seat;

/// Rows read at once.
const PAGE: usize = 500;

#[derive(Debug, Default)]
pub struct Picture {
    workers: BTreeMap<WorkerId, Worker>,
    /// Beat of each live session, and when it moved last on our own clock.
    heard: HashMap<SessionId, (u64, Mono)>,
    held: HashMap<JobId, Holding>,
}

#[derive(Debug, Clone)]
struct Holding {
    worker: WorkerId,
    account: AccountId,
    resources: Resources,
}

impl Picture {
    /// Looks at workers and sessions.
    ///
    /// # Errors
    /// [`StoreError`]; the picture stays as it was.
    pub async fn refresh_workers(&mut self, stores: &Stores, now: Mono) -> Result<(), StoreError> {
        let sessions = stores.workers.live_sessions().await?;
        let workers = stores.workers.list().await?;
        self.see(workers, &sessions, now);
        Ok(())
    }

    fn see(&mut self, workers: Vec<Worker>, sessions: &[Session], now: Mono) {
        let before = std::mem::take(&mut self.heard);
        self.heard = sessions
            .iter()
            .map(|session| {
                let moved = match before.get(&session.id) {
                    Some((beat, at)) if *beat == session.beat => *at,
                    Some(_) | None => now,
                };
                (session.id, (session.beat, moved))
            })
            .collect();
        self.workers = workers
            .into_iter()
            .map(|worker| (worker.id.clone(), worker))
            .collect();
    }

    /// Looks at everything that is held.
    ///
    /// # Errors
    /// [`StoreError`]; the picture stays as it was.
    pub async fn refresh_held(&mut self, stores: &Stores) -> Result<(), StoreError> {
        let (mut held, mut after) = (HashMap::new(), None);
        loop {
            let rows = stores.jobs.held(&Held::Any, after, PAGE).await?;
            after = rows.last().map(|job| job.id);
            let full = rows.len() == PAGE;
            held.extend(rows.iter().filter_map(holding));
            if !full {
                break;
            }
        }
        self.held = held;
        Ok(())
    }

    /// Looks at those of `changed` that are held as far as we know.
    ///
    /// # Errors
    /// [`StoreError`]; the picture stays as it was.
    pub async fn refresh_changed(
        &mut self,
        stores: &Stores,
        changed: impl IntoIterator<Item = JobId>,
    ) -> Result<(), StoreError> {
        let ours: Vec<JobId> = changed
            .into_iter()
            .filter(|job| self.held.contains_key(job))
            .collect();
        for ids in ours.chunks(PAGE) {
            let rows = stores.jobs.get_many(ids).await?;
            for id in ids {
                self.held.remove(id);
            }
            self.held.extend(rows.iter().filter_map(holding));
        }
        Ok(())
    }

    /// A claim of ours that is, or may be, stored.
    pub fn claimed(&mut self, job: &Job) {
        self.held.extend(holding(job));
    }

    /// A claim that may have been stored: counts as held until the next full look.
    pub fn maybe_claimed(&mut self, job: &Job, lease: &Lease) {
        let holding = Holding {
            worker: lease.worker.clone(),
            account: job.account.clone(),
            resources: job.spec.resources,
        };
        self.held.insert(job.id, holding);
    }

    /// How many attempts each account holds.
    pub fn held_by_account(&self) -> HashMap<AccountId, u32> {
        let mut counts = HashMap::new();
        for holding in self.held.values() {
            *counts.entry(holding.account.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Workers that may be given work now, with the leases under which it would be given. Heard within `contact`,
    /// ready, not draining, in a session that lives.
    pub fn seats(&self, now: Mono, contact: Duration) -> (Vec<Seat>, Vec<Lease>) {
        let mut used: HashMap<&WorkerId, Capacity> = HashMap::new();
        for holding in self.held.values() {
            let sum = used.entry(&holding.worker).or_insert(Capacity::NOTHING);
            *sum = sum.with(&holding.resources);
        }
        self.workers
            .values()
            .filter_map(|worker| {
                let session = self.eligible(worker, now, contact)?;
                let seat = Seat {
                    worker: worker.id.clone(),
                    pool: worker.description.pool.clone(),
                    labels: worker.description.labels.clone(),
                    capacity: worker.description.capacity,
                    used: used.get(&worker.id).copied().unwrap_or(Capacity::NOTHING),
                };
                (seat.free().slots > 0).then(|| {
                    (
                        seat,
                        Lease {
                            worker: worker.id.clone(),
                            session,
                        },
                    )
                })
            })
            .unzip()
    }

    fn eligible(&self, worker: &Worker, now: Mono, contact: Duration) -> Option<SessionId> {
        let session = worker.session?;
        let silent = self.heard.get(&session).map(|(_, moved)| now.since(*moved));
        fit::absence(worker, silent, contact).is_none().then_some(session)
    }
}

fn holding(job: &Job) -> Option<(JobId, Holding)> {
    let (_, lease) = job.state.held()?;
    let holding = Holding {
        worker: lease.worker.clone(),
        account: job.account.clone(),
        resources: job.spec.resources,
    };
    Some((job.id, holding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::AttemptId;
    use common::lifecycle::testing::{self, job, spec};
    use common::lifecycle::{JobEvent, step};
    use common::time::Timestamp;
    use common::worker::Condition;

    const C: Duration = Duration::from_secs(15);

    fn worker(name: &str, session: SessionId) -> Worker {
        Worker {
            session: Some(session),
            ..testing::worker(name)
        }
    }

    fn session(id: SessionId, beat: u64) -> Session {
        Session {
            id,
            worker: WorkerId::new("w").unwrap(),
            beat,
            conn: 1,
            lost: false,
            opened_at: Timestamp::default(),
        }
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_worker_out_of_contact_gets_no_work_until_its_beat_moves_again() {
        let (mut picture, id) = (Picture::default(), SessionId::random());
        picture.see(vec![worker("w", id)], &[session(id, 1)], at(0));
        picture.see(vec![worker("w", id)], &[session(id, 1)], at(14));
        assert_eq!(picture.seats(at(14), C).0.len(), 1);
        assert_eq!(picture.seats(at(15), C).0.len(), 0);
        picture.see(vec![worker("w", id)], &[session(id, 2)], at(16));
        assert_eq!(picture.seats(at(16), C).0.len(), 1);
    }

    #[test]
    fn draining_unready_and_sessionless_workers_get_no_work() {
        let id = SessionId::random();
        type Change = fn(&mut Worker);
        let changes: [Change; 4] = [
            |worker| worker.draining = true,
            |worker| {
                worker.condition = Condition::Unready {
                    reasons: vec!["no engine".into()],
                }
            },
            |worker| worker.session = None,
            |worker| worker.session = Some(SessionId::random()),
        ];
        for change in changes {
            let mut changed = worker("w", id);
            change(&mut changed);
            let mut picture = Picture::default();
            picture.see(vec![changed], &[session(id, 1)], at(0));
            assert_eq!(picture.seats(at(0), C).0.len(), 0);
        }
    }

    #[test]
    fn what_is_held_is_taken_from_its_worker() {
        let (mut picture, id) = (Picture::default(), SessionId::random());
        picture.see(vec![worker("w", id)], &[session(id, 1)], at(0));
        let lease = Lease {
            worker: WorkerId::new("w").unwrap(),
            session: id,
        };
        for (_, expected) in [((), Some(1)), ((), None)] {
            let event = JobEvent::Claimed {
                attempt: AttemptId::random(),
                lease: lease.clone(),
                epoch: Default::default(),
            };
            picture.claimed(&step(&job(spec()), event, Timestamp::default()).unwrap().job);
            let seats = picture.seats(at(0), C).0;
            assert_eq!(seats.first().map(|seat| seat.free().slots), expected);
        }
    }
}
