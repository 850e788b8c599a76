//! Scheduled jobs whose time has come go into the queue: a start time that was asked for, or the end of a retry's pause.

use common::lifecycle::JobEvent;
use common::store::Due;

use super::BATCH;
use crate::leader::Context;
use crate::leader::term::{DutyError, Term, Written};

/// # Errors
/// When the term ended, or the store does not answer.
pub async fn run(context: &Context, term: &Term) -> Result<(), DutyError> {
    loop {
        let rows = context
            .stores
            .jobs
            .due(Due::Start, context.clock.now(), BATCH)
            .await?;
        let events = rows.iter().map(|job| (job, JobEvent::Due)).collect();
        let written = term.write(events).await?;
        // Rows that do not change would be found again at once: they wait for the next time.
        let changed = written.iter().any(|answer| matches!(answer, Written::Done(_)));
        if rows.len() < BATCH || !changed {
            return Ok(());
        }
    }
}
