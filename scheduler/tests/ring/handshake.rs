//! Who may open a worker's socket.

use common::ids::WorkerId;
use common::protocol::token::{EMPTY_SHA256, Request};
use common::protocol::{TOKEN_HEADER, WEBSOCKET_PATH};
use common::time::Timestamp;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;

use crate::agent::{open, token};
use crate::ring::Ring;

async fn refused_with(ring: &Ring, token: &str) -> (u16, Option<i64>) {
    match open(ring, token).await {
        Err(Error::Http(answer)) => {
            let time = answer
                .headers()
                .get("x-server-time-ms")
                .and_then(|time| time.to_str().ok()?.parse().ok());
            (answer.status().as_u16(), time)
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn signed(ring: &Ring, at: Timestamp, change: impl FnOnce(&mut Request<'_>)) -> String {
    let mut request = Request {
        method: "GET",
        path: WEBSOCKET_PATH,
        audience: &ring.config.audience,
        body_sha256: EMPTY_SHA256,
    };
    change(&mut request);
    ring.key("w").sign(&request, at)
}

#[tokio::test]
async fn every_wrong_token_hears_the_same_refusal_with_the_servers_time() {
    let ring = Ring::start().await;
    let now = ring.clock.now();
    let good = token(&ring, "w");
    let last = if good.ends_with('0') { '1' } else { '0' };
    let wrong = [
        ("no token at all", "x".to_owned()),
        ("a spoilt signature", format!("{}{last}", &good[..good.len() - 1])),
        ("another worker's name", good.replacen(":w:", ":v:", 1)),
        (
            "another path",
            signed(&ring, now, |request| request.path = "/ws/workers"),
        ),
        (
            "another method",
            signed(&ring, now, |request| request.method = "POST"),
        ),
        (
            "another audience",
            signed(&ring, now, |request| request.audience = "elsewhere"),
        ),
        (
            "another body",
            signed(&ring, now, |request| request.body_sha256 = "00"),
        ),
        (
            "an old one",
            signed(&ring, Timestamp::from_millis(now.as_millis() - 120_000), |_| {}),
        ),
        (
            "a future one",
            signed(&ring, Timestamp::from_millis(now.as_millis() + 120_000), |_| {}),
        ),
    ];
    for (what, token) in wrong {
        let (status, time) = refused_with(&ring, &token).await;
        assert_eq!(status, 401, "{what}");
        let skew = (time.unwrap() - ring.clock.now().as_millis()).abs();
        assert!(skew < 60_000, "{what}: {skew} ms");
    }
    assert_eq!(
        ring.stores
            .workers
            .get(&WorkerId::new("w").unwrap())
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn a_token_opens_one_socket_and_no_second() {
    let ring = Ring::start().await;
    let token = token(&ring, "w");
    let first = open(&ring, &token).await.unwrap();
    assert_eq!(refused_with(&ring, &token).await.0, 401);
    drop(first);
    assert_eq!(refused_with(&ring, &token).await.0, 401);
}

#[tokio::test]
async fn of_a_hundred_replays_at_the_same_time_exactly_one_is_accepted() {
    let ring = Ring::start().await;
    let token = token(&ring, "w");
    let tries = join_all((0..100).map(|_| open(&ring, &token))).await;
    assert_eq!(tries.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test]
async fn a_token_may_come_in_the_query() {
    let ring = Ring::start().await;
    let url = format!(
        "ws://{}{WEBSOCKET_PATH}?token={}",
        ring.scheduler.address(),
        token(&ring, "w")
    );
    assert!(connect_async(url).await.is_ok());
}

#[tokio::test]
async fn a_doubled_token_header_is_refused() {
    let ring = Ring::start().await;
    let (one, two) = (token(&ring, "w"), token(&ring, "v"));
    let mut stream = tokio::net::TcpStream::connect(ring.scheduler.address())
        .await
        .unwrap();
    let head = format!(
        "GET {WEBSOCKET_PATH} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{TOKEN_HEADER}: {one}\r\n{TOKEN_HEADER}: {two}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
}
