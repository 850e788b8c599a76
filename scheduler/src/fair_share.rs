//! Whose turn it is: stride scheduling between accounts, decided at the moment of placement. Pure.
//!
//! Each account has a *pass*. The lowest goes first and moves on by a stride in inverse proportion to the account's
//! weight, so that over any stretch of time accounts that wait get places in proportion to their weights, however
//! much each has waiting. An account that comes late starts at the lowest pass of those who wait: it gets its share
//! from now on and nothing for the past. One that runs dry for a moment keeps its pass, so pausing earns nothing.
//! Nothing here has to survive: a new leader begins with everybody even.

use std::collections::BTreeMap;

use common::ids::AccountId;

/// One placement of an account of weight 1. Large, so that weights up to it divide with little error.
const STRIDE: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct FairShare {
    passes: BTreeMap<AccountId, u64>,
    /// The lowest pass when anybody waited last: where a newcomer starts.
    floor: u64,
}

impl FairShare {
    /// Tells who waits now. To be called before [`FairShare::next`] and [`FairShare::charge`].
    pub fn admit<'a>(&mut self, waiting: impl IntoIterator<Item = &'a AccountId> + Clone) {
        let lowest_known = waiting
            .clone()
            .into_iter()
            .filter_map(|account| self.passes.get(account))
            .min();
        if let Some(&lowest) = lowest_known {
            self.floor = self.floor.max(lowest);
        }
        let floor = self.floor;
        // Who is not ahead of the floor would start there anyway: forgetting them keeps the table small.
        self.passes.retain(|_, pass| *pass > floor);
        for account in waiting {
            self.passes.entry(account.clone()).or_insert(floor);
        }
    }

    /// The one of `ready` whose turn it is; ties by name, so that the same picture gives the same answer.
    pub fn next<'a>(&self, ready: impl IntoIterator<Item = &'a AccountId>) -> Option<&'a AccountId> {
        ready
            .into_iter()
            .min_by_key(|account| (self.pass(account), *account))
    }

    /// Moves an account on after a placement.
    pub fn charge(&mut self, account: &AccountId, weight: u32) {
        let stride = (STRIDE / u64::from(weight.max(1))).max(1);
        let pass = self.pass(account).saturating_add(stride);
        self.passes.insert(account.clone(), pass);
    }

    fn pass(&self, account: &AccountId) -> u64 {
        self.passes.get(account).copied().unwrap_or(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::lifecycle::testing::account;
    use proptest::prelude::*;

    fn serve(
        share: &mut FairShare,
        waiting: &[(AccountId, u32)],
        turns: usize,
    ) -> BTreeMap<AccountId, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..turns {
            share.admit(waiting.iter().map(|(account, _)| account));
            let next = share
                .next(waiting.iter().map(|(account, _)| account))
                .unwrap()
                .clone();
            let weight = waiting.iter().find(|(account, _)| *account == next).unwrap().1;
            share.charge(&next, weight);
            *served.entry(next).or_default() += 1;
        }
        served
    }

    proptest! {
        #[test]
        fn places_are_in_proportion_to_weights(a in 1u32..100, b in 1u32..100) {
            let waiting = [(account("a"), a), (account("b"), b)];
            let turns = 1_000;
            let served = serve(&mut FairShare::default(), &waiting, turns);
            for (account, weight) in &waiting {
                let fair = turns as f64 * f64::from(*weight) / f64::from(a + b);
                let got = served.get(account).copied().unwrap_or(0) as f64;
                prop_assert!((got - fair).abs() <= 2.0, "{account}: {got} of {fair}");
            }
        }
    }

    #[test]
    fn a_late_account_gets_its_share_from_now_on_and_nothing_for_the_past() {
        let mut share = FairShare::default();
        let (early, late) = ((account("early"), 1), (account("late"), 1));
        serve(&mut share, std::slice::from_ref(&early), 1_000);
        let served = serve(&mut share, &[early.clone(), late.clone()], 100);
        assert!((49..=51).contains(&served[&early.0]), "{served:?}");
        assert!((49..=51).contains(&served[&late.0]), "{served:?}");
    }

    #[test]
    fn pausing_earns_nothing() {
        let mut share = FairShare::default();
        let (greedy, other) = ((account("greedy"), 1), (account("other"), 1));
        serve(&mut share, &[greedy.clone(), other.clone()], 10);
        for _ in 0..20 {
            share.charge(&greedy.0, 1);
        }
        // it is away for one turn, and comes back
        serve(&mut share, std::slice::from_ref(&other), 1);
        let served = serve(&mut share, &[greedy.clone(), other.clone()], 10);
        assert_eq!(served.get(&greedy.0), None, "{served:?}");
    }

    #[test]
    fn those_who_left_are_forgotten() {
        let mut share = FairShare::default();
        for n in 0..1_000 {
            serve(&mut share, &[(account(&format!("a{n}")), 1)], 1);
        }
        serve(&mut share, &[(account("last"), 1)], 3);
        assert!(share.passes.len() <= 2, "{}", share.passes.len());
    }
}
