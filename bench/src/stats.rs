//! Order statistics of a few thousand measured values.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// Measures from now on. Microseconds count here, which the programs' own clock does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn read(&self) -> Duration {
        self.0.elapsed()
    }

    pub fn millis(&self) -> f64 {
        self.read().as_secs_f64() * 1_000.0
    }
}

/// Measured values, in order.
#[derive(Debug, Clone)]
pub struct Samples(Vec<f64>);

/// What is said of them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    pub count: usize,
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Samples {
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            median: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: self.quantile(1.0),
        }
    }

    /// The smallest value that at least this share of all is not above; of an even number the lower middle.
    fn quantile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a few thousand"
        )]
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let summary = Samples::new((1..=100).rev().map(f64::from).collect()).summary();
        assert_eq!(
            (
                summary.count,
                summary.median,
                summary.p90,
                summary.p99,
                summary.max
            ),
            (100, 50.0, 90.0, 99.0, 100.0)
        );
        assert_eq!(Samples::new(vec![7.0]).summary().p99, 7.0);
        assert!(Samples::new(vec![]).summary().median.is_nan());
    }
}
