//! Waiting for facts: a condition is looked at until it holds or its deadline passes; the error tells what was seen
//! last. Nothing in the tests waits for time itself.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// Often enough that a test loses nothing by it, seldom enough that looking does not load what is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Generous: a machine that is busy with builds is slower by an order of magnitude, and a test that fails for that
/// proves nothing.
pub const LONG: Duration = Duration::from_secs(60);

/// Looks until the answer is good, `within` at the most. The error of the last look is part of ours.
///
/// # Errors
/// What was waited for, for how long, and what was seen last.
pub async fn wait_for<T>(
    within: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let until = Instant::now() + within;
    loop {
        let last = match look().await {
            Ok(found) => return Ok(found),
            Err(last) => last,
        };
        if Instant::now() >= until {
            bail!("waited {within:?} for {what}; seen last: {last}");
        }
        // tidy: poll
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
