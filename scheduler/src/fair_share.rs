//! Whose turn it is: stride scheduling between accounts, decided at the moment of placement. Pure.
//!
//! Each account has a *pass*: the virtual time at which its next placement is due. The lowest goes first and moves on
//! by a stride in inverse proportion to its weight. Virtual time is the pass of the account that was served last, and
//! nobody's pass is below it: who comes late, comes back, or could not be served for a while (its jobs fitted
//! nowhere, it had reached its limit) goes on from now, with no credit for the past. Who was served keeps its pass, so
//! going away for a moment earns nothing.
//!
//! So of any two accounts with weights `a` and `b` that wait and can be served, after `n` places since the later of
//! them came, the one has had at least `n * a / (a + b) - 1` of them, whatever the other has waiting. With equal weights,
//! its i-th place is the 2i-th at the latest.
//!
//! Nothing here has to survive. A new leader begins with everybody even and breaks ties in favour of who holds least
//! for its weight, which it knows from the rows; each restart costs an account one place at the most.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use common::ids::AccountId;

/// One placement of an account of weight 1. Large, so that any weight divides it with an error that no number of
/// placements brings to light; passes have room for 2^64 of them.
const STRIDE: u128 = 1 << 64;

/// Passes kept without a look at whether they are still ahead of virtual time.
const KEPT_MIN: usize = 64;

#[derive(Debug, Clone, Default)]
pub struct FairShare {
    /// Virtual time.
    now: u128,
    /// Of those ahead of it.
    passes: HashMap<AccountId, u128>,
    swept_at: usize,
}

impl FairShare {
    pub fn pass(&self, account: &AccountId) -> u128 {
        let own = self.passes.get(account).copied();
        own.map_or(self.now, |pass| pass.max(self.now))
    }

    /// Moves an account on after a placement.
    pub fn charge(&mut self, account: &AccountId, weight: u32) {
        let begun = self.pass(account);
        self.now = begun;
        match self.passes.get_mut(account) {
            Some(pass) => *pass = begun.saturating_add(stride(weight)),
            None => {
                self.sweep();
                self.passes
                    .insert(account.clone(), begun.saturating_add(stride(weight)));
            }
        }
    }

    /// Forgets who is not ahead of virtual time: they would begin there anyway.
    fn sweep(&mut self) {
        if self.passes.len() >= 2 * self.swept_at.max(KEPT_MIN) {
            let now = self.now;
            self.passes.retain(|_, pass| *pass > now);
            self.swept_at = self.passes.len();
        }
    }
}

fn stride(weight: u32) -> u128 {
    STRIDE / u128::from(weight.max(1))
}

/// The order of turns within one round: lowest pass, then least held for the weight, then as numbered, so that the
/// same picture gives the same answer.
#[derive(Debug, Default)]
pub struct Turns(BinaryHeap<Reverse<Turn>>);

/// One account's next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    pass: u128,
    held: u128,
    /// The caller's number for the account.
    pub account: usize,
    weight: u32,
}

impl Turn {
    pub fn new(account: usize, pass: u128, held: u32, weight: u32) -> Self {
        Self {
            pass,
            held: u128::from(held) * stride(weight),
            account,
            weight,
        }
    }

    /// The one after this.
    #[must_use]
    pub fn served(self) -> Self {
        let stride = stride(self.weight);
        Self {
            pass: self.pass.saturating_add(stride),
            held: self.held.saturating_add(stride),
            ..self
        }
    }
}

impl Turns {
    pub fn push(&mut self, turn: Turn) {
        self.0.push(Reverse(turn));
    }

    pub fn pop(&mut self) -> Option<Turn> {
        self.0.pop().map(|Reverse(turn)| turn)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::lifecycle::testing::account;
    use proptest::prelude::*;

    use super::*;

    fn next(share: &FairShare, waiting: &[(AccountId, u32)]) -> usize {
        let mut turns = Turns::default();
        for (number, (account, weight)) in waiting.iter().enumerate() {
            turns.push(Turn::new(number, share.pass(account), 0, *weight));
        }
        turns.pop().unwrap().account
    }

    fn serve(
        share: &mut FairShare,
        waiting: &[(AccountId, u32)],
        turns: usize,
    ) -> BTreeMap<AccountId, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..turns {
            let (account, weight) = &waiting[next(share, waiting)];
            share.charge(account, *weight);
            *served.entry(account.clone()).or_default() += 1;
        }
        served
    }

    proptest! {
        #[test]
        fn places_are_in_proportion_to_weights_after_any_number_of_them(
            a in 1u32..100, b in 1u32..100, before in 0usize..300,
        ) {
            let (one, two) = ((account("a"), a), (account("b"), b));
            let mut share = FairShare::default();
            serve(&mut share, std::slice::from_ref(&one), before);
            let both = [one, two];
            let mut served: BTreeMap<AccountId, usize> = BTreeMap::new();
            for places in 1..=500usize {
                for (account, count) in serve(&mut share, &both, 1) {
                    *served.entry(account).or_default() += count;
                }
                for (account, weight) in &both {
                    let fair = places as f64 * f64::from(*weight) / f64::from(a + b);
                    let got = served.get(account).copied().unwrap_or(0) as f64;
                    prop_assert!((got - fair).abs() <= 1.001, "{account}: {got} of {fair} after {places}");
                }
            }
        }
    }

    #[test]
    fn who_comes_late_or_comes_back_gets_its_share_from_now_on_and_nothing_for_the_past() {
        let mut share = FairShare::default();
        let (early, late) = ((account("early"), 1), (account("late"), 1));
        for _ in 0..3 {
            serve(&mut share, std::slice::from_ref(&early), 1_000);
            let served = serve(&mut share, &[early.clone(), late.clone()], 100);
            assert!((49..=51).contains(&served[&late.0]), "{served:?}");
        }
    }

    #[test]
    fn going_away_for_a_moment_earns_nothing() {
        let mut share = FairShare::default();
        let (greedy, other) = ((account("greedy"), 1), (account("other"), 1));
        let (mut of_greedy, mut places) = (0, 0);
        for _ in 0..50 {
            // it is away for a place, and comes back
            serve(&mut share, std::slice::from_ref(&other), 1);
            let served = serve(&mut share, &[greedy.clone(), other.clone()], 2);
            of_greedy += served.get(&greedy.0).copied().unwrap_or(0);
            places += 3;
            // never more than its share of all places, those of its absence included
            assert!(2 * of_greedy <= places + 1, "{of_greedy} of {places}");
        }
        assert!(of_greedy >= 50, "{of_greedy}");
    }

    #[test]
    fn after_a_restart_who_holds_least_for_its_weight_is_first() {
        let mut turns = Turns::default();
        for (number, held, weight) in [(0, 4, 1), (1, 3, 1), (2, 5, 2)] {
            turns.push(Turn::new(number, 0, held, weight));
        }
        let order: Vec<usize> = std::iter::from_fn(|| turns.pop())
            .map(|turn| turn.account)
            .collect();
        assert_eq!(order, [2, 1, 0]);
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let mut share = FairShare::default();
        for n in 0..10_000 {
            serve(&mut share, &[(account(&format!("a{n}")), 1)], 3);
        }
        assert!(share.passes.len() <= 2 * KEPT_MIN, "{}", share.passes.len());
    }
}
