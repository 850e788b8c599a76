//! What one round reads of the queue and of the rows: as much as it can place, from the lanes that may be served.

use std::collections::HashMap;
use std::ops::Range;

use common::ids::JobId;
use common::job::Job;
use common::queue::{Lane, QueueEntry};
use common::store::{StoreError, Stores};

use super::board::{Board, MIXED_WINDOW, Open};
use super::index;
use crate::fair_share::FairShare;
use crate::placement::{Candidate, Heads, Party, Terms, expect};

/// Entries read of one lane for each that its account may get, where it has several lanes: they are seldom even.
const UNEVEN: usize = 4;

/// Mixed lanes of one account that a round reads windows of; they take turns.
const MIXED_LANES: usize = 4;

/// How much a round reads.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Places that there are to give.
    pub places: usize,
    /// Accounts read beyond those whose turn it is, in case that nothing of those fits.
    pub beyond: usize,
}

#[derive(Debug, Default)]
pub struct Reading {
    /// As the open accounts and lanes that were given.
    pub parties: Vec<Party>,
    pub rows: HashMap<JobId, (QueueEntry, Job)>,
    /// Mixed lanes: party, lane, entries read, whether these were the last ones.
    pub windows: Vec<(usize, usize, usize, bool)>,
    /// Entries of jobs that do not wait any more.
    pub stale: Vec<QueueEntry>,
    /// A lane was listed and is empty.
    pub outdated: bool,
}

/// What is asked of the queue: party, lane, and `(lane, skip, limit)`.
struct Ask {
    party: usize,
    lane: usize,
    mixed: bool,
    range: (Lane, usize, usize),
}

/// Reads entries, then the rows of those that may be placed.
///
/// # Errors
/// [`StoreError`]
pub async fn read(
    stores: &Stores,
    board: &Board,
    open: &[Open],
    terms: &[Terms],
    share: &FairShare,
    scope: Scope,
) -> Result<Reading, StoreError> {
    let plan = Plan::new(board, open, terms, share, scope);
    let answers = stores.queue.heads_of(&plan.ranges()).await?;
    let (mut reading, chosen) = plan.choose(board, open, terms, &answers);
    let ids: Vec<JobId> = chosen.iter().map(|(_, entry)| entry.job).collect();
    let rows = stores.jobs.get_many(&ids).await?;
    plan.fill(&mut reading, chosen, rows);
    Ok(reading)
}

/// What to ask of the queue. Pure.
pub struct Plan {
    /// How many places each party may get.
    shares: Vec<usize>,
    /// By party, then by lane.
    asks: Vec<Ask>,
}

/// An entry whose row is to be read, with the number of the ask that it answers.
type Chosen = (usize, QueueEntry);

impl Plan {
    pub fn new(board: &Board, open: &[Open], terms: &[Terms], share: &FairShare, scope: Scope) -> Self {
        let shares = shares(board, open, terms, share, scope);
        let asks = asks(board, open, &shares);
        Self { shares, asks }
    }

    pub fn ranges(&self) -> Vec<(Lane, usize, usize)> {
        self.asks.iter().map(|ask| ask.range.clone()).collect()
    }

    /// The entries whose rows are read: of mixed lanes all, of the others as many as the account may get, best first.
    /// What is left unread of a lane is noted in its heads.
    pub fn choose(
        &self,
        board: &Board,
        open: &[Open],
        terms: &[Terms],
        answers: &[Vec<QueueEntry>],
    ) -> (Reading, Vec<Chosen>) {
        let parties = open.iter().zip(&self.shares).map(|(open, share)| Party {
            account: board.accounts[open.account].account.clone(),
            terms: terms[open.account],
            unread: *share == 0,
            lanes: vec![Heads::default(); open.lanes.len()],
        });
        let mut reading = Reading {
            parties: parties.collect(),
            ..Reading::default()
        };
        let (mut chosen, mut from) = (Vec::new(), 0);
        while from < self.asks.len() {
            let party = self.asks[from].party;
            let asks = self.asks[from..].iter().take_while(|ask| ask.party == party);
            let until = from + asks.count();
            self.choose_of(from..until, answers, &mut reading, &mut chosen);
            from = until;
        }
        (reading, chosen)
    }

