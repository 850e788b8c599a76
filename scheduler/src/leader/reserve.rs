//! Finds the jobs that [`Reservations`] are for, drops reservations whose job does not wait any more, and
//! tells what is held back, so that api can explain why others wait.
//!
//! Rows say whether a job waits, not the queue: a lane whose head fits nowhere is read once a sweep, so an entry that has
//! outlived its job would keep its room until then. Such entries are dropped here, and so are those at the head of lanes
//! that others were placed past.
//!
//! Looked at now and then, and bounded: so many lanes a look, taking turns.

use std::collections::HashMap;
use std::time::Duration;

use common::ids::JobId;
use common::job::Job;
use common::queue::{HELD_BACK_LIFE, HeldBack, QueueEntry};
use common::store::StoreError;
use common::time::Mono;

use super::board::{Board, MIXED_WINDOW};
use super::{Context, index};
use crate::fair_share::FairShare;
use crate::placement::{Candidate, Reservations, Seat, Terms};

/// How often reservations are looked at: little against the times that they are about.
const LOOK: Duration = Duration::from_millis(250);

/// Lanes looked at in one look.
const LANES_MAX: usize = 64;

/// Rows read in one look.
const ROWS_MAX: usize = 128;

/// Reservations of one fleet: each is looked up in the queue in each look.
const RESERVATIONS_MAX: usize = 32;

/// What is held back is told again after this long, should the queue have lost it or an earlier leader have
/// spoken last.
const TELL_AGAIN: Duration = Duration::from_secs(5);

// or what stands would be forgotten between two tellings
const _: () = assert!(TELL_AGAIN.as_secs() * 4 <= HELD_BACK_LIFE.as_secs());

pub struct Keeper {
    pub reservations: Reservations,
    /// None before the first time: an earlier leader's word still stands then.
    told: Option<(Mono, Vec<HeldBack>)>,
    looked: Mono,
    looks: usize,
}

impl Keeper {
    pub fn new(now: Mono) -> Self {
        Self {
            reservations: Reservations::default(),
            told: None,
            looked: now,
            looks: 0,
        }
    }

    /// Whether it is time for a look.
    pub fn is_due(&self, context: &Context) -> bool {
        context.clock.mono().since(self.looked) >= LOOK.min(context.config.queueing.reserve_after)
    }

