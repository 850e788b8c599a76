//! Frames: what init tells the agent.
//!
//! `seq` numbers what has to be acknowledged (data and the ending), over both streams, from 1 and without gaps.
//! `stream_seq` numbers the chunks of one stream from 0: it is the log chunk's number in the whole system. A
//! repeat after `resume` is byte for byte the same. `ready` and `started` carry no number: they are sent again
//! after each `resume`.

use serde::{Deserialize, Serialize};

use super::control::StopReason;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Ready(Ready),
    Started(Started),
    Data(Data),
    Exit(Exit),
    NotStarted(NotStarted),
}

impl Frame {
    /// The number to acknowledge, if this frame has one.
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Ready(_) | Self::Started(_) => None,
            Self::Data(data) => Some(data.seq),
            Self::Exit(exit) => Some(exit.seq),
            Self::NotStarted(not) => Some(not.seq),
        }
    }
}

/// Sent when init is up, and again after each `resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    pub protocol: u8,
    /// Init's `CLOCK_BOOTTIME` when the frame was made; deadlines are computed from it, so that a delay in any
    /// pipe only shortens them.
    pub boot_clock_ms: u64,
    pub phase: Phase,
    /// The highest attach generation seen, 0 before the first line.
    pub generation: u64,
    /// Everything up to here was acknowledged and is no longer held.
    pub acked_seq: u64,
    /// The last number given so far, 0 for none.
    pub last_seq: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// `run` has not come yet.
    Waiting,
    /// `run` has come; the job is being started, runs, or is being cleared away.
    Running,
    /// `exit` or `not_started` has been given its number.
    Ended,
}

/// The command replaced init's child: the job runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub boot_clock_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One log chunk: 1 to [`CHUNK_BYTES_MAX`](super::CHUNK_BYTES_MAX) bytes as the job wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    pub seq: u64,
    pub stream: Stream,
    pub stream_seq: u64,
    pub bytes: Vec<u8>,
}

/// The job ran and is over; nothing of it lives any more and all of its output has lower numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub seq: u64,
    /// How the main process ended.
    pub status: ExitStatus,
    pub ended_by: EndedBy,
    /// Over all of the job's processes that were reaped.
    pub rusage: Rusage,
    /// How often the kernel's memory killer struck in this container during the job, if that can be read.
    pub oom_kills: Option<u64>,
    pub totals: Totals,
    pub started_at_ms: u64,
    /// When the main process was reaped.
    pub ended_at_ms: u64,
}

impl Exit {
    /// Whether the kernel's memory killer struck, if that can be known.
    pub fn oom(&self) -> Option<bool> {
        self.oom_kills.map(|kills| kills > 0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    Code(i32),
    Signal(i32),
}

/// What began the end. The first cause counts, and only if it came before the main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// Nobody asked: the main process ended, or was killed by something that is not init's doing.
    Itself,
    Stop {
        why: StopReason,
    },
    /// The deadline passed without renewal.
    Deadline,
    /// The engine's own signal while no stop was asked: the infrastructure's doing.
    Engine,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rusage {
    pub user_us: u64,
    pub system_us: u64,
    /// Of the largest single process.
    pub max_rss_kib: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub stdout: StreamTotal,
    pub stderr: StreamTotal,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTotal {
    /// Also the number that the next chunk would have had.
    pub chunks: u64,
    pub bytes: u64,
}

/// No process of the job ever ran its command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotStarted {
    pub seq: u64,
    pub reason: NotStartedReason,
    pub totals: Totals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotStartedReason {
    NoSuchCommand,
    NotExecutable,
    WrongArchitecture,
    BadWorkingDirectory,
    /// `stop` came before `run`.
    Stopped,
    /// `run` came when its deadline had already passed: starting would outlive the lease.
    DeadlinePassed,
    Other {
        errno: i32,
    },
}
