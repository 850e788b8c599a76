//! Frames that are none: random bytes, messages with any part replaced, and noise below the WebSocket.

use common::attempt::{AttemptReport, Outcome};
use common::ids::SessionId;
use common::log::{CHUNK_BYTES_MAX, LogChunk, Stream};
use common::protocol::{CONTROL_FRAME_BYTES_MAX, CloseCode, FromWorker, binary};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::{BAD, Dice, NOT_YOURS, TOO_LARGE, Victim, ends_with, heartbeat, hostile};
use crate::agent::{Agent, held, hello, open, token};
use crate::ring::{DEADLINE, Ring};

/// One good message of each kind about the victim's attempt, which every mutation begins with.
fn messages(victim: &Victim, session: Option<SessionId>) -> Vec<Value> {
    let (job, attempt) = (victim.assignment.job, victim.assignment.attempt);
    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
    [
        hello(session, vec![held(&victim.assignment)]),
        heartbeat(1, vec![held(&victim.assignment)]),
        FromWorker::Started { job, attempt },
        FromWorker::CancelAck { job, attempt },
        FromWorker::LogChunk {
            job,
            attempt,
            stream: Stream::Stdout,
            seq: 0,
            data: "aGk=".into(),
        },
        FromWorker::Result { job, attempt, report },
    ]
    .iter()
    .map(|message| serde_json::to_value(message).unwrap())
    .collect()
}

/// Every place in a message, as a pointer.
fn places(value: &Value, prefix: &str, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(place, value)| (place.to_string(), value))
            .collect(),
        _ => vec![],
    };
    for (name, child) in children {
        let pointer = format!("{prefix}/{name}");
        places(child, &pointer, found);
        found.push(pointer);
    }
}

fn replacements(victim: &Victim) -> Vec<Value> {
    vec![
        Value::Null,
        json!(-1),
        json!(18_446_744_073_709_551_615u64),
        json!(1e308),
        json!(true),
        json!(""),
        json!("\u{0}\u{1b}[2J\n"),
        json!("x".repeat(40_000)),
        json!([]),
        json!(vec![0; 5_000]),
        json!({"$ne": null}),
        json!(victim.assignment.job.to_string()),
        json!(victim.assignment.attempt.to_string()),
    ]
}

#[tokio::test]
async fn a_message_with_any_part_replaced_changes_no_row_and_ends_no_other_connection() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let mut dice = Dice(20_261_122);
    let mut cases = Vec::new();
    for message in messages(&victim, victim.agent.session) {
        let mut found = Vec::new();
        places(&message, "", &mut found);
        for place in found {
            for replacement in replacements(&victim) {
                let mut changed = message.clone();
                *changed.pointer_mut(&place).unwrap() = replacement;
                cases.push((place.clone(), changed));
            }
        }
    }
    // Some hundred of the thousands there are; each costs a connection where it is refused.
    dice.shuffle(&mut cases);
    let allowed = [
        BAD,
        TOO_LARGE,
        NOT_YOURS,
        Some(CloseCode::VersionMismatch.code()),
        None,
    ];
    let (mut agent, mut number, mut refused) = (hostile(&ring).await, 1u64 << 54, 0);
    for (place, mut message) in cases.into_iter().take(400) {
        number += 2;
        if let Some(of_heartbeat) = message.get_mut("number").filter(|_| place != "/number") {
            *of_heartbeat = (number - 1).into();
        }
        let shown = format!("{place} of {:.200}", message.to_string());
        agent.send(Message::text(message.to_string())).await;
        let code = ends_with(&mut agent, number).await;
        assert!(allowed.contains(&code), "{code:?} for {shown}");
        if code.is_some() {
            refused += 1;
            agent = hostile(&ring).await;
        }
        if refused % 50 == 1 {
            victim.is_unchanged(&ring, &shown).await;
        }
    }
    assert!(refused > 200, "{refused}");
    victim.is_unchanged(&ring, "all of them").await;
    victim.goes_on().await;
}