    /// One look at what waits.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn look(
        &mut self,
        context: &Context,
        board: &mut Board,
        share: &FairShare,
        terms: &[Terms],
        seats: &mut [Seat],
    ) -> Result<(), StoreError> {
        self.looked = context.clock.mono();
        let settings = &context.config.queueing;
        self.drop_idle(context, board, terms).await?;
        let lanes = self.passed_over(board, share, terms, seats);
        if lanes.is_empty() {
            return Ok(());
        }
        let heads = self.overdue(context, board, &lanes).await?;
        let rows = rows(context, heads.iter().map(|(_, entry)| entry)).await?;
        let (mut served, mut stale) = (Vec::new(), Vec::new());
        for ((account, lane), entry) in heads {
            let Some(job) = rows.get(&entry.job).filter(|job| index::waits(job)) else {
                stale.push(entry);
                continue;
            };
            if served.contains(&(account, lane)) || self.reservations.len() >= RESERVATIONS_MAX {
                continue;
            }
            let candidate = Candidate::of(job, entry.score);
            if self.reservations.grant(
                &entry,
                &candidate,
                seats,
                settings.reserved_share,
                context.clock.now(),
            ) {
                tracing::info!(
                    job = %entry.job,
                    since = ?entry.since(),
                    "a worker is kept free for a job that waits too long"
                );
                served.push((account, lane));
            }
        }
        index::drop_stale(&context.stores, &stale).await
    }

    /// Tells what is held back, where that is news.
    ///
    /// Only explanations hang on it, so a queue that does not take it is told later. An empty list is not told again:
    /// if an earlier leader that stood still speaks after us, its word ends by itself ([`HELD_BACK_LIFE`]).
    pub async fn tell(&mut self, context: &Context) {
        let now = context.clock.mono();
        let reservations = self.reservations.told();
        let stands = self.told.as_ref().is_some_and(|(at, told)| {
            *told == reservations && (told.is_empty() || now.since(*at) < TELL_AGAIN)
        });
        if stands {
            return;
        }
        match context.stores.queue.tell_reservations(&reservations).await {
            Ok(()) => self.told = Some((now, reservations)),
            Err(error) => tracing::debug!(%error, "what is held back could not be told"),
        }
    }

    /// Drops reservations of jobs that left the queue, that are not the head of their lane any more, or whose
    /// account has reached its limit. In a mixed lane the walk is led to the job.
    async fn drop_idle(
        &mut self,
        context: &Context,
        board: &mut Board,
        terms: &[Terms],
    ) -> Result<(), StoreError> {
        let held: Vec<QueueEntry> = self.reservations.iter().map(|one| one.entry.clone()).collect();
        let rows = rows(context, &held).await?;
        let mut stale = Vec::new();
        for entry in held {
            if !rows.get(&entry.job).is_some_and(index::waits) {
                self.reservations.release(entry.job);
                stale.push(entry);
                continue;
            }
            let place = context.stores.queue.place(&entry).await?;
            let place = place.and_then(|place| usize::try_from(place).ok());
            let mixed = entry.lane.class.is_mixed();
            let stays = place.is_some_and(|place| place == 0 || mixed);
            let found = board.find(&entry.lane);
            let has_room = found.is_none_or(|(account, _)| terms.get(account).is_none_or(Terms::has_room));
            if !(stays && has_room) {
                self.reservations.release(entry.job);
            } else if let (true, Some(place), Some((account, lane))) = (mixed, place, found) {
                board.accounts[account].lanes[lane].cursor = place;
            }
        }
        index::drop_stale(&context.stores, &stale).await
    }

    /// Lanes that others were placed past, of the accounts whose turn it is: none waits that was served less.
    fn passed_over(
        &mut self,
        board: &Board,
        share: &FairShare,
        terms: &[Terms],
        seats: &[Seat],
    ) -> Vec<(usize, usize)> {
        let feasible = board.feasible(terms, seats);
        let pass = |account: usize| share.pass(&board.accounts[account].account);
        let Some(lowest) = feasible.iter().map(|open| pass(open.account)).min() else {
            return Vec::new();
        };
        let mut lanes = Vec::new();
        for open in feasible.iter().filter(|open| pass(open.account) == lowest) {
            let waiting = &board.accounts[open.account];
            let passed_over = open.lanes.iter().filter(|lane| waiting.lanes[**lane].passed_over);
            lanes.extend(passed_over.map(|lane| (open.account, *lane)));
        }
        if lanes.len() > LANES_MAX {
            let begin = self.looks.wrapping_mul(LANES_MAX) % lanes.len();
            lanes.rotate_left(begin);
            lanes.truncate(LANES_MAX);
        }
        self.looks = self.looks.wrapping_add(1);
        lanes
    }

    /// What has waited too long at the head of these lanes, or in a window of a mixed one; longest first.
    async fn overdue(
        &self,
        context: &Context,
        board: &mut Board,
        lanes: &[(usize, usize)],
    ) -> Result<Vec<((usize, usize), QueueEntry)>, StoreError> {
        let ranges: Vec<_> = lanes
            .iter()
            .map(|&(account, lane)| {
                let (skip, limit) = if board.is_mixed(account, lane) {
                    (board.accounts[account].lanes[lane].reserve_cursor, MIXED_WINDOW)
                } else {
                    (0, 1)
                };
                (board.lane(account, lane), skip, limit)
            })
            .collect();
        let heads = context.stores.queue.heads_of(&ranges).await?;
        let (now, limit) = (context.clock.now(), context.config.queueing.reserve_after);
        let mut overdue = Vec::new();
        for ((place, (_, _, asked)), entries) in lanes.iter().zip(&ranges).zip(heads) {
            let state = &mut board.accounts[place.0].lanes[place.1];
            let end = entries.len() < *asked;
            state.reserve_cursor = if end {
                0
            } else {
                state.reserve_cursor + entries.len()
            };
            let late = entries
                .into_iter()
                .filter(|entry| now.since(entry.since()) >= limit && !self.reservations.holds(entry.job));
            overdue.extend(late.map(|entry| (*place, entry)));
        }
        overdue.sort_by_key(|(_, entry)| (entry.score, entry.job));
        overdue.truncate(ROWS_MAX);
        Ok(overdue)
    }
}

/// None is read where there are none.
async fn rows(
    context: &Context,
    entries: impl IntoIterator<Item = &QueueEntry>,
) -> Result<HashMap<JobId, Job>, StoreError> {
    let ids: Vec<JobId> = entries.into_iter().map(|entry| entry.job).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = context.stores.jobs.get_many(&ids).await?;
    Ok(rows.into_iter().map(|job| (job.id, job)).collect())
}
