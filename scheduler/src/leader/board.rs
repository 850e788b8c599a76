//! What waits, as the leader sees it between two looks at the queue: accounts, their lanes, and what is known of each
//! class. Nothing here does I/O.
//!
//! It lets a round look at little: a class is judged by the smallest size that it can hold before any entry of it is
//! read, and a head that fitted nowhere is remembered with its size until another stands there, or until the next
//! sweep. So a round reads as many entries as it can place, plus one for each lane whose fate is not known yet, however
//! many wait that no worker fits. What is remembered is bounded by the lanes, which the queue bounds for each account.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::ids::{AccountId, JobId, PoolName};
use common::job::Resources;
use common::queue::{ClassKey, Lane, QueueEntry};

use crate::placement::{Candidate, Reservations, Seat, Terms};

/// Entries of a mixed lane that are judged at a time: a bounded part of a round, the lane being walked from round to
/// round.
pub const MIXED_WINDOW: usize = 32;

#[derive(Debug, Default)]
pub struct Board {
    pub accounts: Vec<Waiting>,
    classes: Vec<Class>,
    by_key: HashMap<ClassKey, usize>,
}

/// An account that has jobs waiting.
#[derive(Debug)]
pub struct Waiting {
    pub account: AccountId,
    /// By class.
    pub lanes: Vec<LaneState>,
    /// Windows of mixed lanes that were read: whose turn it is among these.
    pub windows: usize,
}

#[derive(Debug)]
pub struct LaneState {
    class: usize,
    /// As counted last, less what was placed since.
    pub waiting: u64,
    /// The head that fitted nowhere when it was tried last.
    blocked: Option<(JobId, Resources)>,
    /// Others were placed while nothing of this lane fitted.
    pub passed_over: bool,
    /// Where the walk of a mixed lane goes on.
    pub cursor: usize,
    /// The walk has not come round since capacity changed.
    pub brisk: bool,
    /// Where the search of a mixed lane for a job to reserve for goes on.
    pub reserve_cursor: usize,
}

#[derive(Debug, Clone)]
struct Class {
    key: ClassKey,
    mixed: bool,
    suspects: bool,
    pool: Option<PoolName>,
    /// None until a job of the class was seen: the key has only their hash.
    labels: Option<Arc<BTreeMap<String, String>>>,
    least: Resources,
}

impl Class {
    fn of(key: &ClassKey) -> Self {
        Self {
            mixed: key.is_mixed(),
            suspects: key.is_suspects(),
            pool: key.pool(),
            labels: (!key.asks_labels()).then(Arc::default),
            least: key.least(),
            key: key.clone(),
        }
    }

    /// False only where no job of this class can be for this worker.
    fn may_suit(&self, seat: &Seat) -> bool {
        let carries = |labels: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(name, value)| seat.labels.get(name) == Some(value))
        };
        self.pool.as_ref().is_none_or(|pool| *pool == seat.pool) && self.labels.as_deref().is_none_or(carries)
    }

    /// False only where no job of this class fits into any of `seats` now.
    fn may_fit(&self, seats: &[Seat]) -> bool {
        seats.iter().any(|seat| {
            self.may_suit(seat) && seat.unkept().could_hold(&self.least) && !(self.suspects && seat.suspect)
        })
    }

    /// False only where no job of this class would fit into any of `seats` if they were empty.
    fn could_ever_fit(&self, seats: &[Seat]) -> bool {
        let mut seats = seats.iter();
        seats.any(|seat| self.may_suit(seat) && seat.capacity.could_hold(&self.least))
    }
}

/// An account with those of its lanes that may be served; numbers of [`Board::accounts`] and [`Waiting::lanes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub account: usize,
    pub lanes: Vec<usize>,
}

