//! Chance with a number: every random instant of a run comes from one seed, which is printed, so that a failure can be
//! played again (`JOBWORKER_TEST_SEED`).

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

#[derive(Debug)]
pub struct Chaos {
    rng: StdRng,
}

impl Chaos {
    /// A new run, or the one that `JOBWORKER_TEST_SEED` names.
    pub fn begin(what: &str) -> Self {
        let named = std::env::var("JOBWORKER_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = named.unwrap_or_else(rand::random::<u64>);
        println!("{what}: JOBWORKER_TEST_SEED={seed}");
        Self::of(seed)
    }

    pub fn of(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Lets a random time pass: the fault comes at an instant that nobody chose.
    pub async fn some_time(&mut self, least: Duration, most: Duration) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let time = self.rng.random_range(millis(least)..=millis(most));
        // This wait is the fault's own instant, and nothing is concluded from it. tidy: poll
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    pub fn number(&mut self, most: u64) -> u64 {
        self.rng.random_range(0..=most)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }
}
