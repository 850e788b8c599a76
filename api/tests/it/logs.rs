//! Output by page, by range, by last lines, and followed.

use common::api_types::{FRAMES_CONTENT_TYPE, FollowEvent, FrameReader};
use common::attempt::Outcome;
use common::ids::JobId;
use common::log::Stream;
use data_encoding::BASE64;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{PATIENCE, World};

fn text(chunks: &Value) -> String {
    let bytes = chunks
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|chunk| BASE64.decode(chunk["data"].as_str().unwrap().as_bytes()).unwrap())
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn pages_go_on_where_the_last_one_ended() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let path = format!("/api/v1/jobs/{job}/logs");
    let before = world.get(key, &path).await.expect(200).json();
    assert_eq!(
        before,
        json!({"attempt": null, "chunks": [], "next": 0, "complete": false})
    );
    let attempt = world.run(job).await;
    for seq in 0..10 {
        let stream = if seq % 2 == 0 {
            Stream::Stdout
        } else {
            Stream::Stderr
        };
        world
            .write(attempt, stream, seq / 2, format!("line {seq}\n").as_bytes())
            .await;
    }
    let (mut from, mut whole) = (0, String::new());
    for _ in 0..20 {
        let page = world
            .get(key, &format!("{path}?from={from}&limit_bytes=20"))
            .await
            .expect(200)
            .json();
        whole += &text(&page["chunks"]);
        assert_eq!(page["complete"], false, "it runs");
        from = page["next"].as_u64().unwrap();
    }
    let expected: String = (0..10).map(|seq| format!("line {seq}\n")).collect();
    assert_eq!(whole, expected);
    world.finish(job, attempt, Outcome::Exited { code: 0 }).await;
    let page = world.get(key, &path).await.expect(200).json();
    assert_eq!(
        (text(&page["chunks"]), &page["complete"]),
        (expected, &json!(true))
    );
    let page = world
        .get(key, &format!("{path}?stream=stderr&attempt=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(text(&page["chunks"]), "line 1\nline 3\nline 5\nline 7\nline 9\n");
    world.get(key, &format!("{path}?attempt=2")).await.expect(404);
}

#[tokio::test]
async fn raw_bytes_come_whole_by_range_and_by_last_lines() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let attempt = world.run(job).await;
    let all = b"one\n\xff\xfetwo\nthree\n";
    world.write(attempt, Stream::Stdout, 0, &all[..6]).await;
    world.write(attempt, Stream::Stdout, 1, &all[6..]).await;
    let path = format!("/api/v1/jobs/{job}/logs/raw");
    let whole = world.get(key, &path).await.expect(200);
    assert_eq!(&whole.bytes[..], all);
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert!(whole.header("content-disposition").starts_with("attachment;"));
    assert!(whole.header("content-security-policy").starts_with("sandbox;"));
    let total = all.len();
    for (range, expected) in [
        ("bytes=4-8", &all[4..9]),
        ("bytes=-6", &all[total - 6..]),
        ("bytes=12-", &all[12..]),
    ] {
        let answer = world
            .send(world.request(Method::GET, key, &path).header("range", range))
            .await
            .expect(206);
        assert_eq!(&answer.bytes[..], expected, "{range}");
        assert!(answer.header("content-range").ends_with(&format!("/{total}")));
    }
    let past = world
        .send(
            world
                .request(Method::GET, key, &path)
                .header("range", "bytes=99-"),
        )
        .await
        .expect(416);
    assert_eq!(past.header("content-range"), format!("bytes */{total}"));
    for (lines, expected) in [
        (0, &b""[..]),
        (1, b"three\n"),
        (2, b"\xff\xfetwo\nthree\n"),
        (3, all),
        (9, all),
    ] {
        let answer = world.get(key, &format!("{path}?tail={lines}")).await.expect(200);
        assert_eq!(&answer.bytes[..], expected, "{lines}");
    }
    let empty = world.get(key, &format!("{path}?stream=stderr")).await.expect(200);
    assert!(empty.bytes.is_empty());
}

