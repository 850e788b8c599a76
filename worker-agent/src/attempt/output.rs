//! The output of an attempt: from the run to the spool, and from the spool to the link.
//!
//! Invariants: a chunk is acknowledged to init only once it is spooled; the spool loses nothing that is still to be
//! stored. Output that cannot be spooled ends the run as the agent's fault; a spool that cannot be read leaves the log
//! incomplete, and the report goes without.

use std::io;
use std::sync::{Arc, PoisonError};

use common::log::LogChunk;
use common::protocol::binary;
use futures_util::FutureExt;

use super::steps::millis;
use super::{Attempt, Phase, Way, later, outcome};
use crate::executor::{Chunk, ExecEvent, StopWhy};
use crate::spool::Spool;

/// Chunks that are written to the spool in one go, where they are there already.
const BATCH_CHUNKS: usize = 32;

impl Attempt {
    /// Spools a chunk and those that are there already, then acknowledges them.
    pub(super) async fn on_chunks(&mut self, first: Chunk) -> Way {
        if self.first_byte_ms.is_none()
            && let Some(at) = self.held.started_at
        {
            self.first_byte_ms = Some(millis(self.context.clock.mono().since(at)));
        }
        let mut seq = first.seq;
        let mut batch = vec![first];
        let mut then = None;
        if let Phase::Running(running) = &mut self.phase {
            while batch.len() < BATCH_CHUNKS {
                match running.next().now_or_never() {
                    Some(ExecEvent::Chunk(chunk)) => {
                        seq = chunk.seq;
                        batch.push(chunk);
                    }
                    Some(other) => {
                        then = Some(other);
                        break;
                    }
                    None => break,
                }
            }
        }
        let written = self
            .with_spool(move |spool| batch.iter().try_for_each(|chunk| spool.append(chunk)))
            .await;
        self.read_all = false;
        match written {
            Ok(()) => {
                if let Phase::Running(running) = &mut self.phase {
                    running.ack(seq).await;
                }
            }
            Err(error) => {
                tracing::error!(attempt = %self.id(), %error, "output cannot be spooled; the run is ended");
                self.fault
                    .get_or_insert_with(|| outcome::infra("the agent's disk does not take the job's output"));
                self.stop_run(StopWhy::Drain).await;
            }
        }
        match then {
            Some(ExecEvent::Started) => {
                self.on_started().await;
                Way::On
            }
            Some(ExecEvent::Ended(ended)) => self.on_ended(ended).await,
            Some(ExecEvent::Chunk(_)) | None => Way::On,
        }
    }

    pub(super) async fn on_stored(&mut self, stored: [Option<u64>; 2], stale: bool) {
        for stream in common::log::Stream::ALL {
            if let Some(seq) = stored[stream.index()] {
                self.pump.acknowledged(stream, seq);
                self.expect_progress();
            }
        }
        if stale {
            self.pump.give_up();
            self.frames.clear();
        }
        let before = self.pump.stored_before();
        if before.segment() > self.released {
            self.released = before.segment();
            if let Err(error) = self.with_spool(move |spool| spool.release(before)).await {
                tracing::warn!(attempt = %self.id(), %error, "stored output cannot be deleted from the spool");
            }
        }
    }

    /// Reads the next chunks for the link, and notices when the whole log is stored.
    pub(super) async fn read_ahead(&mut self) {
        self.hand_over();
        while self.outbox.is_some() && self.frames.is_empty() && !self.read_all {
            let Some((from, room)) = self.pump.wants() else {
                break;
            };
            let read = self.with_spool(move |spool| spool.read(from, room)).await;
            let records = match read {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(attempt = %self.id(), %error, "the spool cannot be read; the log stays incomplete");
                    self.pump.give_up();
                    break;
                }
            };
            self.read_all = records.is_empty();
            for record in records {
                if self.pump.take(&record) {
                    let chunk = LogChunk {
                        attempt: self.id(),
                        stream: record.chunk.stream,
                        seq: record.chunk.stream_seq,
                        bytes: record.chunk.bytes,
                    };
                    self.frames
                        .push_back(binary::encode(self.held.assignment.job, &chunk));
                }
            }
            self.hand_over();
        }
        let stored = self.pump.is_stale() || (self.read_all && self.pump.is_idle());
        if stored && !self.log_done && matches!(self.phase, Phase::Reporting) && self.outbox.is_some() {
            self.say_result();
        }
    }

    /// Gives the link as many frames as it takes at once: a job that never stops printing must not keep what it has
    /// printed from being sent. A link that is gone is noticed where frames wait for it.
    fn hand_over(&mut self) {
        let Some(outbox) = &self.outbox else { return };
        while !self.frames.is_empty()
            && let Ok(permit) = outbox.logs.try_reserve()
            && let Some(frame) = self.frames.pop_front()
        {
            permit.send(frame);
        }
    }

    /// The wait for the log begins anew, while there is a connection and a report that waits.
    pub(super) fn expect_progress(&mut self) {
        let waits = matches!(self.phase, Phase::Reporting) && self.outbox.is_some() && !self.log_done;
        self.log_until = if waits {
            later(self.context.limits.log_wait)
        } else {
            None
        };
    }

    pub(super) fn seal(&mut self) {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner).seal();
        self.read_all = false;
    }

    async fn with_spool<T, F>(&mut self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    {
        let spool = Arc::clone(&self.spool);
        let disk = self.context.disk;
        disk.run(move || work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
    }
}
