//! What lies between programs and stores: it loses, holds up and doubles, by the plan's shares and while events last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::dice::Dice;
use super::history::History;
use super::plan::Faults;
use super::store::{Caller, Fate, Network, Passage, Service, Write, held};

/// A program and its later lives call under numbers of their own: `node + LIVES * life`.
pub const LIVES: u32 = 1_000;

pub type AtWrite = Box<dyn FnOnce() -> Duration + Send>;

pub struct Calls {
    dice: Arc<Dice>,
    faults: Faults,
    history: Arc<History>,
    faulty: AtomicBool,
    /// How many events keep a node from a service.
    away: Mutex<BTreeMap<(u32, Service), u32>>,
    /// What is to happen at a node's next write of a leader, by its kind; it tells how much later the write arrives.
    at_write: Mutex<BTreeMap<(u32, Write), AtWrite>>,
}

impl Calls {
    pub fn new(dice: Arc<Dice>, faults: Faults, history: Arc<History>) -> Self {
        Self {
            dice,
            faults,
            history,
            faulty: true.into(),
            away: Mutex::default(),
            at_write: Mutex::default(),
        }
    }

    pub fn at_write(&self, node: u32, write: Write, then: AtWrite) {
        held(&self.at_write).insert((node, write), then);
    }

    pub fn keep_away(&self, node: u32, service: Service) {
        *held(&self.away).entry((node, service)).or_default() += 1;
    }

    pub fn let_back(&self, node: u32, service: Service) {
        if let Some(count) = held(&self.away).get_mut(&(node, service)) {
            *count = count.saturating_sub(1);
        }
    }

    pub fn mend(&self) {
        self.faulty.store(false, Ordering::SeqCst);
        held(&self.away).clear();
        held(&self.at_write).clear();
    }

    fn is_away(&self, caller: Caller, service: Service) -> bool {
        let key = (caller.0 % LIVES, service);
        held(&self.away).get(&key).is_some_and(|count| *count > 0)
    }

    fn time(&self) -> Duration {
        if self.faulty.load(Ordering::SeqCst) && self.dice.chance(self.faults.call_slow) {
            self.dice.millis(0, self.faults.slow_max)
        } else {
            self.dice.millis(0, self.faults.call_max)
        }
    }
}

impl Network for Calls {
    fn passage(&self, caller: Caller, service: Service, call: &'static str) -> Passage {
        let (there, back) = (self.time(), self.time());
        let passage = |there, fate| Passage { there, fate, back };
        if !self.faulty.load(Ordering::SeqCst) {
            return passage(there, Fate::Answered);
        }
        if self.is_away(caller, service) {
            // Refused at once, or not answered at all.
            self.history.count("call away");
            return passage(self.dice.millis(0, 600), Fate::Lost);
        }
        let armed =
            Write::named(call).and_then(|write| held(&self.at_write).remove(&(caller.0 % LIVES, write)));
        if let Some(happens) = armed {
            return passage(happens(), Fate::Answered);
        }
        let (dice, faults) = (&self.dice, &self.faults);
        // What marks the course of a term is told from the calls themselves, so it comes when it was made.
        let may_be_late = !matches!(call, "begin_term" | "mark_built");
        if dice.chance(faults.call_lost) {
            self.history.count("call lost");
            passage(there, Fate::Lost)
        } else if dice.chance(faults.call_unheard) {
            self.history.count("call unheard");
            passage(there, Fate::Unheard)
        } else if may_be_late && dice.chance(faults.call_late) {
            self.history.count("call late");
            passage(there, Fate::Late(dice.millis(1, faults.late_max)))
        } else {
            passage(there, Fate::Answered)
        }
    }

    fn hint(&self, _from: Caller, _to: Caller) -> Vec<Duration> {
        if !self.faulty.load(Ordering::SeqCst) {
            return vec![Duration::ZERO];
        }
        let (dice, faults) = (&self.dice, &self.faults);
        if dice.chance(faults.hint_lost) {
            return Vec::new();
        }
        let copies = if dice.chance(faults.hint_twice) { 2 } else { 1 };
        (0..copies).map(|_| dice.millis(0, faults.hint_max)).collect()
    }
}
