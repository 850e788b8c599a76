//! Gives waiting jobs to workers: lanes, heads of the queue, rows, placement, one batch of claims; then the queue is
//! told.
//!
//! The index never decides: a job is claimed in its row by compare-and-set, and only then leaves the queue. Woken by
//! hints, and by a tick where hints are lost.

use std::collections::HashMap;
use std::time::Duration;

use common::ids::{AttemptId, JobId};
use common::job::{Job, Lease};
use common::lifecycle::JobEvent;
use common::queue::QueueEntry;
use common::store::StoreError;
use common::time::Mono;

use super::board::{Board, Open};
use super::picture::Picture;
use super::reading::{Reading, Scope, read};
use super::reserve::Keeper;
use super::term::{DutyError, Term, Written};
use super::wakes::Wakes;
use super::{Context, index};
use crate::fair_share::FairShare;
use crate::placement::{Placement, Round, Seat, Terms, place};

/// Without a hint everything happens within this.
pub const TICK: Duration = Duration::from_millis(250);

/// While a mixed lane is being walked or a listing is owed: 1,600 jobs of each such lane in a second, which a small
/// machine does not feel.
const BRISK_TICK: Duration = Duration::from_millis(20);

/// Claims in one write: enough that the cost of a durable write is shared by many, few enough to stay within
/// milliseconds.
const BATCH: usize = 256;

/// How often workers are looked at again when hints say that something about capacity changed.
const WORKERS_LOOK: Duration = Duration::from_millis(200);

/// Such looks take at most this part of the time, however many workers there are.
const WORKERS_LOOK_PART: u32 = 10;

/// Lanes listed in a millisecond at the most: with 10,000 of them, a listing each 10 ms, a tenth of the leader's time.
const LANES_PER_MS: usize = 1_000;

/// Accounts read beyond those whose turn it is, at the most; it grows to this while nothing of what was read fits.
const BEYOND_MAX: usize = 256;

/// How often it is looked at which lanes others were placed past.
const PASS_OVER_LOOK: Duration = Duration::from_millis(50);

pub struct Dispatcher {
    context: Context,
    term: Term,
    wakes: Wakes,
    picture: Picture,
    board: Board,
    share: FairShare,
    keeper: Keeper,
    looked_workers: Mono,
    workers_look_took: Duration,
    looked_all: Mono,
    listed: Mono,
    passed_over: Mono,
    /// A look at everything is wanted: hints were lost, or the fate of a claim is unknown.
    look_all: bool,
    look_workers: bool,
    list: bool,
    /// Some worker had room in the last round.
    has_free: bool,
    beyond: usize,
}

/// What a round came to.
#[derive(Debug, Default)]
struct Progress {
    claimed: usize,
    /// Another round may find more at once.
    more: bool,
}

impl Dispatcher {
    pub fn new(context: Context, term: Term, wakes: Wakes) -> Self {
        let now = context.clock.mono();
        let keeper = Keeper::new(now);
        Self {
            context,
            term,
            wakes,
            picture: Picture::default(),
            board: Board::default(),
            share: FairShare::default(),
            keeper,
            looked_workers: now,
            workers_look_took: Duration::ZERO,
            looked_all: now,
            listed: now,
            passed_over: now,
            look_all: true,
            look_workers: true,
            list: true,
            has_free: false,
            beyond: 0,
        }
    }

