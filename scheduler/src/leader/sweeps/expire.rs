//! Attempts whose session is lost or unknown end as `worker_lost`: found by query each time, never from memory.
//!
//! Of all that is held only ids are read; a row is read whole where its session does not live.

use std::collections::HashSet;

use common::ids::{JobId, SessionId};
use common::job::Job;
use common::lifecycle::JobEvent;
use common::store::{Holding, StoreError, Stores};

use super::BATCH;
use crate::leader::Context;
use crate::leader::term::{DutyError, Term, Written};

/// # Errors
/// When the term ended, or the store does not answer.
pub async fn run(context: &Context, term: &Term) -> Result<(), DutyError> {
    let holdings = context.stores.jobs.all_holdings().await?;
    let judged = judge(&context.stores, &holdings).await?;
    let orphans = holdings.iter().filter(|holding| judged.is_lost(holding.session));
    let orphans: Vec<JobId> = orphans.map(|holding| holding.job).collect();
    for ids in orphans.chunks(BATCH) {
        let rows = context.stores.jobs.get_many(ids).await?;
        expire(term, &rows, &judged).await?;
    }
    Ok(())
}

/// A row may have moved on since it was looked for: only one whose session was judged is expired.
async fn expire(term: &Term, rows: &[Job], judged: &Judged) -> Result<(), DutyError> {
    let events: Vec<(&Job, JobEvent)> = rows
        .iter()
        .filter_map(|job| {
            let (attempt, lease) = job.state.held()?;
            judged.is_lost(lease.session).then_some((
                job,
                JobEvent::Expired {
                    attempt,
                    epoch: term.epoch,
                },
            ))
        })
        .collect();
    if events.is_empty() {
        return Ok(());
    }
    // Who was quicker is somebody who heard of the attempt; what is left is found again at the next sweep.
    let written = term.write(events).await?;
    let expired = written
        .iter()
        .filter(|answer| matches!(answer, Written::Done(_)))
        .count();
    if expired > 0 {
        tracing::warn!(expired, "attempts of lost sessions have expired");
    }
    Ok(())
}

/// The sessions that held something.
struct Judged {
    named: HashSet<SessionId>,
    alive: HashSet<SessionId>,
}

impl Judged {
    /// Lost or unknown; a session that was not looked at is neither.
    fn is_lost(&self, session: SessionId) -> bool {
        self.named.contains(&session) && !self.alive.contains(&session)
    }
}

async fn judge(stores: &Stores, holdings: &[Holding]) -> Result<Judged, StoreError> {
    let named: HashSet<SessionId> = holdings.iter().map(|holding| holding.session).collect();
    let ids: Vec<SessionId> = named.iter().copied().collect();
    let sessions = stores.workers.sessions(&ids).await?;
    let alive = sessions.into_iter().filter(|session| !session.lost);
    Ok(Judged {
        alive: alive.map(|session| session.id).collect(),
        named,
    })
}
