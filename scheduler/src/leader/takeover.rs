//! What a new leader does before anything else: every held job of an older term is marked with the new one, so that
//! nothing which the old leader read before can still be written by it.
//!
//! It ends, whatever the rows are like: a row that the store will not change, or that refuses the mark by itself, cannot
//! be written by an older leader either, and is passed over instead of being tried for ever.

use std::collections::HashMap;

use common::ids::JobId;
use common::job::{Epoch, Job, Revision};
use common::lifecycle::JobEvent;
use common::store::{Held, Stores};

use super::term::{DutyError, Term, Written};

/// Rows marked in one write.
const BATCH: usize = 500;

/// Marks held jobs of older terms, pass by pass, until a pass finds none that can be marked.
///
/// # Errors
/// When the term ended or the store does not answer: then the term must not go on.
pub async fn take_over(stores: &Stores, term: &Term) -> Result<u64, DutyError> {
    let (mut marked, mut failed) = (0, HashMap::new());
    loop {
        let pass = pass(stores, term, term.epoch, &failed).await?;
        marked += pass.marked;
        if pass.failed.is_empty() && pass.marked == 0 {
            if pass.passed_over > 0 {
                let rows = pass.passed_over;
                tracing::warn!(
                    rows,
                    "held jobs of older terms cannot be marked: they are passed over"
                );
            }
            return Ok(marked);
        }
        failed = pass.failed;
        tokio::task::yield_now().await;
    }
}

#[derive(Default)]
struct Pass {
    marked: u64,
    /// Somebody was quicker: the rows as they were loaded.
    failed: HashMap<JobId, Revision>,
    passed_over: u64,
}

/// `failed`: the rows that the pass before could not mark. One that is found again as it was has no quicker writer.
async fn pass(
    stores: &Stores,
    term: &Term,
    epoch: Epoch,
    failed: &HashMap<JobId, Revision>,
) -> Result<Pass, DutyError> {
    let (mut pass, mut after) = (Pass::default(), None);
    loop {
        term.check()?;
        let rows = stores.jobs.held(&Held::BeforeTerm(epoch), after, BATCH).await?;
        let Some(last) = rows.last() else {
            return Ok(pass);
        };
        after = Some(last.id);
        let is_stuck = |job: &&Job| failed.get(&job.id) == Some(&job.revision);
        let (stuck, fresh): (Vec<&Job>, Vec<&Job>) = rows.iter().partition(is_stuck);
        pass.passed_over += stuck.len() as u64;
        let events = fresh
            .iter()
            .map(|job| (*job, JobEvent::TakenOver { epoch }))
            .collect();
        for (job, answer) in fresh.iter().zip(term.write(events).await?) {
            match answer {
                Written::Done(_) => pass.marked += 1,
                // The next pass looks at it.
                Written::Conflict => drop(pass.failed.insert(job.id, job.revision)),
                Written::Refused | Written::Gone | Written::Unchangeable => pass.passed_over += 1,
            }
        }
        if rows.len() < BATCH {
            return Ok(pass);
        }
    }
}
