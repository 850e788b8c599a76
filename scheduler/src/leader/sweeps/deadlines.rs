//! Jobs that have waited in the queue for longer than they were told to fail with `queue_timeout`.

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
            .due(Due::QueueDeadline, context.clock.now(), BATCH)
            .await?;
        let events = rows
            .iter()
            .map(|job| (job, JobEvent::QueueDeadlinePassed))
            .collect();
        let written = term.write(events).await?;
        let changed = written.iter().any(|answer| matches!(answer, Written::Done(_)));
        if rows.len() < BATCH || !changed {
            return Ok(());
        }
    }
}
