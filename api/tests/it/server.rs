//! The accept loop: slow clients are let go, others are served meanwhile, and a stop is orderly.

use std::time::Duration;

use common::log::Stream;
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, World};

/// Reads until the server closes.
async fn closed(mut socket: TcpStream) -> String {
    let mut text = Vec::new();
    // a reset is a close too
    let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut text)).await;
    assert!(
        read.is_ok(),
        "still open, having said {:?}",
        String::from_utf8_lossy(&text)
    );
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn silent_and_slow_clients_are_let_go_and_others_served_meanwhile() {
    let world = World::with(|config| config.header_timeout = Duration::from_millis(300)).await;
    let mut sockets = Vec::new();
    for number in 0..60 {
        let mut socket = TcpStream::connect(world.address).await.unwrap();
        if number % 2 == 0 {
            socket
                .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ")
                .await
                .unwrap();
        }
        sockets.push(socket);
    }
    world.get("", "/healthz").await.expect(200);
    futures_util::future::join_all(sockets.into_iter().map(closed)).await;
}

#[tokio::test]
async fn connections_past_the_limit_wait_for_their_turn() {
    let world = World::with(|config| {
        config.connections_max = 2;
        config.header_timeout = Duration::from_millis(300);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(world.address).await.unwrap());
    }
    // served once the silent ones are gone
    world.get("", "/healthz").await.expect(200);
    drop(held);
}

#[tokio::test]
async fn a_body_that_stops_is_answered_408() {
    let world = World::with(|config| config.body_timeout = Duration::from_millis(200)).await;
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\nconnection: close\r\n\r\n{{",
        world.keys.user
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = closed(socket).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"code\":\"too_slow\""), "{answer}");
}

/// A byte now and then keeps the connection busy, and is not enough.
#[tokio::test]
async fn a_body_that_drips_is_answered_408_however_lively_it_is() {
    let world = World::with(|config| {
        config.sign_in_timeout = Duration::from_millis(400);
        config.json_timeout = Duration::from_millis(800);
    })
    .await;
    for path in ["/api/v1/auth/login", "/api/v1/jobs"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: 10000\r\nconnection: close\r\n\r\n",
            world.keys.user
        );
        let (mut reading, mut writing) = TcpStream::connect(world.address).await.unwrap().into_split();
        writing.write_all(head.as_bytes()).await.unwrap();
        let drips = async {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            while writing.write_all(b" ").await.is_ok() {
                pace.tick().await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                // a reset after the answer is a close too
                _ = reading.read_to_end(&mut answer) => {}
                () = drips => {}
            }
        });
        assert!(read.await.is_ok(), "{path}: still open");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
        assert!(answer.contains("\"code\":\"too_slow\""), "{path}: {answer}");
    }
}

#[tokio::test]
async fn followers_end_when_the_program_stops() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let attempt = world.run(job).await;
    world.write(attempt, Stream::Stdout, 0, b"x").await;
    let path = format!("/api/v1/jobs/{job}/logs/follow");
    let response = world
        .request(Method::GET, &world.keys.user, &path)
        .send()
        .await
        .unwrap();
    world.stop();
    let rest = tokio::time::timeout(PATIENCE, response.bytes()).await;
    assert!(rest.is_ok(), "the stream is still open");
    assert!(world.joined().await, "tasks are left");
}

#[test]
fn a_short_secret_is_refused() {
    let config = api::Config::new(common::secret::Secret::new(vec![1; 31]), "debian:12");
    assert_eq!(config.check(), Err(api::ConfigError::ShortSecret { found: 31 }));
}
