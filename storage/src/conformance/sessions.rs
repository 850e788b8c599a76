//! Workers and their sessions.

use std::collections::BTreeMap;

use common::ids::{PoolName, SessionId, WorkerId};
use common::store::{Beat, BeatAnswer};
use common::time::Clock;
use common::worker::{Capacity, Condition, Load, Session, Worker, WorkerDescription};

use super::Backend;

fn worker_id(name: &str) -> WorkerId {
    WorkerId::new(name).unwrap()
}

async fn open(backend: &impl Backend) -> Session {
    let now = backend.clock().now();
    let workers = backend.stores().workers;
    workers
        .open_session(SessionId::random(), &worker_id("node-1"), now)
        .await
        .unwrap()
}

async fn beat(backend: &impl Backend, session: SessionId, conn: u64) -> BeatAnswer {
    let answers = backend.stores().workers.beat(&[Beat { session, conn }]).await;
    answers.unwrap()[0]
}

async fn stored(backend: &impl Backend, id: SessionId) -> Session {
    let mut found = backend.stores().workers.sessions(&[id]).await.unwrap();
    found.pop().expect("the session is stored")
}

pub async fn a_session_renews_until_it_is_lost(backend: &mut impl Backend) {
    let session = open(backend).await;
    assert_eq!((session.beat, session.conn, session.lost), (1, 1, false));
    assert_eq!(beat(backend, session.id, 1).await, BeatAnswer::Renewed);
    assert_eq!(stored(backend, session.id).await.beat, 2);
    let other = open(backend).await;
    let (lost, unknown) = (open(backend).await, SessionId::random());
    let workers = backend.stores().workers;
    assert!(workers.declare_lost(lost.id, 1).await.unwrap());
    let beats = [other.id, lost.id, unknown, session.id].map(|session| Beat { session, conn: 1 });
    let answers = workers.beat(&beats).await.unwrap();
    assert_eq!(
        answers,
        [
            BeatAnswer::Renewed,
            BeatAnswer::Lost,
            BeatAnswer::Lost,
            BeatAnswer::Renewed
        ]
    );
    let mut live: Vec<SessionId> = workers
        .live_sessions()
        .await
        .unwrap()
        .iter()
        .map(|s| s.id)
        .collect();
    live.sort_unstable();
    let mut expected = vec![session.id, other.id];
    expected.sort_unstable();
    assert_eq!(live, expected);
    // The same opening sent again is the same session.
    let again = workers
        .open_session(other.id, &worker_id("node-1"), other.opened_at)
        .await;
    assert_eq!(again.unwrap().id, other.id);
}

pub async fn a_newer_connection_supersedes(backend: &mut impl Backend) {
    let session = open(backend).await;
    let workers = backend.stores().workers;
    let resumed = workers
        .resume_session(session.id, &session.worker)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((resumed.conn, resumed.beat), (2, 2));
    assert_eq!(beat(backend, session.id, 1).await, BeatAnswer::Superseded);
    assert_eq!(stored(backend, session.id).await.beat, 2);
    assert_eq!(beat(backend, session.id, 2).await, BeatAnswer::Renewed);
    let stranger = workers.resume_session(session.id, &worker_id("node-2")).await;
    assert_eq!(stranger.unwrap(), None);
}

pub async fn lost_is_final(backend: &mut impl Backend) {
    let session = open(backend).await;
    let workers = backend.stores().workers;
    assert!(workers.declare_lost(session.id, 1).await.unwrap());
    assert_eq!(beat(backend, session.id, 1).await, BeatAnswer::Lost);
    let resumed = workers.resume_session(session.id, &session.worker).await;
    assert_eq!(resumed.unwrap(), None);
    assert!(stored(backend, session.id).await.lost);
    let again = workers
        .open_session(session.id, &session.worker, session.opened_at)
        .await;
    assert!(again.is_err(), "an id is never used again");
}

pub async fn a_session_heard_again_is_not_declared_lost(backend: &mut impl Backend) {
    let workers = backend.stores().workers;
    assert!(!workers.declare_lost(SessionId::random(), 1).await.unwrap());
    for _ in 0..20 {
        let session = open(backend).await;
        let (declared, answer) =
            tokio::join!(workers.declare_lost(session.id, 1), beat(backend, session.id, 1));
        let expected = if declared.unwrap() {
            BeatAnswer::Lost
        } else {
            BeatAnswer::Renewed
        };
        assert_eq!(answer, expected);
        assert_eq!(stored(backend, session.id).await.lost, answer == BeatAnswer::Lost);
    }
}

pub async fn workers_are_kept_whole(backend: &mut impl Backend) {
    let now = backend.clock().now();
    let mut worker = Worker {
        id: worker_id("node-1"),
        description: WorkerDescription {
            version: "0.1.0".into(),
            hostname: "node-1".into(),
            os: "linux".into(),
            architecture: "x86_64".into(),
            pool: PoolName::default(),
            labels: BTreeMap::from([("gpu".into(), "yes".into())]),
            capacity: Capacity {
                cpu_millis: 4_000,
                memory_mib: 8_192,
                disk_mib: 10_000,
                slots: 4,
            },
            notes: vec!["no_disk_quota".into()],
        },
        condition: Condition::Ready,
        draining: false,
        session: Some(SessionId::random()),
        registered_at: now,
        heard_at: now,
        load: Load::default(),
    };
    let workers = backend.stores().workers;
    assert_eq!(workers.get(&worker.id).await.unwrap(), None);
    workers.put(&worker).await.unwrap();
    worker.draining = true;
    workers.put(&worker).await.unwrap();
    assert_eq!(workers.get(&worker.id).await.unwrap(), Some(worker.clone()));
    assert_eq!(workers.list().await.unwrap(), [worker]);
}
