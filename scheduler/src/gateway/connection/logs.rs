//! Chunks on their way into the store: one append under way, the next one collecting, the rest still with the agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::ids::{AttemptId, JobId};
use common::log::{CHUNK_BYTES_MAX, CHUNK_CHARGE_MIN, LogChunk, Stream};
use common::protocol::ToWorker;
use common::time::Mono;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::known::Known;
use super::{Connection, Done, End};

/// Bytes of one append that every connection may have. It holds twice this at the most of its own.
const APPEND_BYTES_OWN: usize = 256 * 1024;

/// Bytes of one append where the gateway has them to lend: each waits for the disk once, so the more it carries the
/// less a flood waits.
const APPEND_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What all connections of a gateway may hold beyond their own: a few that flood at a time, and little memory.
pub const LENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Chunks of one append: small ones cost their heads.
const APPEND_CHUNKS_MAX: usize = 512;

/// Bytes of one attempt between two looks at the size of its log.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// How much larger than its account's cap a log may be: the cap is the agent's to keep, with a share for the last chunk
/// and a cap that was lowered meanwhile; this bound is ours, for an agent that does not.
const CAPS_MAX: u64 = 2;

pub struct ChunkQueue {
    /// Being stored, and kept until they are.
    flying: Vec<(JobId, LogChunk)>,
    flying_lent: Option<OwnedSemaphorePermit>,
    under_way: bool,
    waiting: Vec<(JobId, LogChunk)>,
    waiting_bytes: usize,
    waiting_lent: Option<OwnedSemaphorePermit>,
    /// The bytes that the gateway lends.
    lender: Arc<Semaphore>,
    /// Chunks received, and those of them that are stored, in the order of receiving.
    received: u64,
    stored: u64,
}

impl ChunkQueue {
    pub const fn new(lender: Arc<Semaphore>) -> Self {
        Self {
            flying: Vec::new(),
            flying_lent: None,
            under_way: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            waiting_lent: None,
            lender,
            received: 0,
            stored: 0,
        }
    }

    pub fn is_full(&self) -> bool {
        self.waiting_bytes >= APPEND_BYTES_MAX
            || self.waiting.len() >= APPEND_CHUNKS_MAX
            || (self.waiting_bytes >= APPEND_BYTES_OWN && self.lender.available_permits() < CHUNK_BYTES_MAX)
    }

    fn put(&mut self, job: JobId, chunk: LogChunk) {
        self.received += 1;
        let bytes = chunk.bytes.len();
        self.waiting.push((job, chunk));
        self.waiting_bytes += bytes;
        if self.waiting_bytes <= APPEND_BYTES_OWN {
            return;
        }
        // Where another connection was quicker it is this one chunk too many.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(lent) = Arc::clone(&self.lender).try_acquire_many_owned(bytes) {
            match &mut self.waiting_lent {
                Some(before) => before.merge(lent),
                None => self.waiting_lent = Some(lent),
            }
        }
    }

    /// What waits is to be stored now.
    fn fly(&mut self) {
        self.flying = std::mem::take(&mut self.waiting);
        self.flying_lent = self.waiting_lent.take();
        self.waiting_bytes = 0;
    }

    fn landed(&mut self) -> Vec<(JobId, LogChunk)> {
        self.flying_lent = None;
        self.stored += self.flying.len() as u64;
        std::mem::take(&mut self.flying)
    }

    pub const fn received(&self) -> u64 {
        self.received
    }

    pub const fn stored(&self) -> u64 {
        self.stored
    }
}

impl Connection {
    pub(super) fn take_chunk(&mut self, job: JobId, chunk: LogChunk) {
        self.chunks.put(job, chunk);
        self.append();
    }

    /// Whether a chunk may be stored, as far as the size of its attempt's log goes. Repeats cost a look now and then,
    /// and nothing of the cap.
    pub(super) async fn has_room(&mut self, job: JobId, chunk: &LogChunk) -> Result<bool, End> {
        let Some(known) = self.attempts.get(chunk.attempt) else {
            return Ok(true);
        };
        known.unlooked += (chunk.bytes.len() as u64).max(CHUNK_CHARGE_MIN);
        if known.flooded || known.unlooked < LOOK_EVERY {
            return Ok(!known.flooded);
        }
        known.unlooked = 0;
        let stores = &self.gateway.stores;
        let Some(row) = stores.jobs.get(job).await? else {
            return Ok(false);
        };
        let cap = self.gateway.accounts.settings(&row.account).await.log_bytes_max;
        let extent = stores.logs.extent(chunk.attempt).await?;
        let [out, err] = Stream::ALL.map(|stream| extent.of(stream));
        let charge = (out.bytes + err.bytes).max((out.chunks + err.chunks).saturating_mul(CHUNK_CHARGE_MIN));
        let flooded = charge > cap.saturating_mul(CAPS_MAX);
        if flooded {
            tracing::warn!(
                worker = %self.worker, %job, attempt = %chunk.attempt, charge, cap,
                "a worker sends more output than its account may keep; the rest is not stored"
            );
        }
        if let Some(known) = self.attempts.get(chunk.attempt) {
            known.flooded = flooded;
        }
        Ok(!flooded)
    }

