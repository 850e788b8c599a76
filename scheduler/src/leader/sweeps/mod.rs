//! Periodic duties of the leader, one a file. Each is idempotent and takes no input but the rows.

mod deadlines;
mod due;
mod expire;
mod sessions;

use std::collections::HashSet;

use common::ids::JobId;
use common::job::Job;
use common::lifecycle::JobEvent;
use common::store::Due;

use super::term::{DutyError, Term, Written};
use super::{Context, OFTEN, outcome};
use sessions::Sessions;

/// Rows of one batch.
const BATCH: usize = 500;

/// Rows that one sweep passes over. Past these it waits for its next time: what comes behind so many spoilt rows waits
/// until somebody has mended some.
const PASSED_OVER_MAX: usize = 50_000;

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

/// Applies `event` to all rows that are due, batch by batch, earliest first. What does not change is passed over: it
/// would be found again at once, before what is due behind it, and comes again at the next time.
///
/// # Errors
/// When the term ended, or the store does not answer.
async fn change_due(
    context: &Context,
    term: &Term,
    due: Due,
    event: impl Fn() -> JobEvent,
) -> Result<(), DutyError> {
    let mut passed_over: HashSet<JobId> = HashSet::new();
    while passed_over.len() <= PASSED_OVER_MAX {
        let asked = BATCH + passed_over.len();
        let rows = context.stores.jobs.due(due, context.clock.now(), asked).await?;
        let new: Vec<&Job> = rows.iter().filter(|job| !passed_over.contains(&job.id)).collect();
        let events = new.iter().map(|job| (*job, event())).collect();
        for (job, answer) in new.iter().zip(term.write(events).await?) {
            match answer {
                Written::Done(_) => {}
                Written::Conflict | Written::Refused | Written::Gone | Written::Unchangeable => {
                    passed_over.insert(job.id);
                }
            }
        }
        if rows.len() < asked {
            return Ok(());
        }
    }
    tracing::error!(
        rows = passed_over.len(),
        ?due,
        "more rows cannot be changed than a sweep passes over"
    );
    Ok(())
}
