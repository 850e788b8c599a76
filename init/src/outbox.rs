//! What has to reach the agent: the ring of unacknowledged frames, and the one being written.
//!
//! A frame is encoded once, so a repeat is byte for byte the same. The ring's size counts each frame's
//! bookkeeping, so that many small chunks are as bounded as few large ones; the ending always fits. Nothing here
//! waits: what cannot be written now is written later.

use std::collections::VecDeque;

use jobworker_init::protocol::{
    CHUNK_BYTES_MAX, Data, Frame, Stream, StreamTotal, Totals, WIRE_FRAME_BYTES_MAX, encode_frame,
};

use crate::sys::fd::Moved;

/// What a held frame costs beside its bytes: its entry and the allocator's own.
const HELD_OVERHEAD: usize = 64;
/// Small frames are written together up to this size: what a pipe holds.
const BATCH_BYTES: usize = 64 * 1024;

/// A frame without a number, made at the moment that it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnumbered {
    Ready,
    Started,
}

pub struct Outbox {
    capacity: usize,
    held: VecDeque<Box<[u8]>>,
    held_bytes: usize,
    /// Everything up to here was acknowledged; `held` begins behind it.
    acked_seq: u64,
    last_seq: u64,
    /// The last one that went into `batch`.
    sent_seq: u64,
    ready_due: bool,
    started_due: bool,
    totals: Totals,
    batch: Vec<u8>,
    written: usize,
}

