//! Periodic duties of the leader, one a file. Each is idempotent and takes no input but the rows.

mod deadlines;
mod due;
mod expire;
mod sessions;

use super::term::{DutyError, Term};
use super::{Context, OFTEN, outcome};
use sessions::Sessions;

/// Rows of one batch.
const BATCH: usize = 500;

/// Jobs whose time has come, and those that have waited too long.
pub async fn often(context: &Context, term: &Term) -> DutyError {
    loop {
        for (duty, answer) in [
            ("due", due::run(context, term).await),
            ("deadlines", deadlines::run(context, term).await),
        ] {
            if let Some(ended) = outcome(duty, answer) {
                return ended;
            }
        }
        tokio::time::sleep(OFTEN).await;
    }
}

/// Silent sessions, and what they held.
pub async fn seldom(context: &Context, term: &Term) -> DutyError {
    let mut sessions = Sessions::new(&context.config.times, context.clock.mono());
    loop {
        for (duty, answer) in [
            ("sessions", sessions.run(context, term).await),
            ("expire", expire::run(context, term).await),
        ] {
            if let Some(ended) = outcome(duty, answer) {
                return ended;
            }
        }
        tokio::time::sleep(context.config.times.sweep).await;
    }
}