#[tokio::test]
async fn random_frames_are_refused_one_by_one() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let mut dice = Dice(4);
    let good = binary::encode(
        victim.assignment.job,
        &LogChunk {
            attempt: victim.assignment.attempt,
            stream: Stream::Stdout,
            seq: 0,
            bytes: vec![b'x'; 100].into(),
        },
    );
    for round in 0..120 {
        let frame = match round % 4 {
            0 => {
                let length = dice.below(2_000);
                Message::binary(dice.bytes(length))
            }
            1 => {
                let length = dice.below(2_000);
                Message::text(String::from_utf8_lossy(&dice.bytes(length)).into_owned())
            }
            // A good chunk with one byte changed: of another job, another attempt, no stream, or the victim's own.
            2 => {
                let mut bytes = good.to_vec();
                bytes[dice.below(42)] ^= 1 << dice.below(8);
                Message::binary(bytes)
            }
            _ => Message::binary(good[..dice.below(good.len())].to_vec()),
        };
        let mut agent = hostile(&ring).await;
        agent.send(frame).await;
        let code = ends_with(&mut agent, 1).await;
        // One that names attempts which nobody knows is stale, and nothing else.
        assert!(
            [BAD, NOT_YOURS, None].contains(&code),
            "{code:?} in round {round}"
        );
        assert!(code.is_some() || round % 4 == 2, "round {round} was taken");
    }
    victim.is_unchanged(&ring, "random frames").await;
    victim.goes_on().await;
}

#[tokio::test]
async fn frames_over_their_size_are_refused_in_each_kind() {
    let ring = Ring::start().await;
    let victim = Victim::start(&ring).await;
    let (job, attempt) = (victim.assignment.job, victim.assignment.attempt);
    let large = |bytes: usize| FromWorker::LogChunk {
        job,
        attempt,
        stream: Stream::Stdout,
        seq: 0,
        data: "A".repeat(bytes),
    };
    for message in [
        Message::text(serde_json::to_string(&large(CONTROL_FRAME_BYTES_MAX)).unwrap()),
        Message::text(" ".repeat(CONTROL_FRAME_BYTES_MAX + 1)),
        Message::binary(vec![1; CHUNK_BYTES_MAX + binary::HEAD_LEN + 1]),
    ] {
        let mut agent = hostile(&ring).await;
        agent.send(message).await;
        assert_eq!(agent.hear_close().await, TOO_LARGE);
    }
    // Of a really large one the rest is not read, so the code may not reach its sender.
    for message in [
        Message::binary(vec![1; 8 * 1024 * 1024]),
        Message::text("[".repeat(8 * 1024 * 1024)),
    ] {
        let mut agent = hostile(&ring).await;
        let _ = agent.try_send(message).await;
        let code = agent.hear_close().await;
        assert!(code.is_none() || code == TOO_LARGE, "{code:?}");
    }
    victim.is_unchanged(&ring, "large frames").await;
}

/// What is sent below the WebSocket after a good handshake, and the codes that may answer it.
#[tokio::test]
async fn noise_below_the_websocket_ends_that_connection_alone() {
    let ring = Ring::start().await;
    let mut victim = Victim::start(&ring).await;
    let mut dice = Dice(77);
    let noise: Vec<(&str, Vec<u8>)> = vec![
        ("random bytes", [vec![0xF7], dice.bytes(4_096)].concat()),
        ("a frame without a mask", vec![0x81, 0x02, b'{', b'}']),
        ("a reserved opcode", vec![0x83, 0x80, 0, 0, 0, 0]),
        ("reserved bits", vec![0xF1, 0x80, 0, 0, 0, 0]),
        (
            "a length of 2^63",
            vec![0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        ("text that is no UTF-8", vec![0x81, 0x82, 0, 0, 0, 0, 0xFF, 0xFE]),
        ("a continuation of nothing", vec![0x80, 0x80, 0, 0, 0, 0]),
        ("a ping in pieces", vec![0x09, 0x80, 0, 0, 0, 0]),
        ("a close with one byte", vec![0x88, 0x81, 0, 0, 0, 0, 3]),
    ];
    for (what, bytes) in noise {
        let mut socket = open(&ring, &token(&ring, "hostile")).await.unwrap();
        let text = serde_json::to_string(&hello(None, vec![])).unwrap();
        socket.send(Message::text(text)).await.unwrap();
        socket.get_mut().write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, socket.get_mut().read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "still open after {what}");
    }
    victim.is_unchanged(&ring, "noise").await;
    victim.goes_on().await;
    // The gateway still takes connections.
    assert!(!Agent::connect(&ring, "hostile").await.greet(None, vec![]).await.0);
}
