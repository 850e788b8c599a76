//! The leader's picture of the fleet: who may be given work, and what is taken of it.
//!
//! Made from rows alone. Between two full looks it follows its own claims and the hints about held jobs; since hints
//! may be lost, a full look each sweep corrects it. It errs on the side of giving too little: what may be held counts
//! as held.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::fit;
use common::ids::{AccountId, AttemptId, JobId, SessionId, WorkerId};
use common::job::{Job, Lease, Resources};
use common::store::{StoreError, Stores};
use common::time::Mono;
use common::worker::{Capacity, Session, Worker};

use crate::placement::Seat;

/// Rows read at once.
const PAGE: usize = 500;

#[derive(Debug, Default)]
pub struct Picture {
    /// By name.
    workers: Vec<Known>,
    /// Beat of each live session, and when it moved last on our own clock.
    heard: HashMap<SessionId, (u64, Mono)>,
    held: HashMap<JobId, Holding>,
    /// Sums over what is held.
    used: HashMap<WorkerId, Capacity>,
    /// How many suspects each worker has.
    suspects: HashMap<WorkerId, u32>,
    running: HashMap<AccountId, u32>,
}

/// A worker that would be given work if it were heard.
#[derive(Debug)]
struct Known {
    /// As if idle.
    seat: Seat,
    session: SessionId,
}

#[derive(Debug, Clone)]
struct Holding {
    attempt: AttemptId,
    worker: WorkerId,
    account: AccountId,
    resources: Resources,
    suspect: bool,
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
        self.workers = workers.into_iter().filter_map(Known::of).collect();
        self.workers.sort_by(|a, b| a.seat.worker.cmp(&b.seat.worker));
    }

    /// Looks at everything that is held.
    ///
    /// # Errors
    /// [`StoreError`]; the picture stays as it was.
    pub async fn refresh_held(&mut self, stores: &Stores) -> Result<(), StoreError> {
        let (mut held, mut unknown) = (Vec::new(), Vec::new());
        for row in stores.jobs.all_holdings().await? {
            // What an attempt takes, and of whom, never changes: of a known one nothing more is read.
            match self
                .held
                .get(&row.job)
                .filter(|known| known.attempt == row.attempt)
            {
                Some(known) => held.push((row.job, known.clone())),
                None => unknown.push(row.job),
            }
        }
        for ids in unknown.chunks(PAGE) {
            let rows = stores.jobs.get_many(ids).await?;
            held.extend(rows.iter().filter_map(holding));
        }
        (self.held, self.used, self.suspects, self.running) = Default::default();
        for (job, holding) in held {
            self.hold(job, holding);
        }
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
                self.let_go(*id);
            }
            for (job, holding) in rows.iter().filter_map(holding) {
                self.hold(job, holding);
            }
        }
        Ok(())
    }

    /// A claim of ours that is, or may be, stored.
    pub fn claimed(&mut self, job: &Job) {
        if let Some((job, holding)) = holding(job) {
            self.hold(job, holding);
        }
    }

    /// A claim that may have been stored: counts as held until the next full look.
    pub fn maybe_claimed(&mut self, job: &Job, attempt: AttemptId, lease: &Lease) {
        self.hold(job.id, Holding::of(job, attempt, lease));
    }

    /// How many attempts an account holds.
    pub fn held_by(&self, account: &AccountId) -> u32 {
        self.running.get(account).copied().unwrap_or(0)
    }

    /// Workers that may be given work, full ones too, with the leases under which it would be given. Heard within
    /// `contact`, ready, not draining, in a session that lives.
    pub fn seats(&self, now: Mono, contact: Duration) -> (Vec<Seat>, Vec<Lease>) {
        self.workers
            .iter()
            .filter(|known| self.is_heard(known.session, now, contact))
            .map(|known| {
                let mut seat = known.seat.clone();
                seat.used = self.used.get(&seat.worker).copied().unwrap_or(Capacity::NOTHING);
                seat.suspect = self.suspects.contains_key(&seat.worker);
                let lease = Lease {
                    worker: seat.worker.clone(),
                    session: known.session,
                };
                (seat, lease)
            })
            .unzip()
    }

    fn is_heard(&self, session: SessionId, now: Mono, contact: Duration) -> bool {
        let heard = self.heard.get(&session);
        heard.is_some_and(|(_, moved)| now.since(*moved) < contact)
    }

    fn hold(&mut self, job: JobId, holding: Holding) {
        self.let_go(job);
        let used = self
            .used
            .entry(holding.worker.clone())
            .or_insert(Capacity::NOTHING);
        *used = used.with(&holding.resources);
        if holding.suspect {
            *self.suspects.entry(holding.worker.clone()).or_insert(0) += 1;
        }
        *self.running.entry(holding.account.clone()).or_insert(0) += 1;
        self.held.insert(job, holding);
    }

    fn let_go(&mut self, job: JobId) {
        let Some(holding) = self.held.remove(&job) else {
            return;
        };
        if let Some(used) = self.used.get_mut(&holding.worker) {
            *used = used.without(&holding.resources);
            if used.slots == 0 {
                self.used.remove(&holding.worker);
            }
        }
        if holding.suspect {
            one_less(&mut self.suspects, &holding.worker);
        }
        one_less(&mut self.running, &holding.account);
    }
}

