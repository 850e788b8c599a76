//! One agent's socket: frames in as messages, messages out in groups, pings, closing.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message};
use bytes::Bytes;
use common::ids::JobId;
use common::log::{CHUNK_BYTES_MAX, LogChunk};
use common::protocol::{CONTROL_FRAME_BYTES_MAX, CloseCode, FromWorker, ToWorker, binary};
use futures_util::{Sink, SinkExt, Stream, StreamExt};

/// After a close was sent, the peer's own is waited for this long.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// How much of a sentence about a broken message goes into our log.
const SHOWN_LEN_MAX: usize = 200;

/// What frames come and go on: a WebSocket, or a simulation's twin of one.
pub trait Line:
    Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Send + Unpin
{
}

impl<L> Line for L where
    L: Stream<Item = Result<Message, axum::Error>> + Sink<Message, Error = axum::Error> + Send + Unpin
{
}

/// What a frame says.
pub enum Inbound {
    Message(FromWorker),
    Chunk(JobId, LogChunk),
    /// The peer lives.
    Alive,
    /// The peer has closed, or the line is broken.
    Gone,
    /// It says something that it must not.
    Bad(CloseCode),
}

pub struct Socket {
    inner: Box<dyn Line>,
    outbox: Vec<Message>,
    /// A write that takes longer than this ends the connection.
    write_deadline: Duration,
}

impl Socket {
    pub fn new(inner: impl Line + 'static, write_deadline: Duration) -> Self {
        Self {
            inner: Box::new(inner),
            outbox: Vec::new(),
            write_deadline,
        }
    }

    /// The next frame. May be dropped while it waits.
    pub async fn next(&mut self) -> Inbound {
        match self.inner.next().await {
            Some(Ok(frame)) => inbound(frame),
            Some(Err(error)) => broken(error),
            None => Inbound::Gone,
        }
    }

    /// Puts a message into the outbox; [`Socket::flush`] sends it.
    pub fn put(&mut self, message: &ToWorker) {
        let text = serde_json::to_string(message).expect("a message is plain data");
        self.outbox.push(Message::text(text));
    }

    pub fn ping(&mut self) {
        self.outbox.push(Message::Ping(Bytes::new()));
    }

    /// Whether nothing waits to be sent.
    pub const fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Sends what was put; false when the peer does not take it in time, or is gone.
    pub async fn flush(&mut self) -> bool {
        if self.is_flushed() {
            return true;
        }
        let Self {
            inner,
            outbox,
            write_deadline,
        } = self;
        let sending = async {
            for message in outbox.drain(..) {
                inner.feed(message).await?;
            }
            inner.flush().await
        };
        matches!(tokio::time::timeout(*write_deadline, sending).await, Ok(Ok(())))
    }

    /// Closes in an orderly way, as far as the peer takes part.
    pub async fn close(mut self, code: CloseCode, reason: &'static str) {
        let frame = CloseFrame {
            code: code.code(),
            reason: reason.into(),
        };
        let closing = async {
            if self.inner.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.inner.next().await {}
            }
        };
        // Whoever does not answer is closed all the same.
        let _ = tokio::time::timeout(CLOSE_WAIT, closing).await;
    }
}

fn inbound(frame: Message) -> Inbound {
    match frame {
        Message::Text(text) if text.len() > CONTROL_FRAME_BYTES_MAX => Inbound::Bad(CloseCode::FrameTooLarge),
        Message::Text(text) => match serde_json::from_str(text.as_str()) {
            Ok(FromWorker::LogChunk {
                job,
                attempt,
                stream,
                seq,
                data,
            }) => match data_encoding::BASE64.decode(data.as_bytes()) {
                Ok(bytes) if bytes.len() <= CHUNK_BYTES_MAX => Inbound::Chunk(
                    job,
                    LogChunk {
                        attempt,
                        stream,
                        seq,
                        bytes: bytes.into(),
                    },
                ),
                Ok(_) | Err(_) => Inbound::Bad(CloseCode::BadMessage),
            },
            Ok(message) => Inbound::Message(message),
            Err(error) => {
                tracing::warn!(error = shown(&error), "a message could not be read");
                Inbound::Bad(CloseCode::BadMessage)
            }
        },
        Message::Binary(bytes) => match binary::decode(&bytes) {
            Ok((job, chunk)) => Inbound::Chunk(job, chunk),
            Err(error) => {
                tracing::warn!(%error, "a binary frame could not be read");
                Inbound::Bad(CloseCode::BadMessage)
            }
        },
        Message::Ping(_) | Message::Pong(_) => Inbound::Alive,
        Message::Close(_) => Inbound::Gone,
    }
}

/// The sentence quotes the message: only its beginning, and no control characters.
fn shown(error: &serde_json::Error) -> String {
    let text: String = error.to_string().chars().take(SHOWN_LEN_MAX).collect();
    text.escape_debug().to_string()
}

/// A frame past the limit is the peer's fault and is told; anything else is a broken line.
fn broken(error: axum::Error) -> Inbound {
    let text = error.to_string();
    tracing::debug!(%error, "a socket broke");
    if text.contains("too long") || text.contains("too big") {
        Inbound::Bad(CloseCode::FrameTooLarge)
    } else if text.contains("UTF-8") || text.contains("protocol") {
        Inbound::Bad(CloseCode::BadMessage)
    } else {
        Inbound::Gone
    }
}