impl Board {
    /// Takes over a new listing of the queue; what is known of lanes that are still there stays.
    pub fn refresh(&mut self, mut listing: Vec<(Lane, u64)>) {
        // Sorted already, mostly.
        listing.sort_by(|(a, _), (b, _)| (&a.account, &a.class).cmp(&(&b.account, &b.class)));
        let before = std::mem::take(self);
        let mut known = before.accounts.into_iter().peekable();
        let mut lanes_known: std::iter::Peekable<std::vec::IntoIter<LaneState>> =
            Vec::new().into_iter().peekable();
        for (lane, waiting) in listing {
            if self
                .accounts
                .last()
                .is_none_or(|last| last.account != lane.account)
            {
                while known.next_if(|old| old.account < lane.account).is_some() {}
                let old = known.next_if(|old| old.account == lane.account);
                let (old, windows) = old.map_or_else(Default::default, |old| (old.lanes, old.windows));
                lanes_known = old.into_iter().peekable();
                self.accounts.push(Waiting {
                    account: lane.account.clone(),
                    lanes: Vec::new(),
                    windows,
                });
            }
            let key_of = |old: &LaneState| &before.classes[old.class].key;
            while lanes_known.next_if(|old| *key_of(old) < lane.class).is_some() {}
            let old = lanes_known.next_if(|old| *key_of(old) == lane.class);
            let class = self.class_number(&lane.class, &before.classes, &before.by_key);
            let state = match old {
                Some(old) => LaneState {
                    class,
                    brisk: old.brisk || waiting > old.waiting,
                    waiting,
                    ..old
                },
                None => LaneState {
                    class,
                    waiting,
                    blocked: None,
                    passed_over: false,
                    cursor: 0,
                    brisk: true,
                    reserve_cursor: 0,
                },
            };
            if let Some(last) = self.accounts.last_mut() {
                last.lanes.push(state);
            }
        }
    }

    fn class_number(
        &mut self,
        key: &ClassKey,
        classes: &[Class],
        by_key: &HashMap<ClassKey, usize>,
    ) -> usize {
        if let Some(number) = self.by_key.get(key) {
            return *number;
        }
        let class = match by_key.get(key) {
            Some(known) => classes[*known].clone(),
            None => Class::of(key),
        };
        self.classes.push(class);
        self.by_key.insert(key.clone(), self.classes.len() - 1);
        self.classes.len() - 1
    }

    pub fn lanes(&self) -> usize {
        self.accounts.iter().map(|waiting| waiting.lanes.len()).sum()
    }

    pub fn lane(&self, account: usize, lane: usize) -> Lane {
        let waiting = &self.accounts[account];
        Lane {
            class: self.classes[waiting.lanes[lane].class].key.clone(),
            account: waiting.account.clone(),
        }
    }

    /// Where a lane stands here.
    pub fn find(&self, lane: &Lane) -> Option<(usize, usize)> {
        let by_account = |waiting: &Waiting| waiting.account.cmp(&lane.account);
        let account = self.accounts.binary_search_by(by_account).ok()?;
        let by_class = |state: &LaneState| self.classes[state.class].key.cmp(&lane.class);
        let lane = self.accounts[account].lanes.binary_search_by(by_class).ok()?;
        Some((account, lane))
    }

    pub fn is_mixed(&self, account: usize, lane: usize) -> bool {
        self.classes[self.accounts[account].lanes[lane].class].mixed
    }

    /// Capacity has changed: mixed lanes are walked anew.
    pub fn wake(&mut self) {
        for state in self.states_mut() {
            state.brisk = true;
        }
    }

    /// Whether a mixed lane is being walked.
    pub fn is_brisk(&self) -> bool {
        let mut states = self.accounts.iter().flat_map(|waiting| &waiting.lanes);
        states.any(|state| state.brisk && state.waiting > 0 && self.classes[state.class].mixed)
    }

    /// Lanes of which something may fit now, of accounts that have room. A lane that holds a reservation is always one.
    pub fn open(&self, terms: &[Terms], seats: &[Seat], reserved: &Reservations) -> Vec<Open> {
        let fits: Vec<bool> = self.classes.iter().map(|class| class.may_fit(seats)).collect();
        self.filter(terms, |account, state| {
            fits[state.class] || (!reserved.is_empty() && self.is_reserved(account, state, reserved))
        })
    }

    /// Lanes of which something could run on an empty fleet, of accounts that have room.
    pub fn feasible(&self, terms: &[Terms], seats: &[Seat]) -> Vec<Open> {
        let classes = self.classes.iter();
        let fits: Vec<bool> = classes.map(|class| class.could_ever_fit(seats)).collect();
        self.filter(terms, |_, state| fits[state.class])
    }

