//! Output of an attempt: bytes, numbered per stream, kept as they came.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::AttemptId;

/// Largest payload of one chunk, in bytes: a frame of `jobworker-init` is one chunk all the way to the store.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Highest number of a chunk, and of anything that a report counts: what a reader of JSON holds exactly and every store
/// takes, and far beyond what a job can print.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// What a chunk costs at the least against a cap, so that a flood of empty ones is a flood too.
pub const CHUNK_CHARGE_MIN: u64 = 16;

/// Default cap of one attempt's log, both streams together; a setting of the account.
pub const LOG_BYTES_MAX_DEFAULT: u64 = 64 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// 0 for stdout, 1 for stderr: the index of small tables and the byte in binary frames.
    pub const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }

    pub const fn from_index(index: u8) -> Option<Self> {
        match index {
            0 => Some(Self::Stdout),
            1 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// `(attempt, stream, seq)` is the key; the same key again is a repeat and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    pub attempt: AttemptId,
    pub stream: Stream,
    /// 0 for the stream's first chunk, without gaps but for one dropped range past the cap.
    pub seq: u64,
    pub bytes: Bytes,
}

/// What was said of both streams at the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogEnd {
    pub stdout: StreamEnd,
    pub stderr: StreamEnd,
}

impl LogEnd {
    pub const fn of(&self, stream: Stream) -> &StreamEnd {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    pub fn of_mut(&mut self, stream: Stream) -> &mut StreamEnd {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamEnd {
    /// How many chunks the job's output made, dropped ones included.
    pub chunks: u64,
    pub bytes: u64,
    /// The middle that the cap dropped on purpose; head and tail are kept.
    pub dropped: Option<DroppedRange>,
}

/// Chunks `from..until` of a stream, not kept on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedRange {
    pub from: u64,
    pub until: u64,
    pub bytes: u64,
}

/// Ranges `(from, until)` of chunk numbers that should be stored and are not, at most [`Self::RANGES_MAX`] a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MissingLogs {
    pub stdout: Vec<(u64, u64)>,
    pub stderr: Vec<(u64, u64)>,
}

impl MissingLogs {
    /// Enough to say where; a log with more holes is broken past telling.
    pub const RANGES_MAX: usize = 64;

    pub fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}
