//! What agents and gateways say to each other over one WebSocket that the agent opens (`GET /ws/worker`).
//!
//! Text frames carry one JSON message with a `type`; log chunks may travel as [`binary`] frames. Delivery is at least
//! once in both directions and every application is idempotent. Who is speaking is taken from the authenticated
//! session alone ([`token`]), never from a message.
//!
//! Order at the start: the agent sends `hello` within [`HANDSHAKE_DEADLINE_DEFAULT`]; the gateway answers `welcome`
//! with the session and a verdict for each attempt that the hello listed. From then on both speak freely.

pub mod binary;
mod messages;
pub mod token;

use std::time::Duration;

pub use self::messages::{
    Assignment, FromWorker, HeldAttempt, InputSource, ResultVerdict, ToWorker, Verdict, VerdictFor,
    WorkerSettings,
};

/// Raised when a message changes its meaning. A gateway also speaks the version before.
pub const PROTOCOL_VERSION: u32 = 1;

pub const WEBSOCKET_PATH: &str = "/ws/worker";

/// Inputs and artifacts of an attempt: `{prefix}{file id}?attempt={attempt id}`.
pub const FILES_PATH_PREFIX: &str = "/worker/files/";

pub const TOKEN_HEADER: &str = "x-worker-token";

/// Largest text frame, in bytes: a specification of 48 KiB with room for its envelope.
pub const CONTROL_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Largest binary frame: one chunk and its head.
pub const LOG_FRAME_BYTES_MAX: usize = crate::log::CHUNK_BYTES_MAX + binary::HEAD_LEN;

/// Most attempts that one `hello` or `heartbeat` may list: far above the slots of any node, and 64 ids of 30
/// characters stay far below a control frame.
pub const HELD_ATTEMPTS_MAX: usize = 512;

pub const HANDSHAKE_DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// How a gateway ends a connection, as WebSocket close codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The gateway shuts down; connect again at once.
    GoingAway = 1001,
    FrameTooLarge = 1009,
    /// Not JSON, not a known message, or out of order.
    BadMessage = 4400,
    /// The key was revoked, or the worker is unknown.
    Unauthorized = 4401,
    /// A message spoke of an attempt that is another worker's.
    NotYours = 4403,
    /// No `hello`, or no pong, in time.
    TooSlow = 4408,
    /// A newer connection speaks for this session.
    Superseded = 4409,
    VersionMismatch = 4426,
}

impl CloseCode {
    pub const fn code(self) -> u16 {
        self as u16
    }
}