    /// Begins the next append if none is under way.
    pub(super) fn append(&mut self) {
        let queue = &mut self.chunks;
        if queue.under_way {
            return;
        }
        if queue.flying.is_empty() {
            queue.fly();
        }
        if queue.flying.is_empty() {
            return;
        }
        queue.under_way = true;
        // The bytes are shared, not copied.
        let batch = queue.flying.iter().map(|(_, chunk)| chunk.clone()).collect();
        let stored = self.gateway.chunks.ask(batch);
        self.begin(async move { Done::Stored(stored.await.unwrap_or(false)) });
    }

    /// An append that failed is tried again after a moment.
    pub(super) fn chunks_stored(&mut self, stored: bool) {
        self.chunks.under_way = false;
        let now = self.gateway.clock.mono();
        if !stored {
            self.watch.again(now);
            return;
        }
        let flown = self.chunks.landed();
        let mut touched = BTreeSet::new();
        for (_, chunk) in &flown {
            if let Some(known) = self.attempts.get(chunk.attempt) {
                let track = known.track(chunk.stream);
                track.stored(chunk.seq, now);
                self.watch.gap_by(track.overdue_at());
                touched.insert((chunk.attempt, chunk.stream));
            }
        }
        for (attempt, stream) in touched {
            self.acknowledge(attempt, stream);
        }
        self.append();
        self.settle();
    }

    /// Gaps that nobody fills are the middle that the agent dropped.
    pub(super) fn pass_gaps(&mut self, now: Mono) {
        for (attempt, stream) in self.attempts.overdue(now) {
            if let Some(known) = self.attempts.get(attempt) {
                known.track(stream).jump(now);
            }
            self.acknowledge(attempt, stream);
        }
        self.watch.gap_by(self.attempts.first_overdue());
    }

    /// Where the store ended before this connection, so that what came by an older one counts. An attempt that was
    /// assigned here, and that the agent did not have before, begins at nothing.
    pub(super) async fn load_tracks(&mut self, attempt: AttemptId) -> Result<(), End> {
        let Some(known) = self.attempts.get(attempt) else {
            return Ok(());
        };
        if known.tracks_loaded {
            return Ok(());
        }
        known.tracks_loaded = true;
        if known.assigned && !known.in_hello {
            return Ok(());
        }
        let extent = self.gateway.stores.logs.extent(attempt).await?;
        if let Some(known) = self.attempts.get(attempt) {
            for stream in Stream::ALL {
                known.track(stream).begin_at(extent.of(stream).next_seq);
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, attempt: AttemptId, stream: Stream) {
        let Some(known) = self.attempts.get(attempt) else {
            return;
        };
        let Known { job, .. } = *known;
        if let Some(seq) = known.track(stream).acknowledge() {
            self.socket.put(&ToWorker::LogAck {
                job,
                attempt,
                stream,
                seq,
                stale: false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(queue: &mut ChunkQueue, seq: u64) {
        let chunk = LogChunk {
            attempt: AttemptId::from_u128(1),
            stream: Stream::Stdout,
            seq,
            bytes: Bytes::from_static(&[0; CHUNK_BYTES_MAX]),
        };
        queue.put(JobId::from_u128(1), chunk);
    }

    /// Chunks taken until it is full.
    fn fill(queue: &mut ChunkQueue) -> usize {
        (0..)
            .find(|seq| {
                let full = queue.is_full();
                if !full {
                    put(queue, *seq);
                }
                full
            })
            .map_or(0, |seq| usize::try_from(seq).unwrap_or(usize::MAX))
    }

    #[test]
    fn a_connection_borrows_while_there_is_something_to_lend_and_gives_it_back() {
        let lender = Arc::new(Semaphore::new(APPEND_BYTES_MAX));
        let (mut one, mut other) = (
            ChunkQueue::new(Arc::clone(&lender)),
            ChunkQueue::new(Arc::clone(&lender)),
        );
        assert_eq!(fill(&mut one) * CHUNK_BYTES_MAX, APPEND_BYTES_MAX);
        one.fly();
        let taken = fill(&mut one) + fill(&mut other);
        assert_eq!(lender.available_permits(), 0);
        assert_eq!(taken * CHUNK_BYTES_MAX, 3 * APPEND_BYTES_OWN);
        assert_eq!(one.landed().len() * CHUNK_BYTES_MAX, APPEND_BYTES_MAX);
        assert_eq!(lender.available_permits(), APPEND_BYTES_MAX - APPEND_BYTES_OWN);
        assert!(!other.is_full());
        drop((one, other));
        assert_eq!(lender.available_permits(), APPEND_BYTES_MAX);
    }
}
