//! Chance of the simulation itself, apart from what the programs draw: one seed, one sequence.

use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::store::held;

#[derive(Debug)]
pub struct Dice(Mutex<StdRng>);

impl Dice {
    pub fn of(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    pub fn chance(&self, of: f64) -> bool {
        of > 0.0 && held(&self.0).random_bool(of.min(1.0))
    }

    pub fn number(&self, least: u64, most: u64) -> u64 {
        held(&self.0).random_range(least..=most.max(least))
    }

    pub fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.number(least, most))
    }

    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        let last = of.len().checked_sub(1)?;
        of.get(usize::try_from(self.number(0, last as u64)).unwrap_or(0))
    }
}
