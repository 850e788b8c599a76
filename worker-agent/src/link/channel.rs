//! The link's twin without a socket, for tests: whoever holds the [`ChannelServer`] plays the gateway.

use async_trait::async_trait;
use bytes::Bytes;
use common::protocol::{FromWorker, ToWorker};
use tokio::sync::mpsc;

use super::{
    CONTROL_QUEUE, Closed, Connection, INBOX_QUEUE, Incoming, LOG_QUEUE, LinkError, Outbox, ServerLink,
};

/// Connections that may wait to be accepted.
const BACKLOG: usize = 4;

pub fn channel() -> (ChannelLink, ChannelServer) {
    let (dial, accept) = mpsc::channel(BACKLOG);
    (ChannelLink { dial }, ChannelServer { accept })
}

#[derive(Debug)]
pub struct ChannelLink {
    dial: mpsc::Sender<ServerEnd>,
}

#[derive(Debug)]
pub struct ChannelServer {
    accept: mpsc::Receiver<ServerEnd>,
}

/// The gateway's end of one connection; dropping it cuts the connection.
#[derive(Debug)]
pub struct ServerEnd {
    pub control: mpsc::Receiver<FromWorker>,
    pub logs: mpsc::Receiver<Bytes>,
    to_worker: mpsc::Sender<Incoming>,
}

impl ChannelServer {
    pub async fn accept(&mut self) -> Option<ServerEnd> {
        self.accept.recv().await
    }
}

impl ServerEnd {
    /// False when the agent has gone.
    pub async fn send(&self, message: ToWorker) -> bool {
        self.to_worker.send(Incoming::Message(message)).await.is_ok()
    }

    pub async fn close(self, code: u16) {
        let closed = Closed {
            code: Some(code),
            reason: String::new(),
        };
        // An agent that has gone needs no word.
        let _ = self.to_worker.send(Incoming::Closed(closed)).await;
    }
}

#[async_trait]
impl ServerLink for ChannelLink {
    async fn connect(&self) -> Result<Connection, LinkError> {
        let (control_in, control) = mpsc::channel(CONTROL_QUEUE);
        let (logs_in, logs) = mpsc::channel(LOG_QUEUE);
        let (to_worker, inbox) = mpsc::channel(INBOX_QUEUE);
        let end = ServerEnd {
            control,
            logs,
            to_worker,
        };
        self.dial
            .send(end)
            .await
            .map_err(|_| LinkError::Failed("the server is gone".into()))?;
        Ok(Connection {
            outbox: Outbox {
                control: control_in,
                logs: logs_in,
            },
            inbox,
        })
    }
}