    /// Dispatches until the term is over.
    pub async fn run(mut self) -> DutyError {
        loop {
            match self.round().await {
                // There may be more: go on at once.
                Ok(progress) if progress.claimed > 0 || progress.more => tokio::task::yield_now().await,
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
        let brisk = self.has_free && (self.list || self.board.is_brisk());
        let tick = if brisk { BRISK_TICK } else { TICK };
        tokio::select! {
            () = self.wakes.wait() => {}
            () = tokio::time::sleep(tick) => {}
        }
    }

    async fn round(&mut self) -> Result<Progress, DutyError> {
        self.term.check()?;
        let stores = &self.context.stores;
        if !stores.queue.is_built().await? {
            index::rebuild(stores, &self.term).await?;
            self.list = true;
        }
        let begun = self.context.clock.mono();
        self.look().await?;
        let now = self.context.clock.mono();
        let told = told_at(begun, self.looked_workers, now);
        let (mut seats, leases) = self.picture.seats(told, self.context.config.times.contact);
        self.has_free = seats.iter().any(|seat| seat.free().slots > 0);
        if seats.is_empty() {
            return Ok(Progress::default());
        }
        self.list(now).await?;
        self.keeper.reservations.mark(&mut seats);
        let free = seats
            .iter()
            .map(|seat| seat.free().slots as usize)
            .sum::<usize>()
            .min(BATCH);
        let terms = self.terms().await;
        let progress = if free > 0 {
            self.serve(free, &mut seats, &leases, &terms).await?
        } else {
            Progress::default()
        };
        if self.keeper.is_due(&self.context) {
            self.keeper
                .look(&self.context, &mut self.board, &self.share, &terms, &mut seats)
                .await?;
            self.keeper.tell(&self.context).await;
        }
        Ok(progress)
    }

    /// Brings the picture up to date: all of it each sweep, workers and changed jobs as hinted.
    async fn look(&mut self) -> Result<(), StoreError> {
        let woken = self.wakes.take();
        let stores = &self.context.stores;
        let now = self.context.clock.mono();
        self.look_workers |= woken.capacity || woken.lost;
        self.look_all |= woken.lost;
        self.list |= woken.queue || woken.lost;
        if woken.capacity || woken.lost {
            self.board.wake();
        }
        if self.look_all || now.since(self.looked_all) >= self.context.config.times.sweep {
            self.picture.refresh_workers(stores, now).await?;
            self.picture.refresh_held(stores).await?;
            (self.looked_all, self.looked_workers) = (now, now);
            (self.look_all, self.look_workers) = (false, false);
            self.list = true;
            self.board.forget_heads();
            return Ok(());
        }
        let pause = WORKERS_LOOK.max(WORKERS_LOOK_PART * self.workers_look_took);
        if self.look_workers && now.since(self.looked_workers) >= pause {
            self.picture.refresh_workers(stores, now).await?;
            self.looked_workers = now;
            self.workers_look_took = self.context.clock.mono().since(now);
            self.look_workers = false;
        }
        self.picture.refresh_changed(stores, woken.jobs).await
    }

    /// Lists the lanes anew when something may have come into the queue, but not so often that it takes much time.
    async fn list(&mut self, now: Mono) -> Result<(), StoreError> {
        let since = now.since(self.listed);
        let pause = Duration::from_millis((self.board.lanes() / LANES_PER_MS) as u64);
        if (self.list && since >= pause) || since >= TICK {
            let listing = self.context.stores.queue.lanes().await?;
            self.board.refresh(listing);
            self.listed = now;
            self.list = false;
        }
        Ok(())
    }

    /// As the board's accounts.
    async fn terms(&self) -> Vec<Terms> {
        let mut terms = Vec::with_capacity(self.board.accounts.len());
        for waiting in &self.board.accounts {
            let settings = self.context.accounts.settings(&waiting.account).await;
            let held = self.picture.held_by(&waiting.account);
            terms.push(Terms {
                weight: settings.weight,
                held,
                room: settings.running_max.map(|most| most.saturating_sub(held)),
            });
        }
        terms
    }

    async fn serve(
        &mut self,
        free: usize,
        seats: &mut [Seat],
        leases: &[Lease],
        terms: &[Terms],
    ) -> Result<Progress, DutyError> {
        let mut open = self.board.open(terms, seats, &self.keeper.reservations);
        close_blocked(&self.context, &mut self.board, &mut open, seats).await?;
        if open.is_empty() {
            return Ok(Progress::default());
        }
        let scope = Scope {
            places: free,
            beyond: self.beyond,
        };
        let mut reading = read(
            &self.context.stores,
            &self.board,
            &open,
            terms,
            &self.share,
            scope,
        )
        .await?;
        self.learn(&open, &reading);
        let round = place(&mut reading.parties, seats, &mut self.share, free);
        self.note(&open, &reading, &round, terms, seats);
        let Reading {
            mut rows,
            stale,
            outdated,
            ..
        } = reading;
        self.list |= outdated || !stale.is_empty();
        // Without anything new to know, all accounts but those past the most that a round reads have been looked at.
        let known = round.blocked.is_empty() && stale.is_empty() && self.beyond >= BEYOND_MAX;
        let more = round.unfinished && !known;
        index::drop_stale(&self.context.stores, &stale).await?;
        let claimed = self.claim(round.placements, leases, &mut rows).await?;
        self.beyond = match (claimed, round.unfinished) {
            (0, true) => (2 * self.beyond).clamp(8, BEYOND_MAX),
            _ => 0,
        };
        Ok(Progress { claimed, more })
    }

    /// What the first job of a lane tells of all of its class.
    fn learn(&mut self, open: &[Open], reading: &Reading) {
        for (open, party) in open.iter().zip(&reading.parties) {
            for (lane, heads) in open.lanes.iter().zip(&party.lanes) {
                if let Some(first) = heads.jobs.front() {
                    self.board.learn(open.account, *lane, first);
                }
            }
        }
    }

    /// Keeps on the board what the round has shown.
    fn note(&mut self, open: &[Open], reading: &Reading, round: &Round, terms: &[Terms], seats: &[Seat]) {
        let mut placed: HashMap<(usize, usize), usize> = HashMap::new();
        for placement in &round.placements {
            let open = &open[placement.party];
            self.board.placed(open.account, open.lanes[placement.lane]);
            self.keeper.reservations.release(placement.job);
            *placed.entry((placement.party, placement.lane)).or_default() += 1;
        }
        for (party, lane, head) in &round.blocked {
            self.board
                .block(open[*party].account, open[*party].lanes[*lane], head);
        }
        for (party, lane, looked, end) in &reading.windows {
            let gone = placed.get(&(*party, *lane)).copied().unwrap_or(0);
            self.board.walked(
                open[*party].account,
                open[*party].lanes[*lane],
                looked.saturating_sub(gone),
                *end,
            );
        }
        let now = self.context.clock.mono();
        if !round.placements.is_empty() && now.since(self.passed_over) >= PASS_OVER_LOOK {
            let feasible = self.board.feasible(terms, seats);
            self.board.pass_over(&feasible, open);
            self.passed_over = now;
        }
    }

    /// How many entries have left the queue by it.
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
                for (_, job, attempt, lease) in &claims {
                    self.picture.maybe_claimed(job, *attempt, lease);
                }
                self.list = true;
                return Err(error);
            }
        };
        let (mut gone, mut stale) = (Vec::new(), Vec::new());
        for ((entry, ..), answer) in claims.into_iter().zip(written) {
            match answer {
                Written::Done(job) => {
                    self.picture.claimed(&job);
                    gone.push(entry);
                }
                Written::Refused | Written::Gone => stale.push(entry),
                // Loaded anew in the next round.
                Written::Conflict => self.list = true,
                // Out of the others' way; the next walk over the rows tries it once more.
                Written::Unchangeable => gone.push(entry),
            }
        }
        let progress = gone.len();
        if !gone.is_empty() {
            self.context.stores.queue.remove(&gone).await?;
        }
        self.list |= !stale.is_empty();
        index::drop_stale(&self.context.stores, &stale).await?;
        Ok(progress)
    }
}

