//! The link over a real socket, with a gateway made of the same library's server side.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::attempt::AttemptReport;
use common::attempt::Outcome;
use common::ids::{AttemptId, JobId, WorkerId};
use common::protocol::token::{EMPTY_SHA256, FleetSecrets, Request};
use common::protocol::{CloseCode, FromWorker, TOKEN_HEADER, ToWorker, WEBSOCKET_PATH};
use common::secret::Secret;
use common::tasks::Tasks;
use common::time::{Clock, SystemClock};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Asked, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode as WireCode};
use worker_agent::ServerUrl;
use worker_agent::config::LinkTimes;
use worker_agent::link::websocket::WebSocketLink;
use worker_agent::link::{Incoming, LinkError, ServerLink};

const DEADLINE: Duration = Duration::from_secs(20);

const TIMES: LinkTimes = LinkTimes {
    ping: Duration::from_millis(100),
    pong_deadline: Duration::from_millis(200),
    backoff_max: Duration::from_millis(100),
    handshake: Duration::from_secs(5),
};

fn secrets() -> FleetSecrets {
    FleetSecrets::new(vec![("k".into(), Secret::new(vec![7; 32]))]).unwrap()
}

async fn listen() -> (TcpListener, WebSocketLink) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let link = WebSocketLink {
        server: ServerUrl::parse(&format!("ws://{address}"), false).unwrap(),
        key: secrets().worker_key(&WorkerId::new("node-1").unwrap(), 1),
        audience: "here".into(),
        times: TIMES,
        clock: Arc::new(SystemClock),
        tasks: Tasks::new(),
    };
    (listener, link)
}

/// Accepts one connection; the token that it brought.
#[expect(clippy::result_large_err, reason = "the library's own type")]
async fn accept(listener: &TcpListener) -> (WebSocketStream<TcpStream>, String) {
    let (socket, _) = listener.accept().await.unwrap();
    let token = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&token);
    let look = move |asked: &Asked, answer: Response| -> Result<Response, ErrorResponse> {
        assert_eq!(asked.uri().path(), WEBSOCKET_PATH);
        *seen.lock().unwrap() = asked.headers()[TOKEN_HEADER].to_str().unwrap().to_owned();
        Ok(answer)
    };
    let socket = tokio_tungstenite::accept_hdr_async(socket, look).await.unwrap();
    let token = token.lock().unwrap().clone();
    (socket, token)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it comes in time")
}

#[tokio::test]
async fn both_sides_speak_under_a_token_that_verifies() {
    let (listener, link) = listen().await;
    let (connection, (mut server, token)) = tokio::join!(link.connect(), accept(&listener));
    let mut connection = connection.unwrap();
    let request = Request {
        method: "GET",
        path: WEBSOCKET_PATH,
        audience: "here",
        body_sha256: EMPTY_SHA256,
    };
    let verified = secrets().verify(&token, &request, SystemClock.now()).unwrap();
    assert_eq!(verified.worker.as_str(), "node-1");

    let said = FromWorker::Result {
        job: JobId::random(),
        attempt: AttemptId::random(),
        report: Box::new(AttemptReport::bare(Outcome::OomKilled)),
    };
    connection.outbox.control.send(said.clone()).await.unwrap();
    connection
        .outbox
        .logs
        .send(Bytes::from_static(b"frame"))
        .await
        .unwrap();
    let (mut texts, mut frames) = (vec![], vec![]);
    while texts.is_empty() || frames.is_empty() {
        match within(server.next()).await.unwrap().unwrap() {
            Message::Text(text) => texts.push(serde_json::from_str::<FromWorker>(&text).unwrap()),
            Message::Binary(frame) => frames.push(frame),
            _ => {}
        }
    }
    assert_eq!((texts, frames), (vec![said], vec![Bytes::from_static(b"frame")]));

    // What is not understood is passed over; what comes after it is not.
    server
        .send(Message::text(r#"{"type":"of-a-later-version"}"#))
        .await
        .unwrap();
    let drain = serde_json::to_string(&ToWorker::Drain).unwrap();
    server.send(Message::text(drain)).await.unwrap();
    let heard = within(connection.inbox.recv()).await;
    assert!(
        matches!(heard, Some(Incoming::Message(ToWorker::Drain))),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_close_code_reaches_the_session() {
    let (listener, link) = listen().await;
    let (connection, (mut server, _)) = tokio::join!(link.connect(), accept(&listener));
    let frame = CloseFrame {
        code: WireCode::from(CloseCode::Superseded.code()),
        reason: "newer".into(),
    };
    server.close(Some(frame)).await.unwrap();
    let heard = within(connection.unwrap().inbox.recv()).await;
    assert!(
        matches!(&heard, Some(Incoming::Closed(closed)) if closed.code == Some(4409)),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let (listener, link) = listen().await;
    // The peer holds the socket and reads nothing, so that it answers no ping either.
    let (connection, (_server, _)) = tokio::join!(link.connect(), accept(&listener));
    let heard = within(connection.unwrap().inbox.recv()).await;
    assert!(
        matches!(&heard, Some(Incoming::Closed(closed)) if closed.code.is_none()),
        "{heard:?}"
    );
}

#[tokio::test]
async fn a_peer_that_answers_pings_is_kept() {
    let (listener, link) = listen().await;
    let (connection, (mut server, _)) = tokio::join!(link.connect(), accept(&listener));
    let mut connection = connection.unwrap();
    let mut pings = 0;
    // Far more than the silence that would end it.
    while pings < 10 {
        match within(server.next()).await.unwrap().unwrap() {
            Message::Ping(_) => pings += 1,
            other => panic!("found {other:?}"),
        }
        server.flush().await.unwrap();
    }
    assert!(connection.inbox.try_recv().is_err());
}

#[tokio::test]
async fn a_refused_key_says_how_far_the_clocks_are_apart() {
    let (listener, link) = listen().await;
    let refuse = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut head, mut part) = (Vec::new(), [0; 1024]);
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let read = tokio::io::AsyncReadExt::read(&mut socket, &mut part)
                .await
                .unwrap();
            head.extend_from_slice(&part[..read]);
        }
        let answer = b"HTTP/1.1 401 Unauthorized\r\nx-server-time-ms: 0\r\ncontent-length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut socket, answer)
            .await
            .unwrap();
        socket
    };
    let (connection, _socket) = tokio::join!(link.connect(), refuse);
    assert!(
        matches!(
            connection,
            Err(LinkError::Refused {
                status: 401,
                skew_ms: Some(skew)
            }) if skew > 0
        ),
        "{connection:?}"
    );
}