    fn filter(&self, terms: &[Terms], keep: impl Fn(&AccountId, &LaneState) -> bool) -> Vec<Open> {
        let mut open = Vec::new();
        for (account, (waiting, terms)) in self.accounts.iter().zip(terms).enumerate() {
            if !terms.has_room() {
                continue;
            }
            let lanes: Vec<usize> = (0..waiting.lanes.len())
                .filter(|&lane| {
                    let state = &waiting.lanes[lane];
                    state.waiting > 0 && keep(&waiting.account, state)
                })
                .collect();
            if !lanes.is_empty() {
                open.push(Open { account, lanes });
            }
        }
        open
    }

    fn is_reserved(&self, account: &AccountId, state: &LaneState, reserved: &Reservations) -> bool {
        let key = &self.classes[state.class].key;
        reserved
            .iter()
            .any(|held| held.entry.lane.account == *account && held.entry.lane.class == *key)
    }

    /// Whether a head is remembered here that fitted nowhere.
    pub fn is_blocked(&self, account: usize, lane: usize) -> bool {
        self.accounts[account].lanes[lane].blocked.is_some()
    }

    /// Whether the head of this lane is still the one that fitted nowhere, and still fits nowhere.
    pub fn still_blocked(
        &mut self,
        account: usize,
        lane: usize,
        head: Option<&QueueEntry>,
        seats: &[Seat],
    ) -> bool {
        let state = &mut self.accounts[account].lanes[lane];
        let Some((job, wanted)) = &state.blocked else {
            return false;
        };
        let class = &self.classes[state.class];
        let same = head.is_some_and(|head| head.job == *job);
        let fits = |seat: &Seat| class.may_suit(seat) && seat.holds(*job, wanted, class.suspects);
        if same && !seats.iter().any(fits) {
            return true;
        }
        state.blocked = None;
        false
    }

    /// Each head is read anew: one whose job has ended without leaving the queue would close its lane for ever.
    pub fn forget_heads(&mut self) {
        for state in self.states_mut() {
            state.blocked = None;
        }
    }

    /// Remembers a head that fitted nowhere.
    pub fn block(&mut self, account: usize, lane: usize, head: &Candidate) {
        let state = &mut self.accounts[account].lanes[lane];
        state.blocked = Some((head.job, head.resources()));
    }

    /// A job of this lane was seen: its class's labels are known from now on.
    pub fn learn(&mut self, account: usize, lane: usize, job: &Candidate) {
        let class = &mut self.classes[self.accounts[account].lanes[lane].class];
        if class.labels.is_none() && !class.mixed {
            class.labels = Some(Arc::new(job.wanted().labels.clone()));
        }
    }

    /// A job of this lane was placed.
    pub fn placed(&mut self, account: usize, lane: usize) {
        let state = &mut self.accounts[account].lanes[lane];
        state.waiting = state.waiting.saturating_sub(1);
        state.passed_over = false;
    }

    /// Moves the walk of a mixed lane on past `looked` entries that stay; `end` when there were no more.
    pub fn walked(&mut self, account: usize, lane: usize, looked: usize, end: bool) {
        let waiting = &mut self.accounts[account];
        waiting.windows = waiting.windows.wrapping_add(1);
        let state = &mut waiting.lanes[lane];
        state.brisk &= !end;
        state.cursor = if end { 0 } else { state.cursor + looked };
    }

    /// Others were placed: lanes of `feasible` of which nothing was open, or whose head was in the way, were passed over.
    pub fn pass_over(&mut self, feasible: &[Open], open: &[Open]) {
        for Open { account, lanes } in feasible {
            let served = open.binary_search_by_key(account, |open| open.account);
            for lane in lanes {
                let was_open = served.is_ok_and(|at| open[at].lanes.binary_search(lane).is_ok());
                let state = &mut self.accounts[*account].lanes[*lane];
                state.passed_over |= !was_open || state.blocked.is_some();
            }
        }
    }

    fn states_mut(&mut self) -> impl Iterator<Item = &mut LaneState> {
        self.accounts.iter_mut().flat_map(|waiting| &mut waiting.lanes)
    }
}
