//! Lock, queue, limits and nonces in memory; lost together, as one service is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use common::ids::{AccountId, JobId};
use common::queue::{CLASSES_PER_ACCOUNT_MAX, ClassKey, HeldBack, Lane, QueueEntry};
use common::store::{Build, JobQueue, LeaderLock, Nonces, Quota, RateDecision, RateLimiter, StoreError};
use common::time::{Mono, Timestamp};

use super::{Client, Service, held};

pub struct Coord {
    birth: Timestamp,
    locks: BTreeMap<String, (String, Mono)>,
    queue: Queue,
    /// Never turned back, so that no making is taken for another.
    builds: u64,
    calls: BTreeMap<String, VecDeque<Timestamp>>,
    /// Each with the time from which it is forgotten.
    nonces: BTreeMap<String, Timestamp>,
}

#[derive(Default)]
struct Queue {
    accounts: BTreeMap<AccountId, Classes>,
    places: BTreeMap<JobId, (Lane, u64)>,
    /// The making that has begun last.
    build: Option<u64>,
    built: bool,
    reservations: Vec<HeldBack>,
}

/// No set is empty.
type Classes = BTreeMap<ClassKey, BTreeSet<(u64, JobId)>>;

impl Coord {
    pub fn born(birth: Timestamp) -> Self {
        Self {
            birth,
            locks: BTreeMap::new(),
            queue: Queue::default(),
            builds: u64::try_from(birth.as_millis()).unwrap_or(0),
            calls: BTreeMap::new(),
            nonces: BTreeMap::new(),
        }
    }

    /// As when its time to live is over, whatever its holder believes.
    pub fn drop_locks(&mut self) {
        self.locks.clear();
    }

    pub fn wipe_queue(&mut self) {
        self.queue = Queue::default();
    }

    /// Every other entry is lost, and nobody is told.
    pub fn thin_queue(&mut self) {
        let lost: Vec<JobId> = self.queue.places.keys().copied().step_by(2).collect();
        for job in lost {
            self.queue.remove(job);
        }
    }

    fn holds(&self, key: &str, token: &str, now: Mono) -> bool {
        self.locks
            .get(key)
            .is_some_and(|(holder, until)| holder == token && now < *until)
    }

    fn check(&mut self, bucket: String, quota: Quota, now: Timestamp) -> RateDecision {
        let calls = self.calls.entry(bucket).or_default();
        while calls.front().is_some_and(|at| at.after(quota.window) <= now) {
            calls.pop_front();
        }
        let most = quota.limit as usize;
        let allowed = calls.len() < most;
        if allowed {
            calls.push_back(now);
        }
        let remaining = u32::try_from(most - calls.len()).unwrap_or(u32::MAX);
        let first_leaves = calls.front().map_or(now, |at| at.after(quota.window));
        RateDecision {
            allowed,
            limit: quota.limit,
            remaining,
            retry_after: if remaining > 0 {
                Duration::ZERO
            } else {
                first_leaves.since(now)
            },
        }
    }

    fn use_once(&mut self, nonce: String, signed_at: Timestamp, kept: Duration, now: Timestamp) -> bool {
        self.nonces.retain(|_, until| *until > now);
        if signed_at < self.birth || self.nonces.contains_key(&nonce) {
            return false;
        }
        self.nonces.insert(nonce, now.max(signed_at).after(kept));
        true
    }
}

impl Queue {
    fn push(&mut self, entry: QueueEntry) {
        self.remove(entry.job);
        let Lane { class, account } = entry.lane;
        let classes = self.accounts.entry(account.clone()).or_default();
        let has_room = classes.len() < CLASSES_PER_ACCOUNT_MAX || classes.contains_key(&class);
        let class = if has_room { class } else { class.mixed() };
        classes
            .entry(class.clone())
            .or_default()
            .insert((entry.score, entry.job));
        self.places
            .insert(entry.job, (Lane { class, account }, entry.score));
    }

    fn remove(&mut self, job: JobId) {
        if let Some((lane, score)) = self.places.remove(&job)
            && let Some(classes) = self.accounts.get_mut(&lane.account)
            && let Some(set) = classes.get_mut(&lane.class)
        {
            set.remove(&(score, job));
            if set.is_empty() {
                classes.remove(&lane.class);
            }
        }
    }

    /// Where an entry stands; none when it is not there, or has come back to another place.
    fn standing(&self, entry: &QueueEntry) -> Option<&Lane> {
        let (lane, score) = self.places.get(&entry.job)?;
        let same = *score == entry.score
            && lane.account == entry.lane.account
            && (lane.class == entry.lane.class || lane.class == entry.lane.class.mixed());
        same.then_some(lane)
    }

    fn set(&self, lane: &Lane) -> Option<&BTreeSet<(u64, JobId)>> {
        self.accounts.get(&lane.account)?.get(&lane.class)
    }

    fn lanes(&self) -> Vec<(Lane, u64)> {
        let all = self.accounts.iter().flat_map(|(account, classes)| {
            classes.iter().map(|(class, set)| {
                let lane = Lane {
                    class: class.clone(),
                    account: account.clone(),
                };
                (lane, set.len() as u64)
            })
        });
        all.collect()
    }

    fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Vec<QueueEntry> {
        let set = self.set(lane).into_iter().flatten();
        set.skip(skip)
            .take(limit)
            .map(|&(score, job)| QueueEntry {
                lane: lane.clone(),
                score,
                job,
            })
            .collect()
    }
}

impl Client {
    async fn coord<T: Send + 'static>(
        &self,
        name: &'static str,
        apply: impl FnOnce(&mut Coord, Mono) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(Service::Coord, name, |backends, _| {
            let now = backends.clock.mono();
            Ok(apply(&mut held(&backends.coord), now))
        })
        .await
    }
}

#[async_trait]
impl LeaderLock for Client {
    async fn acquire(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.coord("acquire", move |coord, now| {
            let free = coord.locks.get(&key).is_none_or(|(_, until)| now >= *until);
            if free {
                coord.locks.insert(key, (token, now.after(ttl)));
            }
            free
        })
        .await
    }

    async fn renew(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, StoreError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.coord("renew", move |coord, now| {
            let ours = coord.holds(&key, &token, now);
            if ours {
                coord.locks.insert(key, (token, now.after(ttl)));
            }
            ours
        })
        .await
    }

    async fn holds(&self, key: &str, token: &str) -> Result<bool, StoreError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.coord("holds", move |coord, now| coord.holds(&key, &token, now))
            .await
    }

    async fn release(&self, key: &str, token: &str) -> Result<(), StoreError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.coord("release", move |coord, _| {
            if coord.locks.get(&key).is_some_and(|(holder, _)| *holder == token) {
                coord.locks.remove(&key);
            }
        })
        .await
    }
}

#[async_trait]
impl JobQueue for Client {
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.coord("push", move |coord, _| {
            for entry in entries {
                coord.queue.push(entry);
            }
        })
        .await
    }

    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.coord("remove", move |coord, _| {
            for entry in entries {
                // A job that came back meanwhile (a retry) keeps its new place.
                if coord.queue.standing(&entry).is_some() {
                    coord.queue.remove(entry.job);
                }
            }
        })
        .await
    }

    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let lane = lane.clone();
        self.coord("heads", move |coord, _| coord.queue.heads(&lane, skip, limit))
            .await
    }

    async fn heads_of(&self, lanes: &[(Lane, usize, usize)]) -> Result<Vec<Vec<QueueEntry>>, StoreError> {
        let lanes = lanes.to_vec();
        self.coord("heads_of", move |coord, _| {
            let each = lanes.iter();
            each.map(|(lane, skip, limit)| coord.queue.heads(lane, *skip, *limit))
                .collect()
        })
        .await
    }

    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError> {
        self.coord("lanes", |coord, _| coord.queue.lanes()).await
    }

    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError> {
        let entry = entry.clone();
        self.coord("place", move |coord, _| {
            let set = coord
                .queue
                .standing(&entry)
                .and_then(|lane| coord.queue.set(lane))?;
            Some(set.range(..(entry.score, entry.job)).count() as u64)
        })
        .await
    }

    async fn len(&self) -> Result<u64, StoreError> {
        self.coord("len", |coord, _| coord.queue.places.len() as u64)
            .await
    }

    async fn is_built(&self) -> Result<bool, StoreError> {
        self.coord("is_built", |coord, _| coord.queue.built).await
    }

    async fn begin_build(&self) -> Result<Build, StoreError> {
        self.coord("begin_build", |coord, _| {
            coord.builds += 1;
            coord.queue.build = Some(coord.builds);
            Build::new(coord.builds.to_string())
        })
        .await
    }

    async fn mark_built(&self, build: &Build) -> Result<bool, StoreError> {
        let build = build.clone();
        self.call(Service::Coord, "mark_built", move |backends, by| {
            let mut coord = held(&backends.coord);
            let queue = &mut coord.queue;
            let is_last = queue.build.is_some_and(|last| last.to_string() == build.as_str());
            queue.built |= is_last;
            drop(coord);
            backends.observer.queue_built(by);
            Ok(is_last)
        })
        .await
    }

    async fn tell_reservations(&self, reservations: &[HeldBack]) -> Result<(), StoreError> {
        let told = reservations.to_vec();
        self.coord("tell_reservations", move |coord, _| {
            coord.queue.reservations = told
        })
        .await
    }

    async fn reservations(&self) -> Result<Vec<HeldBack>, StoreError> {
        self.coord("reservations", |coord, _| coord.queue.reservations.clone())
            .await
    }

    async fn clear(&self) -> Result<(), StoreError> {
        self.coord("clear", |coord, _| coord.wipe_queue()).await
    }
}

#[async_trait]
impl RateLimiter for Client {
    async fn check(&self, bucket: &str, quota: Quota, now: Timestamp) -> Result<RateDecision, StoreError> {
        let bucket = bucket.to_owned();
        self.coord("check", move |coord, _| coord.check(bucket, quota, now))
            .await
    }
}

#[async_trait]
impl Nonces for Client {
    async fn use_once(
        &self,
        nonce: &str,
        signed_at: Timestamp,
        kept: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let nonce = nonce.to_owned();
        self.coord("use_once", move |coord, _| {
            coord.use_once(nonce, signed_at, kept, now)
        })
        .await
    }
}
