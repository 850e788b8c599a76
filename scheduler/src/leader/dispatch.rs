//! Gives waiting jobs to workers: heads of the queue, rows, placement, one batch of claims; then the queue is told.
//!
//! The index never decides: a job is claimed in its row by compare-and-set, and only then leaves the queue. Woken by
//! hints, and by a tick where hints are lost.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use common::ids::{AccountId, AttemptId, JobId};
use common::job::{Job, JobState, Lease};
use common::lifecycle::JobEvent;
use common::queue::QueueEntry;
use common::store::StoreError;
use common::time::Mono;

use super::picture::Picture;
use super::term::{DutyError, Term, Written};
use super::wakes::Wakes;
use super::{Context, index};
use crate::fair_share::FairShare;
use crate::placement::{Candidate, Heads, Placement, Terms, place};

/// Without a hint everything happens within this.
pub const TICK: Duration = Duration::from_millis(250);

/// Claims in one write: enough that the cost of a durable write is shared by many, few enough to stay within
/// milliseconds.
const BATCH: usize = 256;

/// Most heads loaded for one round; with more lanes than this, lanes take turns.
const CANDIDATES_MAX: usize = 1_024;

/// How often workers are looked at again when hints say that something about capacity changed.
const WORKERS_LOOK: Duration = Duration::from_millis(200);

pub struct Dispatcher {
    context: Context,
    term: Term,
    wakes: Wakes,
    picture: Picture,
    share: FairShare,
    looked_workers: Mono,
    looked_all: Mono,
    /// A look at everything is wanted: hints were lost, or the fate of a claim is unknown.
    look_all: bool,
    look_workers: bool,
    rounds: usize,
}

impl Dispatcher {
    pub fn new(context: Context, term: Term, wakes: Wakes) -> Self {
        let now = context.clock.mono();
        Self {
            context,
            term,
            wakes,
            picture: Picture::default(),
            share: FairShare::default(),
            looked_workers: now,
            looked_all: now,
            look_all: true,
            look_workers: true,
            rounds: 0,
        }
    }

    /// Dispatches until the term is over.
    pub async fn run(mut self) -> DutyError {
        loop {
            match self.round().await {
                // There may be more: go on at once.
                Ok(claimed) if claimed > 0 => tokio::task::yield_now().await,
                Ok(_) => self.wait().await,
                Err(DutyError::Store(error)) => {
                    tracing::warn!(%error, "dispatch waits for the store");
                    self.look_all = true;
                    tokio::time::sleep(TICK).await;
                }
                Err(ended @ DutyError::Resigned(_)) => return ended,
            }
        }
    }

