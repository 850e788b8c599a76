//! The link over a WebSocket: `GET /ws/worker` with the worker's token in a header.
//!
//! Here it is opened, with small frames and buffers by configuration; [`super::line`] attends to it.

use async_trait::async_trait;
use common::protocol::token::{EMPTY_SHA256, Request, WorkerKey};
use common::protocol::{CONTROL_FRAME_BYTES_MAX, TOKEN_HEADER, WEBSOCKET_PATH};
use common::tasks::Tasks;
use common::time::SharedClock;
use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::line::attend;
use super::{Connection, LinkError, ServerLink};
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
        Ok(attend(socket, self.times, &self.tasks))
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
}
