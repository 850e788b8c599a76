//! Inputs and artifacts over HTTP.

use bytes::Bytes;
use common::attempt::{Artifact, AttemptReport, Outcome};
use common::ids::{AttemptId, FileId};
use common::job::{InputFile, JobSpec};
use common::lifecycle::testing::{account, spec};
use common::protocol::token::{EMPTY_SHA256, Request};
use common::protocol::{Assignment, FILES_PATH_PREFIX, ResultVerdict, TOKEN_HEADER};
use common::store::{FilePurpose, NewFile};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::agent::Agent;
use crate::ring::Ring;

fn hash(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// One request over a connection of its own: status and body.
async fn request(
    ring: &Ring,
    worker: &str,
    method: &str,
    file: FileId,
    query: &str,
    body: Option<(&[u8], String)>,
) -> (u16, Vec<u8>) {
    let path = format!("{FILES_PATH_PREFIX}{file}");
    let body_sha256 = body.as_ref().map_or(EMPTY_SHA256, |(_, sha256)| sha256);
    let signed = Request {
        method,
        path: &path,
        audience: &ring.config.audience,
        body_sha256,
    };
    let token = ring.key(worker).sign(&signed, ring.clock.now());
    let bytes = body.as_ref().map_or(&[][..], |(bytes, _)| bytes);
    let head = format!(
        "{method} {path}?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{TOKEN_HEADER}: {token}\r\nx-content-sha256: {body_sha256}\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    );
    let mut stream = tokio::net::TcpStream::connect(ring.scheduler.address())
        .await
        .unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer[end + 4..].to_vec())
}

async fn upload(ring: &Ring, bytes: &'static [u8]) -> FileId {
    let id = FileId::random();
    let new = NewFile {
        id,
        account: account("acme"),
        owner: common::ids::UserId::new("alice").unwrap(),
        purpose: FilePurpose::Upload,
        name: "in.txt".into(),
        content_type: "text/plain".into(),
        created_at: ring.clock.now(),
    };
    let mut writer = ring.stores.files.create(new).await.unwrap();
    writer.write(Bytes::from_static(bytes)).await.unwrap();
    writer.finish(None).await.unwrap();
    id
}

fn with_input(file: FileId) -> JobSpec {
    JobSpec {
        inputs: vec![InputFile {
            file,
            path: "in.txt".into(),
            unpack: false,
        }],
        ..spec()
    }
}

fn query(assignment: &Assignment) -> String {
    format!("attempt={}&path=out%2Fresult.txt", assignment.attempt)
}

#[tokio::test]
async fn an_input_is_fetched_by_the_worker_that_holds_the_attempt_and_by_no_other() {
    let ring = Ring::start().await;
    let file = upload(&ring, b"some input").await;
    let other = upload(&ring, b"not yours").await;
    let mut agent = ring.agent("w").await;
    let mut thief = Agent::connect(&ring, "thief").await;
    thief.capacity.slots = 0;
    thief.greet(None, vec![]).await;
    ring.submit(with_input(file)).await;
    let assignment = agent.hear_assignment().await;
    assert_eq!(
        (assignment.inputs[0].bytes, &assignment.inputs[0].sha256),
        (10, &hash(b"some input"))
    );
    let query = format!("attempt={}", assignment.attempt);
    assert_eq!(
        request(&ring, "w", "GET", file, &query, None).await,
        (200, b"some input".to_vec())
    );
    assert_eq!(request(&ring, "thief", "GET", file, &query, None).await.0, 404);
    assert_eq!(request(&ring, "w", "GET", other, &query, None).await.0, 404);
    let unknown = format!("attempt={}", AttemptId::random());
    assert_eq!(request(&ring, "w", "GET", file, &unknown, None).await.0, 404);
}

#[tokio::test]
async fn an_artifact_is_stored_once_and_the_same_again_is_welcome() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    let id = ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let (file, query, bytes) = (FileId::random(), query(&assignment), &b"made by the job"[..]);
    assert_eq!(
        request(&ring, "w", "PUT", file, &query, Some((bytes, hash(bytes))))
            .await
            .0,
        201
    );
    assert_eq!(
        request(&ring, "w", "PUT", file, &query, Some((bytes, hash(bytes))))
            .await
            .0,
        200
    );
    assert_eq!(
        request(&ring, "w", "PUT", file, &query, Some((b"other", hash(b"other"))))
            .await
            .0,
        409
    );
    let meta = ring.stores.files.meta(file).await.unwrap().unwrap();
    assert_eq!(
        (meta.account, meta.name.as_str()),
        (account("acme"), "out/result.txt")
    );

    let artifact = |file, path: &str| Artifact {
        path: path.into(),
        file,
        bytes: bytes.len() as u64,
        sha256: hash(bytes),
    };
    let report = AttemptReport {
        artifacts: vec![
            artifact(file, "out/result.txt"),
            artifact(FileId::random(), "never/brought"),
        ],
        ..AttemptReport::bare(Outcome::Exited { code: 0 })
    };
    agent.finish(&assignment, &report).await;
    assert_eq!(
        agent.hear_verdict(assignment.attempt).await,
        ResultVerdict::Accepted
    );
    let end = ring.job(id).await.attempts[0].end.clone().unwrap();
    assert_eq!(
        end.artifacts
            .iter()
            .map(|artifact| artifact.file)
            .collect::<Vec<_>>(),
        vec![file]
    );
    assert_eq!(end.artifacts_refused[0].path, "never/brought");
}

#[tokio::test]
async fn bytes_that_are_not_as_signed_leave_nothing_behind() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    let (file, query) = (FileId::random(), query(&assignment));
    assert_eq!(
        request(
            &ring,
            "w",
            "PUT",
            file,
            &query,
            Some((b"forged", hash(b"signed")))
        )
        .await
        .0,
        422
    );
    assert_eq!(ring.stores.files.meta(file).await.unwrap(), None);
}

#[tokio::test]
async fn paths_out_of_the_workspace_and_ended_attempts_are_refused() {
    let ring = Ring::start().await;
    let mut agent = ring.agent("w").await;
    ring.submit(spec()).await;
    let assignment = agent.hear_assignment().await;
    for path in ["..%2Fx", "%2Fetc%2Fpasswd", "a%00b", "%ff"] {
        let query = format!("attempt={}&path={path}", assignment.attempt);
        let (status, _) = request(
            &ring,
            "w",
            "PUT",
            FileId::random(),
            &query,
            Some((b"x", hash(b"x"))),
        )
        .await;
        assert_eq!(status, 400, "{path}");
    }
    agent.exit(&assignment, 0).await;
    let (status, _) = request(
        &ring,
        "w",
        "PUT",
        FileId::random(),
        &query(&assignment),
        Some((b"x", hash(b"x"))),
    )
    .await;
    assert_eq!(status, 404);
}
