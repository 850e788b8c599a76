//! Which waiting job goes to which worker. Pure: a picture in, assignments out; nothing is written or sent here.
//!
//! The account is picked by [`FairShare`]; within it the best score of all its lanes goes first; within a lane of one
//! class the order is never changed. Such a lane whose head fits nowhere steps aside for this round, so a class that
//! no worker fits never stands before one that some worker does. In a mixed lane each job is judged alone.
//!
//! A round sees only as much of the queue as it was given. Where it would have to know more (the turn is an
//! account's of which nothing was looked at, or a lane has more than was read), it stops: what it has placed is right, and
//! the next round goes on. Only an account of which nothing fitted that was read is left out instead: it may have nothing
//! that fits, and must not hold up the others while that is found out.
//!
//! A worker has one suspect at the most: a job that was lost repeatedly may be what ends its workers, and would take the
//! same others along each time.
//!
//! Among the workers that fit, the *least loaded* one is taken (least use of its scarcest resource after the
//! placement; ties by name). Packing tightly would keep larger holes for larger jobs, but starting a container costs
//! its host work that no reservation covers, and a lost worker takes along what was packed onto it. Large jobs get
//! their room by [`Reservations`].

mod reserve;
mod seat;

use std::collections::VecDeque;
use std::sync::Arc;

use common::fit::Wanted;
use common::ids::{AccountId, JobId, PoolName};
use common::job::{Job, JobSpec, Resources};

pub use self::reserve::Reservations;
pub use self::seat::{Kept, Seat};
use crate::fair_share::{FairShare, Turn, Turns};

/// A waiting job as far as placement is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub job: JobId,
    pub score: u64,
    pub suspect: bool,
    spec: Arc<JobSpec>,
}

impl Candidate {
    pub fn of(job: &Job, score: u64) -> Self {
        Self {
            job: job.id,
            score,
            suspect: job.is_suspect(),
            spec: job.spec.clone(),
        }
    }

    pub fn resources(&self) -> Resources {
        self.spec.resources
    }

    pub fn pool(&self) -> &PoolName {
        &self.spec.pool
    }

    /// What it asks of its worker.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            suspect: self.suspect,
            ..Wanted::of(&self.spec)
        }
    }
}

/// The first jobs of a lane, in order, as far as they were read.
#[derive(Debug, Clone, Default)]
pub struct Heads {
    pub jobs: VecDeque<Candidate>,
    /// More wait behind them that were not read; none of those stands before this place.
    pub unread: Option<(u64, JobId)>,
    /// Jobs of several classes: one that fits nowhere holds up none behind it.
    pub mixed: bool,
}

/// An account that waits, with those of its lanes that may be served.
#[derive(Debug, Clone)]
pub struct Party {
    pub account: AccountId,
    pub terms: Terms,
    /// Nothing of its lanes was read: when its turn comes the round ends.
    pub unread: bool,
    pub lanes: Vec<Heads>,
}

/// What an account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    pub weight: u32,
    /// Attempts that it has now.
    pub held: u32,
    /// How many more it may have at the same time; none: as many as fit.
    pub room: Option<u32>,
}

impl Terms {
    pub fn has_room(&self) -> bool {
        self.room != Some(0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub job: JobId,
    /// Index into the seats given.
    pub seat: usize,
    /// Index into the parties given, and into the party's lanes.
    pub party: usize,
    pub lane: usize,
}

/// What came of a round.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub placements: Vec<Placement>,
    /// Heads that fit nowhere now, with the party and the lane that they hold up.
    pub blocked: Vec<(usize, usize, Candidate)>,
    /// More could be placed, of what was not read.
    pub unfinished: bool,
}

/// Places up to `limit` jobs and takes their resources from the seats.
pub fn place(parties: &mut [Party], seats: &mut [Seat], share: &mut FairShare, limit: usize) -> Round {
    let mut round = Round::default();
    let mut turns = turns(share, parties.iter().map(|party| (&party.account, party.terms)));
    let mut tried = vec![Tried::default(); parties.len()];
    while round.placements.len() < limit {
        let Some(turn) = turns.pop() else { break };
        let party = &mut parties[turn.account];
        match party.next() {
            Next::None => {}
            Next::Unread => {
                round.unfinished = true;
                if !tried[turn.account].in_vain() {
                    break;
                }
            }
            Next::Job(lane, candidate) => {
                if let Some(seat) = choose(&candidate, seats) {
                    seats[seat].take(&candidate);
                    tried[turn.account].placed = true;
                    share.charge(&party.account, party.terms.weight);
                    party.terms.room = party.terms.room.map(|room| room.saturating_sub(1));
                    round.placements.push(Placement {
                        job: candidate.job,
                        seat,
                        party: turn.account,
                        lane,
                    });
                    turns.push(turn.served());
                } else {
                    tried[turn.account].refused = true;
                    let heads = &mut party.lanes[lane];
                    if !heads.mixed {
                        heads.jobs.clear();
                        heads.unread = None;
                        round.blocked.push((turn.account, lane, candidate));
                    }
                    turns.push(turn);
                }
            }
        }
    }
    round
}

/// How many of the next `places` each of `parties` would get if everything fitted: how much of their lanes to read.
/// `waiting` is how many jobs each has.
pub fn expect(share: &FairShare, parties: &[(&AccountId, Terms, u64)], places: usize) -> Vec<usize> {
    let mut turns = turns(
        share,
        parties.iter().map(|(account, terms, _)| (*account, *terms)),
    );
    let mut each = vec![0; parties.len()];
    for _ in 0..places {
        let Some(turn) = turns.pop() else { break };
        let (_, terms, waiting) = &parties[turn.account];
        each[turn.account] += 1;
        let taken = each[turn.account] as u64;
        if taken < *waiting && terms.room.is_none_or(|room| taken < u64::from(room)) {
            turns.push(turn.served());
        }
    }
    each
}

fn turns<'a>(share: &FairShare, parties: impl Iterator<Item = (&'a AccountId, Terms)>) -> Turns {
    let mut turns = Turns::default();
    for (number, (account, terms)) in parties.enumerate() {
        if terms.has_room() {
            turns.push(Turn::new(number, share.pass(account), terms.held, terms.weight));
        }
    }
    turns
}

/// What became of an account's jobs in a round.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    placed: bool,
    refused: bool,
}

impl Tried {
    const fn in_vain(self) -> bool {
        self.refused && !self.placed
    }
}

enum Next {
    Job(usize, Candidate),
    None,
    Unread,
}

impl Party {
    /// Takes the first job of all lanes.
    fn next(&mut self) -> Next {
        if !self.terms.has_room() {
            return Next::None;
        }
        if self.unread {
            return Next::Unread;
        }
        let first = self
            .lanes
            .iter()
            .enumerate()
            .filter_map(|(lane, heads)| match heads.jobs.front() {
                Some(head) => Some((head.score, head.job, lane, true)),
                None => heads.unread.map(|(score, job)| (score, job, lane, false)),
            });
        let lane = match first.min() {
            Some((_, _, lane, true)) => lane,
            Some((_, _, _, false)) => return Next::Unread,
            None => return Next::None,
        };
        match self.lanes[lane].jobs.pop_front() {
            Some(job) => Next::Job(lane, job),
            None => Next::None,
        }
    }
}

fn choose(job: &Candidate, seats: &[Seat]) -> Option<usize> {
    let wanted = job.resources();
    (0..seats.len())
        .filter(|&seat| seats[seat].fits(job))
        .min_by_key(|&seat| (seats[seat].load_with(&wanted), &seats[seat].worker))
}

#[cfg(test)]
mod tests;
