//! Scheduled jobs whose time has come go into the queue: a start time that was asked for, or the end of a retry's pause.

use common::lifecycle::JobEvent;
use common::store::Due;

use super::change_due;
use crate::leader::Context;
use crate::leader::term::{DutyError, Term};

/// # Errors
/// When the term ended, or the store does not answer.
pub async fn run(context: &Context, term: &Term) -> Result<(), DutyError> {
    change_due(context, term, Due::Start, || JobEvent::Due).await
}
