//! What a new leader does before anything else: every held job of an older term is marked with the new one, so that
//! nothing which the old leader read before can still be written by it.

use common::job::Epoch;
use common::lifecycle::JobEvent;
use common::store::{Held, Stores};

use super::term::{DutyError, Term, Written};

/// Rows marked in one write.
const BATCH: usize = 500;

/// Marks held jobs of older terms, pass by pass, until a pass finds none.
///
/// # Errors
/// When the term ended or the store does not answer: then the term must not go on.
pub async fn take_over(stores: &Stores, term: &Term) -> Result<u64, DutyError> {
    let mut marked = 0;
    loop {
        let (found, changed) = pass(stores, term, term.epoch).await?;
        marked += changed;
        if found == 0 {
            return Ok(marked);
        }
        tokio::task::yield_now().await;
    }
}

async fn pass(stores: &Stores, term: &Term, epoch: Epoch) -> Result<(u64, u64), DutyError> {
    let (mut found, mut changed, mut after) = (0, 0, None);
    loop {
        term.check()?;
        let rows = stores.jobs.held(&Held::BeforeTerm(epoch), after, BATCH).await?;
        let Some(last) = rows.last() else {
            return Ok((found, changed));
        };
        after = Some(last.id);
        found += rows.len() as u64;
        let events = rows
            .iter()
            .map(|job| (job, JobEvent::TakenOver { epoch }))
            .collect();
        let written = term.write(events).await?;
        // A conflict is somebody else's newer row: the next pass looks at it.
        changed += written
            .iter()
            .filter(|answer| matches!(answer, Written::Done(_)))
            .count() as u64;
        if rows.len() < BATCH {
            return Ok((found, changed));
        }
    }
}
