//! Keeps the queue, which is an index and may vanish, in step with the rows, which are the truth.
//!
//! Three ways: a rebuild when the queue says that it is not built, before anything is given out; a walk when the counts
//! differ twice in a row; and a walk soon after a term begins and now and then after that, since equal counts prove
//! nothing. A walk only adds, beside what is given out meanwhile, so it may add an entry of a job that has just ended.
//! Whoever sees that an entry's job waits no more drops it. What a walk could not mend (queued rows that cannot be read
//! have no entry) is no cause for the next one.

use std::time::Duration;

use common::ids::JobId;
use common::job::{Job, JobState};
use common::queue::QueueEntry;
use common::store::{StoreError, Stores, Topic};
use common::time::{Mono, SharedClock};

use super::term::{DutyError, Term};

/// Rows read at once: small enough that a walk over a million never holds the store or the term for long.
const CHUNK: usize = 1_000;

/// A walk without cause, each so many sweeps.
const SWEEPS_BETWEEN_WALKS: u32 = 60;

/// While the queue is shorter than the rows say and no walk mends it: what is lost beside that is not seen in the counts.
const SWEEPS_BETWEEN_VAIN_WALKS: u32 = 12;

/// Adds every queued row to the queue; again, when the queue is lost meanwhile.
///
/// # Errors
/// When the term ended, or the store does not answer.
pub async fn rebuild(stores: &Stores, term: &Term) -> Result<u64, DutyError> {
    loop {
        let build = stores.queue.begin_build().await?;
        let added = walk(stores, term).await?;
        if stores.queue.mark_built(&build).await? {
            stores.hints.send(Topic::Queue);
            tracing::info!(jobs = added, "the queue was made anew from the rows");
            return Ok(added);
        }
        tracing::warn!("the queue was lost while it was made anew: once more");
        term.check()?;
    }
}

async fn walk(stores: &Stores, term: &Term) -> Result<u64, DutyError> {
    let mut added = 0;
    let mut rows = stores.jobs.queued(None, CHUNK).await?;
    while let Some(last) = rows.last() {
        term.check()?;
        let after = Some(last.id);
        let entries: Vec<QueueEntry> = rows.iter().filter_map(QueueEntry::of).collect();
        // While the queue takes these, the rows behind them are read.
        let (pushed, next) = tokio::join!(stores.queue.push(&entries), stores.jobs.queued(after, CHUNK));
        pushed?;
        added += entries.len() as u64;
        rows = next?;
        tokio::task::yield_now().await;
    }
    Ok(added)
}

/// Whether what an entry says is still true of the row.
pub const fn waits(job: &Job) -> bool {
    matches!(job.state, JobState::Queued { .. }) && job.cancel.is_none()
}

/// Drops entries whose jobs were seen not to wait. One that has come back to the queue meanwhile is put back.
///
/// # Errors
/// [`StoreError`]
pub async fn drop_stale(stores: &Stores, stale: &[QueueEntry]) -> Result<(), StoreError> {
    if stale.is_empty() {
        return Ok(());
    }
    stores.queue.remove(stale).await?;
    let ids: Vec<JobId> = stale.iter().map(|entry| entry.job).collect();
    let rows = stores.jobs.get_many(&ids).await?;
    let back: Vec<QueueEntry> = rows.iter().filter_map(QueueEntry::of).collect();
    if !back.is_empty() {
        stores.queue.push(&back).await?;
    }
    Ok(())
}

/// Mends single losses for as long as the term lasts.
pub struct Reconcile {
    clock: SharedClock,
    sweep: Duration,
    next_walk: Mono,
    differed: bool,
    /// By how much the queue was still shorter after the last walk; less, when less was seen since.
    unmended: u64,
}

impl Reconcile {
    /// The first look walks: whoever led before may have died between a row and its entry.
    pub fn new(clock: SharedClock, sweep: Duration) -> Self {
        let next_walk = clock.mono();
        Self {
            clock,
            sweep,
            next_walk,
            differed: false,
            unmended: 0,
        }
    }

    /// One look; walks when there is cause.
    ///
    /// # Errors
    /// As [`rebuild`].
    pub async fn run(&mut self, stores: &Stores, term: &Term) -> Result<(), DutyError> {
        let short = shortage(stores).await?;
        self.unmended = self.unmended.min(short);
        let differs = short > self.unmended;
        let due = self.clock.mono() >= self.next_walk;
        if due || (differs && self.differed) {
            walk(stores, term).await?;
            stores.hints.send(Topic::Queue);
            self.unmended = shortage(stores).await?;
            let sweeps = match self.unmended {
                0 => SWEEPS_BETWEEN_WALKS,
                _ => SWEEPS_BETWEEN_VAIN_WALKS,
            };
            self.next_walk = self.clock.mono().after(self.sweep * sweeps);
            self.differed = false;
        } else {
            self.differed = differs;
        }
        Ok(())
    }
}

/// By how much the queue is shorter than the rows say. Longer is harmless.
async fn shortage(stores: &Stores) -> Result<u64, StoreError> {
    let queued = stores.jobs.count_queued().await?;
    Ok(queued.saturating_sub(stores.queue.len().await?))
}
