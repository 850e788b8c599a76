//! A process that is killed at any instant has lost nothing that it acknowledged.
//!
//! The test runs itself as a child that stores things for ever and prints what was acknowledged; it is killed in the
//! midst of it, ten times over, and each time everything printed so far has to be there.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use common::config::StoreConfig;
use common::ids::{AttemptId, FileId, JobId, SessionId, UserId};
use common::job::{Epoch, Job};
use common::lifecycle::{JobEvent, testing};
use common::log::{LogChunk, Stream};
use common::service::{Applied, Jobs};
use common::store::{FilePurpose, NewFile, NewJob, Stores};
use common::time::{Clock, SystemClock};

const FOLDER: &str = "JOBWORKER_TEST_CRASH_FOLDER";
const ROUNDS: usize = 10;
/// Acknowledgements of a round before the kill: another number each round, so that each ends in another place.
const ACKNOWLEDGED: [usize; ROUNDS] = [1, 37, 90, 211, 5, 160, 400, 64, 333, 18];

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Ok(folder) = std::env::var(FOLDER) {
        run(store_for_ever(Path::new(&folder)));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<String> = Vec::new();
    for wanted in ACKNOWLEDGED {
        let mut child = start(folder.path());
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut heard = 0;
        for line in output.lines() {
            let line = line.unwrap();
            if let Some((_, acknowledgement)) = line.split_once("ack ") {
                acknowledged.push(acknowledgement.to_owned());
                heard += 1;
            }
            if heard == wanted {
                // SIGKILL; what it prints until then is read to the end.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            heard >= wanted,
            "the child ended by itself after {heard} acknowledgements"
        );
        run(check(folder.path(), &acknowledged));
    }
}

fn start(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_acknowledged_survives_kill_9", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work);
}

async fn open(folder: &Path) -> storage::Opened {
    let config = StoreConfig::Embedded {
        folder: folder.to_owned(),
    };
    storage::open_closable(&config, Arc::new(SystemClock))
        .await
        .unwrap()
}

/// One line, whole: the parent reads it even if we are gone the next moment.
fn acknowledge(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\nack {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

async fn store_for_ever(folder: &Path) {
    let stores = open(folder).await.stores;
    let writers = (0..4).map(|writer| store_one_after_another(stores.clone(), writer == 0));
    futures_util::future::join_all(writers).await;
}

async fn store_one_after_another(stores: Stores, with_files: bool) {
    let jobs = Jobs::new(stores.clone(), Arc::new(SystemClock));
    loop {
        let now = SystemClock.now();
        let id = JobId::generate(now);
        let alice = UserId::new("alice").unwrap();
        let job = Job::submitted(id, testing::account("acme"), alice, testing::spec(), now);
        jobs.submit(vec![NewJob { job, key: None }]).await.unwrap();
        acknowledge(&format!("job {id} 1"));

        let attempt = AttemptId::random();
        let claim = JobEvent::Claimed {
            attempt,
            lease: common::job::Lease {
                session: SessionId::random(),
                ..testing::lease("node-1")
            },
            epoch: Epoch(1),
        };
        for (revision, event) in [(2, claim), (3, JobEvent::Started { attempt })] {
            let Applied::Done(_) = jobs.apply(id, event).await.unwrap() else {
                panic!("an event was refused");
            };
            acknowledge(&format!("job {id} {revision}"));
        }
        for seq in 0..3 {
            let chunk = LogChunk {
                attempt,
                stream: Stream::Stdout,
                seq,
                bytes: Bytes::from(format!("{attempt} {seq}")),
            };
            stores.logs.append(vec![chunk], now).await.unwrap();
            acknowledge(&format!("log {attempt} {seq}"));
        }
        if with_files {
            let new = NewFile {
                id: FileId::generate(now),
                account: testing::account("acme"),
                owner: UserId::new("alice").unwrap(),
                purpose: FilePurpose::Upload,
                name: "file".into(),
                content_type: String::new(),
                created_at: now,
            };
            let file = new.id;
            let mut writer = stores.files.create(new).await.unwrap();
            writer.write(Bytes::from(file.to_string())).await.unwrap();
            writer.finish(None).await.unwrap();
            acknowledge(&format!("file {file} 0"));
        }
    }
}

async fn check(folder: &Path, acknowledged: &[String]) {
    let opened = open(folder).await;
    for line in acknowledged {
        let [kind, id, number] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not an acknowledgement: {line}");
        };
        let number: u64 = number.parse().unwrap();
        match kind {
            "job" => {
                let job = opened.stores.jobs.get(id.parse().unwrap()).await.unwrap();
                assert!(job.is_some_and(|job| job.revision.0 >= number), "lost: {line}");
            }
            "log" => check_log(&opened.stores, id.parse().unwrap(), number).await,
            "file" => {
                let meta = opened.stores.files.meta(id.parse().unwrap()).await.unwrap();
                assert_eq!(meta.map(|meta| meta.bytes), Some(id.len() as u64), "lost: {line}");
            }
            other => panic!("not an acknowledgement: {other}"),
        }
    }
    opened.closing.close().await;
}

async fn check_log(stores: &Stores, attempt: AttemptId, seq: u64) {
    let extent = stores.logs.extent(attempt).await.unwrap();
    assert!(extent.stdout.next_seq > seq, "lost: chunk {seq} of {attempt}");
    let bytes = stores
        .logs
        .read_range(attempt, Stream::Stdout, 0, u64::MAX)
        .await
        .unwrap();
    let expected: String = (0..extent.stdout.next_seq)
        .map(|seq| format!("{attempt} {seq}"))
        .collect();
    assert_eq!(bytes, expected);
}
