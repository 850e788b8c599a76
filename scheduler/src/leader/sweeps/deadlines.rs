//! Jobs that have waited in the queue for longer than they were told to fail with `queue_timeout`.

use common::lifecycle::JobEvent;
use common::store::Due;

use super::change_due;
use crate::leader::Context;
use crate::leader::term::{DutyError, Term};

/// # Errors
/// When the term ended, or the store does not answer.
pub async fn run(context: &Context, term: &Term) -> Result<(), DutyError> {
    change_due(context, term, Due::QueueDeadline, || {
        JobEvent::QueueDeadlinePassed
    })
    .await
}
