//! What an agent must not say, and what it must not leave unsaid.

use bytes::Bytes;
use common::ids::{AttemptId, JobId};
use common::lifecycle::testing::spec;
use common::log::CHUNK_BYTES_MAX;
use common::protocol::{CONTROL_FRAME_BYTES_MAX, CloseCode, FromWorker, HELD_ATTEMPTS_MAX, HeldAttempt};
use common::worker::{Condition, Load};
use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Agent, open, token};
use crate::ring::{BRIEF, DEADLINE, Ring};

async fn closed_after(ring: &Ring, frame: Message) -> Option<u16> {
    let mut agent = ring.agent("w").await;
    agent.send(frame).await;
    agent.hear_close().await
}

fn heartbeat(attempts: usize) -> Message {
    let attempts = (0..attempts)
        .map(|_| HeldAttempt {
            job: JobId::random(),
            attempt: AttemptId::random(),
        })
        .collect();
    let beat = FromWorker::Heartbeat {
        number: 1,
        attempts,
        condition: Condition::Ready,
        draining: false,
        load: Load::default(),
    };
    Message::text(serde_json::to_string(&beat).unwrap())
}

#[tokio::test]
async fn nonsense_closes_the_connection_and_hurts_nobody_else() {
    let ring = Ring::start().await;
    let mut bystander = ring.agent("bystander").await;
    let bad = Some(CloseCode::BadMessage.code());
    for frame in [
        Message::text("not json"),
        Message::text("{}"),
        Message::text(r#"{"type":"no-such-type"}"#),
        Message::text(r#"{"type":"started","job":{"$ne":null},"attempt":"x"}"#),
        Message::text("[".repeat(50_000)),
        Message::Binary(Bytes::new()),
        Message::Binary(Bytes::from_static(&[9; 100])),
        heartbeat(HELD_ATTEMPTS_MAX + 1),
    ] {
        assert_eq!(
            closed_after(&ring, frame.clone()).await,
            bad,
            "{:.60}",
            frame.to_string()
        );
    }
    assert_eq!(bystander.beat(1, vec![]).await, vec![]);
}

#[tokio::test]
async fn an_oversized_frame_closes_the_connection() {
    let ring = Ring::start().await;
    let too_large = Some(CloseCode::FrameTooLarge.code());
    let text = Message::text("x".repeat(CONTROL_FRAME_BYTES_MAX + 1));
    assert_eq!(closed_after(&ring, text).await, too_large);
    let binary = Message::Binary(vec![1; CHUNK_BYTES_MAX + 1_000].into());
    assert_eq!(closed_after(&ring, binary).await, too_large);
}

#[tokio::test]
async fn hello_comes_first_and_once() {
    let ring = Ring::start().await;
    let mut agent = Agent::connect(&ring, "w").await;
    agent.send(heartbeat(0)).await;
    assert_eq!(agent.hear_close().await, Some(CloseCode::BadMessage.code()));
}

#[tokio::test]
async fn another_protocol_version_is_told_so() {
    let ring = Ring::start().await;
    let mut agent = Agent::connect(&ring, "w").await;
    let hello = r#"{"type":"hello","protocol":99,"session":null,"description":{"version":"","hostname":"","os":"","architecture":"","pool":"default","capacity":{"cpu_millis":1,"memory_mib":1,"disk_mib":1,"slots":1}},"condition":{"state":"ready"},"draining":false,"attempts":[]}"#;
    agent.send(Message::text(hello)).await;
    assert_eq!(agent.hear_close().await, Some(CloseCode::VersionMismatch.code()));
}

#[tokio::test]
async fn who_says_no_hello_is_closed() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let mut agent = Agent::connect(&ring, "w").await;
    assert_eq!(agent.hear_close().await, Some(CloseCode::TooSlow.code()));
}

#[tokio::test]
async fn a_socket_that_stays_silent_is_closed() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let mut silent = tokio::net::TcpStream::connect(ring.scheduler.address())
        .await
        .unwrap();
    let mut slow = tokio::net::TcpStream::connect(ring.scheduler.address())
        .await
        .unwrap();
    slow.write_all(b"GET /ws/worker HT").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open");
    }
}

#[tokio::test]
async fn a_worker_whose_line_goes_dead_is_closed() {
    let ring = Ring::with(BRIEF, |stores| stores).await;
    let mut socket = open(&ring, &token(&ring, "w")).await.unwrap();
    let hello = serde_json::json!({
        "type": "hello", "protocol": 1, "session": null, "condition": {"state": "ready"}, "draining": false,
        "attempts": [], "description": {"version": "", "hostname": "", "os": "", "architecture": "", "pool": "default",
        "capacity": {"cpu_millis": 1, "memory_mib": 1, "disk_mib": 1, "slots": 1}},
    });
    socket.send(Message::text(hello.to_string())).await.unwrap();
    // Read below the WebSocket, so that nobody answers a ping.
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, socket.get_mut().read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "still open");
    let code = CloseCode::TooSlow.code().to_be_bytes();
    let close = bytes
        .windows(4)
        .find(|window| window[0] == 0x88)
        .expect("a close frame");
    assert_eq!(close[2..], code);
}

#[tokio::test]
async fn a_flood_is_slowed_down_and_loses_nothing() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let chunks = 3_000;
    for seq in 0..chunks {
        agent
            .chunk(
                &assignment,
                common::log::Stream::Stdout,
                seq,
                "a line of output\n",
            )
            .await;
    }
    while agent.hear_log_ack(common::log::Stream::Stdout).await.0 + 1 < chunks {}
    assert_eq!(
        ring.stores
            .logs
            .extent(assignment.attempt)
            .await
            .unwrap()
            .stdout
            .next_seq,
        chunks
    );
}
