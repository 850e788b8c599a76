//! Chunks on their way into the store: one append under way, the next one collecting, the rest still with the agent.

use std::collections::BTreeSet;

use common::ids::{AttemptId, JobId};
use common::log::{CHUNK_CHARGE_MIN, LogChunk, Stream};
use common::protocol::ToWorker;
use common::time::Mono;

use super::known::Known;
use super::{Connection, Done, End};

/// Bytes of one append. A connection holds twice this at the most.
const APPEND_BYTES_MAX: usize = 256 * 1024;

/// Chunks of one append: small ones cost their heads.
const APPEND_CHUNKS_MAX: usize = 512;

/// Bytes of one attempt between two looks at the size of its log.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// How much larger than its account's cap a log may be: the cap is the agent's to keep, with a share for the last chunk
/// and a cap that was lowered meanwhile; this bound is ours, for an agent that does not.
const CAPS_MAX: u64 = 2;

#[derive(Default)]
pub struct ChunkQueue {
    /// Being stored, and kept until they are.
    flying: Vec<(JobId, LogChunk)>,
    under_way: bool,
    waiting: Vec<(JobId, LogChunk)>,
    waiting_bytes: usize,
    /// Chunks received, and those of them that are stored, in the order of receiving.
    received: u64,
    stored: u64,
}

impl ChunkQueue {
    pub const fn is_full(&self) -> bool {
        self.waiting_bytes >= APPEND_BYTES_MAX || self.waiting.len() >= APPEND_CHUNKS_MAX
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
        self.chunks.received += 1;
        self.chunks.waiting_bytes += chunk.bytes.len();
        self.chunks.waiting.push((job, chunk));
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
            queue.flying = std::mem::take(&mut queue.waiting);
            queue.waiting_bytes = 0;
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

    /// An append that failed is tried again at the next tick.
    pub(super) fn chunks_stored(&mut self, stored: bool) {
        self.chunks.under_way = false;
        if !stored {
            return;
        }
        let now = self.gateway.clock.mono();
        let flown = std::mem::take(&mut self.chunks.flying);
        self.chunks.stored += flown.len() as u64;
        let mut touched = BTreeSet::new();
        for (_, chunk) in &flown {
            if let Some(known) = self.attempts.get(chunk.attempt) {
                known.track(chunk.stream).stored(chunk.seq, now);
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