/// The moment as of which the picture tells who is silent. What a look of this very round has taken is nobody's silence:
/// on a machine where it takes longer than the contact limit, nobody would ever be given anything.
const fn told_at(begun: Mono, looked: Mono, now: Mono) -> Mono {
    if looked.as_millis() >= begun.as_millis() {
        looked
    } else {
        now
    }
}

/// Leaves out lanes whose head is still one that fits nowhere: their entries need not be read again.
async fn close_blocked(
    context: &Context,
    board: &mut Board,
    open: &mut Vec<Open>,
    seats: &[Seat],
) -> Result<(), StoreError> {
    let mut lanes = Vec::new();
    for one in open.iter() {
        let blocked = one
            .lanes
            .iter()
            .filter(|lane| board.is_blocked(one.account, **lane));
        lanes.extend(blocked.map(|lane| (one.account, *lane)));
    }
    if lanes.is_empty() {
        return Ok(());
    }
    let ranges: Vec<_> = lanes
        .iter()
        .map(|(account, lane)| (board.lane(*account, *lane), 0, 1))
        .collect();
    let heads = context.stores.queue.heads_of(&ranges).await?;
    // In the order of the open ones, so each is looked at once.
    let mut judged = lanes.into_iter().zip(heads).peekable();
    for one in open.iter_mut() {
        let account = one.account;
        one.lanes.retain(
            |lane| match judged.next_if(|(place, _)| *place == (account, *lane)) {
                Some((_, heads)) => !board.still_blocked(account, *lane, heads.first(), seats),
                None => true,
            },
        );
    }
    open.retain(|one| !one.lanes.is_empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_takes_long_silences_nobody() {
        let at = Mono::from_millis;
        assert_eq!(
            told_at(at(5), at(5), at(5_000)),
            at(5),
            "it was looked in this round"
        );
        assert_eq!(told_at(at(5), at(4), at(6)), at(6), "an older look grows old");
    }
}
