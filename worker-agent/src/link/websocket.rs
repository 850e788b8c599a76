//! The link over a WebSocket: `GET /ws/worker` with the worker's token in a header.
//!
//! A reader and a writer task a connection, so that neither can hold the other up. The writer pings; a peer that was
//! silent for a ping and its deadline is given up. Frames and buffers are small by configuration.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::protocol::token::{EMPTY_SHA256, Request, WorkerKey};
use common::protocol::{CONTROL_FRAME_BYTES_MAX, FromWorker, TOKEN_HEADER, ToWorker, WEBSOCKET_PATH};
use common::tasks::Tasks;
use common::time::SharedClock;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::{
    CONTROL_QUEUE, Closed, Connection, INBOX_QUEUE, Incoming, LOG_QUEUE, LinkError, Outbox, ServerLink,
};
use crate::config::{LinkTimes, ServerUrl};

const READ_BUFFER_BYTES: usize = 16 * 1024;

/// What may wait unsent in the library: a few frames. More than this means that the peer does not read.
const WRITE_BUFFER_BYTES_MAX: usize = 512 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct WebSocketLink {
    pub server: ServerUrl,
    pub key: WorkerKey,
    pub audience: String,
    pub times: LinkTimes,
    pub clock: SharedClock,
    pub tasks: Tasks,
}

#[async_trait]
impl ServerLink for WebSocketLink {
    async fn connect(&self) -> Result<Connection, LinkError> {
        let socket = tokio::time::timeout(self.times.handshake, self.open())
            .await
            .map_err(|_| LinkError::TimedOut)??;
        Ok(self.attend(socket))
    }
}

impl WebSocketLink {
    async fn open(&self) -> Result<Socket, LinkError> {
        let failed = |error: tungstenite::Error| LinkError::Failed(Box::new(error));
        let mut request = self.server.websocket().into_client_request().map_err(failed)?;
        let wanted = Request {
            method: "GET",
            path: WEBSOCKET_PATH,
            audience: &self.audience,
            body_sha256: EMPTY_SHA256,
        };
        let token = self.key.sign(&wanted, self.clock.now());
        let token = HeaderValue::from_str(&token).map_err(|error| LinkError::Failed(Box::new(error)))?;
        request.headers_mut().insert(TOKEN_HEADER, token);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(CONTROL_FRAME_BYTES_MAX))
            .max_frame_size(Some(CONTROL_FRAME_BYTES_MAX));
        match tokio_tungstenite::connect_async_with_config(request, Some(config), true).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(self.refusal(&answer)),
            Err(other) => Err(failed(other)),
        }
    }

    fn refusal(&self, answer: &http::Response<Option<Vec<u8>>>) -> LinkError {
        let status = answer.status();
        if status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN {
            return LinkError::Answered {
                status: status.as_u16(),
            };
        }
        let server_ms = answer
            .headers()
            .get("x-server-time-ms")
            .and_then(|time| time.to_str().ok()?.parse::<i64>().ok());
        LinkError::Refused {
            status: status.as_u16(),
            skew_ms: server_ms.map(|time| self.clock.now().as_millis().saturating_sub(time)),
        }
    }

    fn attend(&self, socket: Socket) -> Connection {
        let (sink, stream) = socket.split();
        let (control, control_out) = mpsc::channel(CONTROL_QUEUE);
        let (logs, logs_out) = mpsc::channel(LOG_QUEUE);
        let (incoming, inbox) = mpsc::channel(INBOX_QUEUE);
        let ended = CancellationToken::new();
        let silent_max = self.times.ping + self.times.pong_deadline;
        self.tasks
            .spawn("link reader", read(stream, incoming, silent_max, ended.clone()));
        self.tasks.spawn(
            "link writer",
            write(sink, control_out, logs_out, self.times, ended),
        );
        Connection {
            outbox: Outbox { control, logs },
            inbox,
        }
    }
}

async fn read(
    mut stream: SplitStream<Socket>,
    incoming: mpsc::Sender<Incoming>,
    silent_max: Duration,
    ended: CancellationToken,
) {
    let closed = loop {
        let next = tokio::select! {
            next = tokio::time::timeout(silent_max, stream.next()) => next,
            () = ended.cancelled() => break lost("the connection could not be written to"),
            () = incoming.closed() => break lost("closed by the agent"),
        };
        match next {
            Err(_) => break lost("nothing was heard in time"),
            Ok(None) => break lost("the connection ended"),
            Ok(Some(Err(error))) => break lost(&error.to_string()),
            Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str::<ToWorker>(&text) {
                Ok(message) => {
                    if incoming.send(Incoming::Message(message)).await.is_err() {
                        break lost("closed by the agent");
                    }
                }
                // A newer control plane may say things that this agent does not know; they are not for it.
                Err(error) => tracing::warn!(%error, "a message of the control plane is not understood"),
            },
            Ok(Some(Ok(Message::Close(frame)))) => {
                break Closed {
                    code: frame.as_ref().map(|frame| frame.code.into()),
                    reason: frame.map(|frame| frame.reason.to_string()).unwrap_or_default(),
                };
            }
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_)))) => {}
        }
    };
    ended.cancel();
    // The session may have left first.
    let _ = incoming.send(Incoming::Closed(closed)).await;
}

fn lost(reason: &str) -> Closed {
    Closed {
        code: None,
        reason: reason.to_owned(),
    }
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut control: mpsc::Receiver<FromWorker>,
    mut logs: mpsc::Receiver<Bytes>,
    times: LinkTimes,
    ended: CancellationToken,
) {
    let mut pings = tokio::time::interval(times.ping);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            biased;
            () = ended.cancelled() => break,
            message = control.recv() => match message {
                Some(message) => text_of(&message),
                None => break,
            },
            _ = pings.tick() => Some(Message::Ping(Bytes::new())),
            Some(frame) = logs.recv() => Some(Message::Binary(frame)),
        };
        let Some(message) = message else { continue };
        // A peer that does not take a frame for so long would not answer a ping either.
        let sent = tokio::time::timeout(times.ping + times.pong_deadline, sink.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    ended.cancel();
    // A courtesy to a peer that may be gone.
    let _ = tokio::time::timeout(times.pong_deadline, sink.close()).await;
}

fn text_of(message: &FromWorker) -> Option<Message> {
    let text = serde_json::to_string(message).ok()?;
    if text.len() > CONTROL_FRAME_BYTES_MAX {
        // It would end the connection, again and again.
        tracing::error!(
            bytes = text.len(),
            "a message is too large for the link and is left out"
        );
        return None;
    }
    Some(Message::Text(text.into()))
}