/// What is not counted any more is not kept.
fn one_less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Known {
    fn of(worker: Worker) -> Option<Self> {
        let session = worker.session?;
        // Silence aside, which is looked at when seats are asked for.
        let absent = fit::absence(&worker, Some(Duration::ZERO), Duration::MAX).is_some();
        (!absent).then(|| Self {
            seat: Seat {
                worker: worker.id,
                pool: worker.description.pool,
                labels: Arc::new(worker.description.labels),
                capacity: worker.description.capacity,
                used: Capacity::NOTHING,
                suspect: false,
                kept: None,
            },
            session,
        })
    }
}

impl Holding {
    fn of(job: &Job, attempt: AttemptId, lease: &Lease) -> Self {
        Self {
            attempt,
            worker: lease.worker.clone(),
            account: job.account.clone(),
            resources: job.spec.resources,
            suspect: job.is_suspect(),
        }
    }
}

fn holding(job: &Job) -> Option<(JobId, Holding)> {
    let (attempt, lease) = job.state.held()?;
    Some((job.id, Holding::of(job, attempt, lease)))
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
    fn a_worker_has_a_suspect_until_it_lets_go_of_the_last() {
        let (mut picture, id) = (Picture::default(), SessionId::random());
        picture.see(vec![worker("w", id)], &[session(id, 1)], at(0));
        let lease = Lease {
            worker: WorkerId::new("w").unwrap(),
            session: id,
        };
        let marked = |picture: &Picture| picture.seats(at(0), C).0[0].suspect;
        let (mut one, mut other) = (job(spec()), job(spec()));
        picture.maybe_claimed(&job(spec()), AttemptId::random(), &lease);
        assert!(!marked(&picture), "it was never lost");
        for suspect in [&mut one, &mut other] {
            suspect.infra_retries = 2;
            picture.maybe_claimed(suspect, AttemptId::random(), &lease);
        }
        for (job, left) in [(&one, true), (&other, false)] {
            assert!(marked(&picture));
            picture.let_go(job.id);
            assert_eq!(marked(&picture), left);
        }
        assert!(picture.suspects.is_empty());
    }

    #[test]
    fn what_is_held_is_taken_from_its_worker_and_given_back() {
        let (mut picture, id) = (Picture::default(), SessionId::random());
        picture.see(vec![worker("w", id)], &[session(id, 1)], at(0));
        let lease = Lease {
            worker: WorkerId::new("w").unwrap(),
            session: id,
        };
        let free = |picture: &Picture| picture.seats(at(0), C).0[0].free();
        let all = free(&picture);
        let mut jobs = Vec::new();
        for slots in [1, 0] {
            let event = JobEvent::Claimed {
                attempt: AttemptId::random(),
                lease: lease.clone(),
                epoch: Default::default(),
            };
            let claimed = step(&job(spec()), event, Timestamp::default()).unwrap().job;
            picture.claimed(&claimed);
            // told twice is held once
            picture.claimed(&claimed);
            jobs.push(claimed);
            assert_eq!(free(&picture).slots, slots);
        }
        let account = jobs[0].account.clone();
        assert_eq!(picture.held_by(&account), 2);
        for (held, job) in [(1, &jobs[0]), (0, &jobs[1])] {
            picture.let_go(job.id);
            picture.let_go(job.id);
            assert_eq!(picture.held_by(&account), held);
        }
        assert_eq!(free(&picture), all);
        assert!(picture.used.is_empty() && picture.running.is_empty());
    }
}