    async fn wait(&self) {
        tokio::select! {
            () = self.wakes.wait() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }

    /// One round; answers how many jobs were claimed.
    async fn round(&mut self) -> Result<usize, DutyError> {
        self.term.check()?;
        let stores = &self.context.stores;
        if !stores.queue.is_built().await? {
            index::rebuild(stores, &self.term).await?;
        }
        self.look().await?;
        let now = self.context.clock.mono();
        let (mut seats, leases) = self.picture.seats(now, self.context.config.times.contact);
        let free = seats
            .iter()
            .map(|seat| seat.free().slots as usize)
            .sum::<usize>()
            .min(BATCH);
        if free == 0 {
            return Ok(0);
        }
        let (lanes, mut rows) = self.candidates(free).await?;
        if lanes.is_empty() {
            return Ok(0);
        }
        let mut terms = self.terms(&lanes).await;
        let placements = place(lanes, &mut seats, &mut terms, &mut self.share, free);
        self.claim(placements, &leases, &mut rows).await
    }

    /// Brings the picture up to date: all of it each sweep, workers and changed jobs as hinted.
    async fn look(&mut self) -> Result<(), StoreError> {
        let woken = self.wakes.take();
        let stores = &self.context.stores;
        let now = self.context.clock.mono();
        self.look_workers |= woken.capacity || woken.lost;
        self.look_all |= woken.lost;
        if self.look_all || now.since(self.looked_all) >= self.context.config.times.sweep {
            self.picture.refresh_workers(stores, now).await?;
            self.picture.refresh_held(stores).await?;
            (self.looked_all, self.looked_workers) = (now, now);
            (self.look_all, self.look_workers) = (false, false);
            return Ok(());
        }
        if self.look_workers && now.since(self.looked_workers) >= WORKERS_LOOK {
            self.picture.refresh_workers(stores, now).await?;
            self.looked_workers = now;
            self.look_workers = false;
        }
        self.picture.refresh_changed(stores, woken.jobs).await
    }

    /// The heads of the lanes with their rows; entries of jobs that do not wait any more are dropped on the way.
    async fn candidates(
        &mut self,
        free: usize,
    ) -> Result<(Vec<Heads>, HashMap<JobId, (QueueEntry, Job)>), DutyError> {
        let queue = &self.context.stores.queue;
        let mut lanes = queue.lanes().await?;
        lanes.sort();
        if lanes.len() > CANDIDATES_MAX {
            let count = lanes.len();
            lanes.rotate_left(self.rounds.wrapping_mul(CANDIDATES_MAX) % count);
            lanes.truncate(CANDIDATES_MAX);
        }
        self.rounds = self.rounds.wrapping_add(1);
        let each = (CANDIDATES_MAX / lanes.len().max(1)).clamp(1, free);
        let mut entries = Vec::new();
        for (lane, _) in &lanes {
            entries.extend(queue.heads(lane, 0, each).await?);
        }
        let ids: Vec<JobId> = entries.iter().map(|entry| entry.job).collect();
        let found = self.context.stores.jobs.get_many(&ids).await?;
        let mut found: HashMap<JobId, Job> = found.into_iter().map(|job| (job.id, job)).collect();
        let (mut heads, mut rows, mut stale) =
            (BTreeMap::<_, VecDeque<_>>::new(), HashMap::new(), Vec::new());
        for entry in entries {
            match found.remove(&entry.job) {
                Some(job) if matches!(job.state, JobState::Queued { .. }) && job.cancel.is_none() => {
                    let candidate = Candidate::new(job.id, entry.score, &job.spec);
                    heads.entry(entry.lane.clone()).or_default().push_back(candidate);
                    rows.insert(job.id, (entry, job));
                }
                Some(_) | None => stale.push(entry),
            }
        }
        self.drop_entries(stale).await?;
        let lanes = heads
            .into_iter()
            .map(|(lane, jobs)| Heads { lane, jobs })
            .collect();
        Ok((lanes, rows))
    }

    async fn terms(&self, lanes: &[Heads]) -> BTreeMap<AccountId, Terms> {
        let held = self.picture.held_by_account();
        let mut terms = BTreeMap::new();
        for heads in lanes {
            let account = &heads.lane.account;
            if !terms.contains_key(account) {
                let settings = self.context.accounts.settings(account).await;
                let taken = held.get(account).copied().unwrap_or(0);
                let room = settings.running_max.map(|most| most.saturating_sub(taken));
                terms.insert(
                    account.clone(),
                    Terms {
                        weight: settings.weight,
                        room,
                    },
                );
            }
        }
        terms
    }

    async fn claim(
        &mut self,
        placements: Vec<Placement>,
        leases: &[Lease],
        rows: &mut HashMap<JobId, (QueueEntry, Job)>,
    ) -> Result<usize, DutyError> {
        let epoch = self.term.epoch;
        let mut claims = Vec::with_capacity(placements.len());
        for placement in placements {
            if let Some((entry, job)) = rows.remove(&placement.job) {
                claims.push((entry, job, AttemptId::random(), &leases[placement.seat]));
            }
        }
        if claims.is_empty() {
            return Ok(0);
        }
        let events = claims
            .iter()
            .map(|(_, job, attempt, lease)| {
                (
                    job,
                    JobEvent::Claimed {
                        attempt: *attempt,
                        lease: (*lease).clone(),
                        epoch,
                    },
                )
            })
            .collect();
        let written = match self.term.write(events).await {
            Ok(written) => written,
            Err(error) => {
                // Unknown, not failed: what may be held counts as held until the rows have been looked at.
                for (_, job, _, lease) in &claims {
                    self.picture.maybe_claimed(job, lease);
                }
                return Err(error);
            }
        };
        let (mut claimed, mut gone, mut stale) = (0, Vec::new(), Vec::new());
        for ((entry, ..), answer) in claims.into_iter().zip(written) {
            match answer {
                Written::Done(job) => {
                    self.picture.claimed(&job);
                    claimed += 1;
                    gone.push(entry);
                }
                Written::Refused | Written::Gone => stale.push(entry),
                // Loaded anew in the next round.
                Written::Conflict => {}
            }
        }
        if !gone.is_empty() {
            self.context.stores.queue.remove(&gone).await?;
        }
        self.drop_entries(stale).await?;
        Ok(claimed)
    }

    /// Drops entries whose jobs were seen not to wait. One that has come back to the queue meanwhile is put back.
    async fn drop_entries(&self, stale: Vec<QueueEntry>) -> Result<(), StoreError> {
        if stale.is_empty() {
            return Ok(());
        }
        self.context.stores.queue.remove(&stale).await?;
        let ids: Vec<JobId> = stale.iter().map(|entry| entry.job).collect();
        let rows = self.context.stores.jobs.get_many(&ids).await?;
        let back: Vec<QueueEntry> = rows.iter().filter_map(QueueEntry::of).collect();
        if !back.is_empty() {
            self.context.stores.queue.push(&back).await?;
        }
        Ok(())
    }
}
