//! The protocol between the agent and PID 1 of a job's container.
//!
//! * Agent to init (standard input): [`ControlLine`]s, written by [`encode_line`], read by [`LineDecoder`],
//!   filtered by [`Gate`] (the highest attach generation is obeyed).
//! * Init to agent (standard output): [`Frame`]s, written by [`encode_frame`], read by [`FrameDecoder`].
//!
//! Invariants: neither decoder panics or grows past its named limit, whatever bytes come; a decoder that starts
//! in the middle of a frame finds the next whole one and cannot be lured by a job's own output (see `wire`).
//! All times are milliseconds of `CLOCK_BOOTTIME`; all durations are milliseconds.

mod control;
mod frame;
mod stuffing;
mod wire;

pub use control::{
    Command, ControlLine, Dropped, GRACE_MAX_DEFAULT_MS, Gate, LINE_BYTES_MAX, LineDecoder, LineTooLong, Run,
    StopReason, encode_line,
};
pub use frame::{
    Data, EndedBy, Exit, ExitStatus, Frame, NotStarted, NotStartedReason, Phase, Ready, Rusage, Started,
    Stream, StreamTotal, Totals,
};
pub use wire::{CHUNK_BYTES_MAX, FrameDecoder, FrameTooLarge, WIRE_FRAME_BYTES_MAX, encode_frame};

/// Raised when an older peer could not understand what a newer one says. Init names it in [`Ready`]; the agent
/// speaks to the init of one version back.
pub const PROTOCOL_VERSION: u8 = 1;