impl Outbox {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            held: VecDeque::new(),
            held_bytes: 0,
            acked_seq: 0,
            last_seq: 0,
            sent_seq: 0,
            ready_due: true,
            started_due: false,
            totals: Totals::default(),
            batch: Vec::new(),
            written: 0,
        }
    }

    pub fn acked_seq(&self) -> u64 {
        self.acked_seq
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// No room for a whole chunk: stop reading from the job.
    pub fn is_full(&self) -> bool {
        self.held_bytes + WIRE_FRAME_BYTES_MAX + HELD_OVERHEAD > self.capacity
    }

    /// Numbers a chunk and holds it. Only while not [full](Self::is_full).
    pub fn push_data(&mut self, stream: Stream, bytes: &[u8]) {
        debug_assert!(!bytes.is_empty() && bytes.len() <= CHUNK_BYTES_MAX);
        let total: &mut StreamTotal = match stream {
            Stream::Stdout => &mut self.totals.stdout,
            Stream::Stderr => &mut self.totals.stderr,
        };
        let stream_seq = total.chunks;
        total.chunks += 1;
        total.bytes += bytes.len() as u64;
        let data = Data {
            seq: self.last_seq + 1,
            stream,
            stream_seq,
            bytes: bytes.to_vec(),
        };
        self.hold(&Frame::Data(data));
    }

    /// Numbers the ending and holds it, even when full: it is small and there is one.
    pub fn push_ending(&mut self, make: impl FnOnce(u64, Totals) -> Frame) {
        let frame = make(self.last_seq + 1, self.totals);
        self.hold(&frame);
    }

    fn hold(&mut self, frame: &Frame) {
        let wire = encode_frame(frame).expect("a chunk is read into a buffer of the largest payload");
        self.last_seq += 1;
        self.held_bytes += wire.len() + HELD_OVERHEAD;
        self.held.push_back(wire.into_boxed_slice());
    }

    /// Forgets everything up to and including `seq`. A number that was never given is no acknowledgement.
    pub fn ack(&mut self, seq: u64) {
        if seq > self.last_seq {
            return;
        }
        while self.acked_seq < seq {
            let Some(wire) = self.held.pop_front() else { break };
            self.held_bytes -= wire.len() + HELD_OVERHEAD;
            self.acked_seq += 1;
        }
        self.sent_seq = self.sent_seq.max(self.acked_seq);
    }

    /// A new attacher has everything up to `seq`. What is half-written is finished first, so that the frames
    /// behind it are whole.
    pub fn resume(&mut self, seq: u64, started: bool) {
        self.sent_seq = seq.clamp(self.acked_seq, self.last_seq);
        self.ready_due = true;
        self.started_due = started;
    }

    pub fn started(&mut self) {
        self.started_due = true;
    }

    pub fn wants_to_write(&self) -> bool {
        self.written < self.batch.len() || self.ready_due || self.started_due || self.sent_seq < self.last_seq
    }

    /// Writes until nothing is left or `write` has enough; says how the last write went.
    pub fn flush(
        &mut self,
        mut unnumbered: impl FnMut(Unnumbered) -> Frame,
        mut write: impl FnMut(&[u8]) -> Moved,
    ) -> Moved {
        loop {
            if self.written == self.batch.len() {
                self.refill(&mut unnumbered);
                if self.batch.is_empty() {
                    return Moved::Bytes(0);
                }
            }
            match write(&self.batch[self.written..]) {
                Moved::Bytes(n) => self.written += n,
                stopped @ (Moved::Later | Moved::Gone) => return stopped,
            }
        }
    }

    fn refill(&mut self, unnumbered: &mut impl FnMut(Unnumbered) -> Frame) {
        self.batch.clear();
        self.written = 0;
        for (due, kind) in [
            (&mut self.ready_due, Unnumbered::Ready),
            (&mut self.started_due, Unnumbered::Started),
        ] {
            if std::mem::take(due) {
                let wire = encode_frame(&unnumbered(kind)).expect("ready and started are small");
                self.batch.extend_from_slice(&wire);
            }
        }
        while let Some(wire) = usize::try_from(self.sent_seq - self.acked_seq)
            .ok()
            .and_then(|at| self.held.get(at))
        {
            if !self.batch.is_empty() && self.batch.len() + wire.len() > BATCH_BYTES {
                break;
            }
            self.batch.extend_from_slice(wire);
            self.sent_seq += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use jobworker_init::protocol::{FrameDecoder, Started};

    use super::*;

    fn flushed(outbox: &mut Outbox) -> Vec<Frame> {
        let mut wire: Vec<u8> = Vec::new();
        outbox.flush(
            |_| Frame::Started(Started { boot_clock_ms: 1 }),
            |part| {
                wire.extend_from_slice(&part[..1]);
                Moved::Bytes(1)
            },
        );
        let (mut decoder, mut input, mut frames) = (FrameDecoder::new(), wire.as_slice(), Vec::new());
        while let Some(frame) = decoder.next_frame(&mut input) {
            frames.push(frame);
        }
        assert_eq!(decoder.broken_frames(), 0);
        frames
    }

    fn seqs(frames: &[Frame]) -> Vec<u64> {
        frames.iter().filter_map(Frame::seq).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_the_same() {
        let mut outbox = Outbox::new(1 << 20);
        for n in 0..5 {
            outbox.push_data(Stream::Stdout, &[n]);
        }
        let first = flushed(&mut outbox);
        assert_eq!(seqs(&first), [1, 2, 3, 4, 5]);
        outbox.ack(2);
        assert!(!outbox.wants_to_write());
        outbox.resume(3, false);
        assert_eq!(flushed(&mut outbox)[1..], first[4..]);
        outbox.resume(0, false);
        assert_eq!(seqs(&flushed(&mut outbox)), [3, 4, 5]);
        outbox.resume(u64::MAX, false);
        assert!(seqs(&flushed(&mut outbox)).is_empty());
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_given_changes_nothing() {
        let mut outbox = Outbox::new(1 << 20);
        outbox.push_data(Stream::Stdout, b"x");
        outbox.ack(2);
        outbox.ack(u64::MAX);
        assert_eq!((outbox.acked_seq(), outbox.held.len()), (0, 1));
        outbox.ack(1);
        assert_eq!((outbox.acked_seq(), outbox.held_bytes), (1, 0));
    }

    #[test]
    fn many_small_chunks_are_as_bounded_as_few_large_ones() {
        for len in [1, CHUNK_BYTES_MAX] {
            let mut outbox = Outbox::new(256 * 1024);
            while !outbox.is_full() {
                outbox.push_data(Stream::Stderr, &vec![0; len]);
            }
            let real: usize = outbox.held.iter().map(|wire| wire.len() + HELD_OVERHEAD).sum();
            assert!(real <= 256 * 1024, "{real}");
            outbox.ack(1);
            assert!(!outbox.is_full() || len == 1);
        }
    }
}
