//! Which chunks are on their way to the control plane, and from where to send again.
//!
//! Pure: the spool keeps the chunks, the attempt moves them. At most a window of chunks is unacknowledged at
//! a time, so memory is flat however far the control plane lags; after a lost connection sending goes on from
//! the first chunk that was not acknowledged. An acknowledgement holds for everything of its stream up to its
//! number, and for good.

use std::collections::VecDeque;

use common::log::Stream;

use crate::spool::{Position, Spooled};

/// Most bytes on their way at a time: enough for 100 MB/s at 40 ms a round trip, of which a busy disk takes
/// most. None of them is held here: what has to be sent again is read again.
pub const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// Most bytes read ahead at a time, which are held until the link has taken them.
const READ_BYTES: usize = 256 * 1024;

/// Most chunks on their way at a time, for jobs that print byte by byte.
pub const WINDOW_CHUNKS: usize = 1024;

#[derive(Debug)]
pub struct Pump {
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Where to go on reading.
    next: Position,
    /// For each stream, the chunk after the last one that is known to be stored.
    stored_until: [u64; 2],
    /// The control plane wants no more of it.
    stale: bool,
}

#[derive(Debug)]
struct InFlight {
    stream: Stream,
    seq: u64,
    len: usize,
    at: Position,
}

impl Pump {
    pub const fn new(start: Position) -> Self {
        Self {
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            next: start,
            stored_until: [0; 2],
            stale: false,
        }
    }

    /// Where to read on, if the window has room; and how much.
    pub fn wants(&self) -> Option<(Position, usize)> {
        let room = WINDOW_BYTES.saturating_sub(self.in_flight_bytes);
        (!self.stale && room > 0 && self.in_flight.len() < WINDOW_CHUNKS)
            .then_some((self.next, room.min(READ_BYTES)))
    }

    /// A record was read in order. True: send it; false: it is stored already.
    pub fn take(&mut self, record: &Spooled) -> bool {
        self.next = record.next;
        let chunk = &record.chunk;
        if self.stale || chunk.stream_seq < self.stored_until[chunk.stream.index()] {
            return false;
        }
        self.in_flight_bytes += chunk.bytes.len();
        self.in_flight.push_back(InFlight {
            stream: chunk.stream,
            seq: chunk.stream_seq,
            len: chunk.bytes.len(),
            at: record.at,
        });
        true
    }

    /// Everything of `stream` up to and including `seq` is stored.
    pub fn acknowledged(&mut self, stream: Stream, seq: u64) {
        let until = &mut self.stored_until[stream.index()];
        *until = (*until).max(seq.saturating_add(1));
        let stored_until = self.stored_until;
        self.in_flight
            .retain(|chunk| chunk.seq >= stored_until[chunk.stream.index()]);
        self.in_flight_bytes = self.in_flight.iter().map(|chunk| chunk.len).sum();
    }

    /// Nothing further is wanted.
    pub fn give_up(&mut self) {
        self.stale = true;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The connection was lost: what was on its way is sent again.
    pub fn disconnected(&mut self) {
        self.next = self.stored_before();
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// Everything before this place is stored.
    pub fn stored_before(&self) -> Position {
        self.in_flight.front().map_or(self.next, |first| first.at)
    }

    /// Nothing is on its way. With nothing left to read either, the whole log is stored.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub const fn is_stale(&self) -> bool {
        self.stale
    }
}
