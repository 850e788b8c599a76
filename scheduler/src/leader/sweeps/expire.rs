//! Attempts whose session is lost or unknown end as `worker_lost`: found by query each time, never from memory.

use std::collections::HashSet;

use common::ids::SessionId;
use common::job::Job;
use common::lifecycle::JobEvent;
use common::store::{Held, StoreError, Stores};

use super::BATCH;
use crate::leader::Context;
use crate::leader::term::{DutyError, Term, Written};

/// # Errors
/// When the term ended, or the store does not answer.
pub async fn run(context: &Context, term: &Term) -> Result<(), DutyError> {
    let mut after = None;
    loop {
        let rows = context.stores.jobs.held(&Held::Any, after, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.id);
        let alive = living(&context.stores, &rows).await?;
        let events: Vec<(&Job, JobEvent)> = rows
            .iter()
            .filter_map(|job| {
                let (attempt, lease) = job.state.held()?;
                let lost = !alive.contains(&lease.session);
                lost.then_some((
                    job,
                    JobEvent::Expired {
                        attempt,
                        epoch: term.epoch,
                    },
                ))
            })
            .collect();
        if !events.is_empty() {
            // Who was quicker is somebody who heard of the attempt; what is left is found again at the next sweep.
            let written = term.write(events).await?;
            let expired = written
                .iter()
                .filter(|answer| matches!(answer, Written::Done(_)))
                .count();
            tracing::warn!(expired, "attempts of lost sessions have expired");
        }
        if rows.len() < BATCH {
            return Ok(());
        }
    }
}

async fn living(stores: &Stores, rows: &[Job]) -> Result<HashSet<SessionId>, StoreError> {
    let named: HashSet<SessionId> = rows
        .iter()
        .filter_map(|job| job.state.lease())
        .map(|lease| lease.session)
        .collect();
    let ids: Vec<SessionId> = named.into_iter().collect();
    let sessions = stores.workers.sessions(&ids).await?;
    Ok(sessions
        .into_iter()
        .filter(|session| !session.lost)
        .map(|session| session.id)
        .collect())
}