#[tokio::test]
async fn the_last_lines_of_a_large_log_are_found_across_pieces() {
    let world = World::new().await;
    let key = &world.keys.user;
    let job = world.submit(key).await;
    let attempt = world.run(job).await;
    let lines: Vec<String> = (0..60_000).map(|number| format!("line {number}\n")).collect();
    let all = lines.concat();
    for (seq, piece) in all.as_bytes().chunks(60_000).enumerate() {
        world.write(attempt, Stream::Stdout, seq as u64, piece).await;
    }
    let path = format!("/api/v1/jobs/{job}/logs/raw");
    for wanted in [1, 5_000, 20_000] {
        let answer = world.get(key, &format!("{path}?tail={wanted}")).await.expect(200);
        assert_eq!(answer.text(), lines[lines.len() - wanted..].concat(), "{wanted}");
    }
    assert_eq!(world.get(key, &path).await.expect(200).text(), all);
}

/// Events as a client reads them: name, id, data.
struct Events {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    unread: String,
}

impl Events {
    async fn open(world: &World, job: JobId, last: Option<&str>) -> Self {
        let mut request = world.request(
            Method::GET,
            &world.keys.user,
            &format!("/api/v1/jobs/{job}/logs/follow"),
        );
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: Box::pin(response.bytes_stream()),
            unread: String::new(),
        }
    }

    /// The next event; none once the server has ended the stream.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .trim()
                        .to_owned()
                };
                let found = (field("event:"), field("id:"), field("data:"));
                self.unread = rest.to_owned();
                if found.0.is_empty() {
                    continue;
                }
                return Some((found.0, found.1, serde_json::from_str(&found.2).unwrap()));
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next())
                .await
                .unwrap_or_else(|_| panic!("no event came; unread: {:?}", self.unread))?;
            self.unread += std::str::from_utf8(&piece.unwrap()).unwrap();
        }
    }

    /// `name:summary` of the next event.
    async fn summary(&mut self) -> String {
        let Some((name, id, data)) = self.next().await else {
            return "closed".to_owned();
        };
        match name.as_str() {
            "state" => format!("state:{}", data["state"].as_str().unwrap()),
            "attempt" => format!("attempt:{}", data["attempt"]),
            "log" => {
                let text = BASE64.decode(data["data"].as_str().unwrap().as_bytes()).unwrap();
                format!(
                    "log:{}:{}",
                    id.split(':').next().unwrap(),
                    String::from_utf8(text).unwrap()
                )
            }
            "end" => format!("end:{}:{}", data["state"].as_str().unwrap(), data["exit_code"]),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_follower_sees_states_attempts_output_and_the_end_in_order() {
    let world = World::new().await;
    let body = json!({"command": "x", "retry": {"max_retries": 1, "backoff_ms": 0}});
    let answer = world
        .post(&world.keys.user, "/api/v1/jobs", &body)
        .await
        .expect(201);
    let job: JobId = answer.json()["id"].as_str().unwrap().parse().unwrap();
    let mut events = Events::open(&world, job, None).await;
    assert_eq!(events.summary().await, "state:queued");
    let first = world.run(job).await;
    let mut seen = events.summary().await;
    if seen == "state:assigned" {
        // it looked between the two writes; then the attempt is told before the next state
        assert_eq!(events.summary().await, "attempt:1");
        seen = events.summary().await;
        assert_eq!(seen, "state:running");
    } else {
        assert_eq!(seen, "state:running");
        assert_eq!(events.summary().await, "attempt:1");
    }
    world.write(first, Stream::Stdout, 0, b"a\n").await;
    assert_eq!(events.summary().await, "log:1:a\n");
    world.write(first, Stream::Stderr, 0, b"b\n").await;
    assert_eq!(events.summary().await, "log:1:b\n");
    world.finish(job, first, Outcome::Exited { code: 1 }).await;
    assert_eq!(events.summary().await, "state:scheduled");
    world.apply(job, common::lifecycle::JobEvent::Due).await;
    assert_eq!(events.summary().await, "state:queued");
    let second = world.run(job).await;
    world.write(second, Stream::Stdout, 0, b"c\n").await;
    let mut rest = Vec::new();
    while !rest.contains(&"log:2:c\n".to_owned()) {
        rest.push(events.summary().await);
    }
    assert!(rest.contains(&"attempt:2".to_owned()), "{rest:?}");
    world.finish(job, second, Outcome::Exited { code: 0 }).await;
    let mut last = Vec::new();
    while last.last() != Some(&"closed".to_owned()) {
        last.push(events.summary().await);
    }
    assert_eq!(
        &last[last.len() - 3..],
        ["state:succeeded", "end:succeeded:0", "closed"]
    );
}

#[tokio::test]
async fn a_follower_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let attempt = world.run(job).await;
    for seq in 0..4 {
        world
            .write(attempt, Stream::Stdout, seq, format!("{seq}").as_bytes())
            .await;
    }
    let mut events = Events::open(&world, job, None).await;
    let mut last = String::new();
    for _ in 0..4 {
        let (name, id, _) = events.next().await.unwrap();
        if name == "log" {
            last = id;
        }
    }
    drop(events);
    for seq in 4..6 {
        world
            .write(attempt, Stream::Stdout, seq, format!("{seq}").as_bytes())
            .await;
    }
    world.finish(job, attempt, Outcome::Exited { code: 0 }).await;
    let mut events = Events::open(&world, job, Some(&last)).await;
    let mut seen = Vec::new();
    loop {
        let summary = events.summary().await;
        if summary == "closed" {
            break;
        }
        seen.push(summary);
    }
    assert_eq!(
        seen,
        [
            "state:succeeded",
            "log:1:2",
            "log:1:3",
            "log:1:4",
            "log:1:5",
            "end:succeeded:0"
        ]
    );
    let bad = world
        .request(
            Method::GET,
            &world.keys.user,
            &format!("/api/v1/jobs/{job}/logs/follow"),
        )
        .header("last-event-id", "nonsense");
    world.send(bad).await.expect(422);
}

#[tokio::test]
async fn a_large_log_is_followed_whole() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let attempt = world.run(job).await;
    let piece = vec![b'x'; 60_000];
    for seq in 0..100 {
        world.write(attempt, Stream::Stdout, seq, &piece).await;
    }
    world.finish(job, attempt, Outcome::Exited { code: 0 }).await;
    let mut events = Events::open(&world, job, None).await;
    let mut bytes = 0;
    while let Some((name, _, data)) = events.next().await {
        if name == "log" {
            bytes += BASE64
                .decode(data["data"].as_str().unwrap().as_bytes())
                .unwrap()
                .len();
        }
    }
    assert_eq!(bytes, 6_000_000);
}

