//! The connection to the control plane: one at a time, opened by the agent, allowed to die at any moment.
//!
//! A connection has two lanes out: control messages, and log chunks, which are sent only while no control message
//! waits, so that a flood of output never delays a heartbeat. All channels are bounded; a closed one means that the
//! connection is gone.

pub mod channel;
pub mod line;
pub mod websocket;

use async_trait::async_trait;
use bytes::Bytes;
use common::protocol::{FromWorker, ToWorker};
use tokio::sync::mpsc;

/// Control messages that may wait: a few for each attempt of a large node.
pub const CONTROL_QUEUE: usize = 256;

/// Log frames that may wait, 64 KiB each at the most.
pub const LOG_QUEUE: usize = 16;

/// Messages of the control plane that may wait for the agent.
pub const INBOX_QUEUE: usize = 64;

#[async_trait]
pub trait ServerLink: Send + Sync {
    /// Opens one connection. Nothing was said on it yet.
    ///
    /// # Errors
    /// [`LinkError`]; the session tries again, with back-off.
    async fn connect(&self) -> Result<Connection, LinkError>;
}

#[derive(Debug)]
pub struct Connection {
    pub outbox: Outbox,
    pub inbox: mpsc::Receiver<Incoming>,
}

/// Cheap to clone; every attempt has one while the connection lives.
#[derive(Debug, Clone)]
pub struct Outbox {
    pub control: mpsc::Sender<FromWorker>,
    /// Binary frames of [`common::protocol::binary`].
    pub logs: mpsc::Sender<Bytes>,
}

#[derive(Debug)]
pub enum Incoming {
    Message(ToWorker),
    /// The last thing on a connection.
    Closed(Closed),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The peer's WebSocket close code, where it gave one.
    pub code: Option<u16>,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the control plane refuses this worker's key (HTTP {status}){}", hint(*.skew_ms))]
    Refused { status: u16, skew_ms: Option<i64> },
    #[error("the control plane answered HTTP {status} instead of a WebSocket")]
    Answered { status: u16 },
    #[error("no connection in time")]
    TimedOut,
    #[error("no connection")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn hint(skew_ms: Option<i64>) -> String {
    skew_ms
        .map(|skew| format!(": this host's clock differs from the server's by {skew} ms"))
        .unwrap_or_default()
}