    /// Of one party, whose asks these are.
    fn choose_of(
        &self,
        asks: Range<usize>,
        answers: &[Vec<QueueEntry>],
        reading: &mut Reading,
        chosen: &mut Vec<Chosen>,
    ) {
        let party = self.asks[asks.start].party;
        let mut ordered: Vec<(u64, JobId, usize)> = Vec::new();
        for number in asks.clone() {
            let (ask, entries) = (&self.asks[number], &answers[number]);
            let (_, skip, limit) = ask.range;
            reading.outdated |= entries.is_empty() && skip == 0;
            if ask.mixed {
                reading.parties[party].lanes[ask.lane].mixed = true;
                let window = (party, ask.lane, entries.len(), entries.len() < limit);
                reading.windows.push(window);
                chosen.extend(entries.iter().map(|entry| (number, entry.clone())));
            } else {
                ordered.extend(entries.iter().map(|entry| (entry.score, entry.job, number)));
            }
        }
        ordered.sort_unstable();
        let mut taken = vec![0; asks.len()];
        for (_, _, number) in ordered.iter().take(self.shares[party]) {
            let place = &mut taken[*number - asks.start];
            chosen.push((*number, answers[*number][*place].clone()));
            *place += 1;
        }
        for number in asks.clone().filter(|number| !self.asks[*number].mixed) {
            let (ask, entries) = (&self.asks[number], &answers[number]);
            let full = entries.len() == ask.range.2;
            // Behind a full answer there may be more: not before its last entry.
            let next = entries
                .get(taken[number - asks.start])
                .or_else(|| entries.last().filter(|_| full));
            reading.parties[party].lanes[ask.lane].unread = next.map(|entry| (entry.score, entry.job));
        }
    }

    /// Puts the rows to their entries.
    pub fn fill(&self, reading: &mut Reading, chosen: Vec<Chosen>, rows: Vec<Job>) {
        let mut rows: HashMap<JobId, Job> = rows.into_iter().map(|job| (job.id, job)).collect();
        for (ask, entry) in chosen {
            match rows.remove(&entry.job) {
                Some(job) if index::waits(&job) => {
                    let candidate = Candidate::of(&job, entry.score);
                    let ask = &self.asks[ask];
                    let heads = &mut reading.parties[ask.party].lanes[ask.lane];
                    heads.jobs.push_back(candidate);
                    reading.rows.insert(job.id, (entry, job));
                }
                Some(_) | None => reading.stale.push(entry),
            }
        }
    }
}

fn shares(board: &Board, open: &[Open], terms: &[Terms], share: &FairShare, scope: Scope) -> Vec<usize> {
    let parties: Vec<_> = open
        .iter()
        .map(|open| {
            let waiting = &board.accounts[open.account];
            let jobs = open.lanes.iter().map(|lane| waiting.lanes[*lane].waiting).sum();
            (&waiting.account, terms[open.account], jobs)
        })
        .collect();
    let mut shares = expect(share, &parties, scope.places);
    let unread = shares.iter_mut().filter(|share| **share == 0);
    unread.take(scope.beyond).for_each(|share| *share = 1);
    shares
}

fn asks(board: &Board, open: &[Open], shares: &[usize]) -> Vec<Ask> {
    let mut asks = Vec::new();
    for (party, (open, &share)) in open.iter().zip(shares).enumerate() {
        if share == 0 {
            continue;
        }
        let each = match open.lanes.len() {
            1 => share,
            lanes => (UNEVEN * share / lanes).clamp(1, share),
        };
        let waiting = &board.accounts[open.account];
        let is_mixed = |lane: &usize| board.is_mixed(open.account, open.lanes[*lane]);
        let mut windows: Vec<usize> = (0..open.lanes.len()).filter(is_mixed).collect();
        if windows.len() > MIXED_LANES {
            let turn = waiting.windows % windows.len();
            windows.rotate_left(turn);
            windows.truncate(MIXED_LANES);
        }
        for (lane, &number) in open.lanes.iter().enumerate() {
            let mixed = is_mixed(&lane);
            if mixed && !windows.contains(&lane) {
                continue;
            }
            let (skip, limit) = if mixed {
                (waiting.lanes[number].cursor, MIXED_WINDOW)
            } else {
                (0, each)
            };
            asks.push(Ask {
                party,
                lane,
                mixed,
                range: (board.lane(open.account, number), skip, limit),
            });
        }
    }
    asks
}