#[tokio::test]
async fn followers_past_the_limit_are_told_to_come_back() {
    let world = World::with(|config| config.followers_max = 1).await;
    let job = world.submit(&world.keys.user).await;
    let held = Events::open(&world, job, None).await;
    let path = format!("/api/v1/jobs/{job}/logs/follow");
    let refused = world.get(&world.keys.user, &path).await.expect(503);
    assert_eq!(refused.header("retry-after"), "5");
    drop(held);
}

#[tokio::test]
async fn whoever_accepts_frames_gets_the_same_events_with_the_bytes_as_they_are() {
    let world = World::new().await;
    let job = world.submit(&world.keys.user).await;
    let attempt = world.run(job).await;
    let piece: Vec<u8> = (0..60_000u32).map(|number| number.to_le_bytes()[0]).collect();
    for seq in 0..20 {
        world.write(attempt, Stream::Stdout, seq, &piece).await;
    }
    let path = format!("/api/v1/jobs/{job}/logs/follow");
    let accepted = format!("text/event-stream;q=0.5, {FRAMES_CONTENT_TYPE};q=1");
    let request = world
        .request(Method::GET, &world.keys.user, &path)
        .header("accept", accepted)
        .header("last-event-id", "1:2");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], FRAMES_CONTENT_TYPE);
    let (mut body, mut reader) = (response.bytes_stream(), FrameReader::default());
    let (mut seqs, mut bytes, mut names) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(part) = tokio::time::timeout(PATIENCE, body.next()).await.unwrap() {
        reader.push(part.unwrap());
        while let Some(event) = reader.next_event().unwrap() {
            match event {
                FollowEvent::Log(chunk) => {
                    seqs.push(chunk.seq);
                    bytes.extend_from_slice(&chunk.bytes);
                    if chunk.seq == 19 {
                        world.finish(job, attempt, Outcome::Exited { code: 0 }).await;
                    }
                }
                FollowEvent::State(state) => names.push(state.state.to_string()),
                FollowEvent::Attempt(attempt) => names.push(format!("attempt {}", attempt.attempt)),
                FollowEvent::End(end) => names.push(format!("end {:?}", end.exit_code)),
            }
        }
    }
    assert_eq!(seqs, (3..20).collect::<Vec<u64>>());
    assert!(bytes == piece.repeat(17), "other bytes came than were written");
    assert_eq!(names, ["running", "succeeded", "end Some(0)"]);
}
