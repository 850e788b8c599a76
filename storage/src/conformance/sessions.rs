//! Workers and their sessions.

use std::collections::BTreeMap;
use std::time::Duration;

use common::ids::{PoolName, SessionId, WorkerId};
use common::store::{AgentWords, Beat, BeatAnswer};
use common::time::Clock;
use common::worker::{Capacity, Condition, Load, Session, Worker, WorkerDescription};
use futures_util::future::join_all;

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

/// A worker as its first hello tells it.
fn worker(backend: &impl Backend, session: SessionId, conn: u64) -> Worker {
    let now = backend.clock().now();
    Worker {
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
        session: Some(session),
        conn,
        registered_at: now,
        heard_at: now,
        load: Load::default(),
    }
}

fn words(backend: &impl Backend, session: SessionId, conn: u64) -> AgentWords {
    AgentWords {
        session,
        conn,
        heard_at: backend.clock().now(),
        state: Some((
            Condition::Unready {
                reasons: vec!["the engine does not answer".into()],
            },
            LOAD,
        )),
    }
}

const LOAD: Load = Load {
    cpu_percent: 50,
    memory_free_mib: 1,
    disk_free_mib: 2,
    running: 3,
    pulling: Vec::new(),
};

pub async fn workers_are_kept_whole(backend: &mut impl Backend) {
    let workers = backend.stores().workers;
    let session = SessionId::random();
    let mut worker = worker(backend, session, 1);
    assert_eq!(workers.get(&worker.id).await.unwrap(), None);
    assert!(workers.put(&worker, None).await.unwrap());
    assert_eq!(workers.get(&worker.id).await.unwrap(), Some(worker.clone()));
    backend.clock().advance(Duration::from_secs(5));
    let words = words(backend, session, 1);
    assert!(workers.refresh(&worker.id, &words).await.unwrap());
    (worker.condition, worker.load) = words.state.clone().unwrap();
    worker.heard_at = words.heard_at;
    assert_eq!(workers.get(&worker.id).await.unwrap(), Some(worker.clone()));
    // That it lives, and no more.
    backend.clock().advance(Duration::from_secs(5));
    worker.heard_at = backend.clock().now();
    let alive = AgentWords {
        heard_at: worker.heard_at,
        state: None,
        ..words
    };
    assert!(workers.refresh(&worker.id, &alive).await.unwrap());
    let foreign = AgentWords {
        session: SessionId::random(),
        ..alive.clone()
    };
    let (own, others) = tokio::join!(
        workers.refresh(&worker.id, &alive),
        workers.refresh(&worker.id, &foreign)
    );
    assert!(
        own.unwrap() && !others.unwrap(),
        "in one group each has its own answer"
    );
    assert_eq!(workers.get(&worker.id).await.unwrap(), Some(worker.clone()));
    assert_eq!(workers.list().await.unwrap(), [worker]);
}

pub async fn an_agents_words_and_the_wish_to_drain_leave_each_other_alone(backend: &mut impl Backend) {
    let workers = backend.stores().workers;
    let (first, second) = (SessionId::random(), SessionId::random());
    let hello = worker(backend, first, 1);
    let id = &hello.id;
    assert_eq!(workers.set_draining(id, true).await.unwrap(), None);
    assert_eq!(workers.get(id).await.unwrap(), None, "a wish makes no worker");
    assert!(workers.put(&hello, None).await.unwrap());
    assert!(workers.refresh(id, &words(backend, first, 1)).await.unwrap());
    let drained = workers.set_draining(id, true).await.unwrap().unwrap();
    assert!(drained.draining);
    assert_eq!(drained.load, LOAD);
    // Neither a heartbeat nor a hello, of the same session or of a new one, ends the wish.
    backend.clock().advance(Duration::from_secs(5));
    assert!(workers.refresh(id, &words(backend, first, 1)).await.unwrap());
    assert!(
        workers
            .put(&worker(backend, first, 2), Some(first))
            .await
            .unwrap()
    );
    assert!(
        workers
            .put(&worker(backend, second, 1), Some(first))
            .await
            .unwrap()
    );
    let row = workers.get(id).await.unwrap().unwrap();
    assert!(row.draining);
    assert_eq!(
        (row.registered_at, &row.load),
        (hello.registered_at, &drained.load)
    );
    let resumed = workers.set_draining(id, false).await.unwrap().unwrap();
    assert_eq!(
        resumed,
        Worker {
            draining: false,
            ..row
        }
    );
    // At the same time: both are kept, in any order.
    for draining in [true, false].repeat(10) {
        let words = words(backend, second, 1);
        let (wished, said) = tokio::join!(workers.set_draining(id, draining), workers.refresh(id, &words));
        assert!(wished.unwrap().is_some() && said.unwrap());
        let row = workers.get(id).await.unwrap().unwrap();
        assert_eq!((row.draining, row.load), (draining, LOAD));
    }
}

pub async fn an_older_connection_cannot_put_its_session_back(backend: &mut impl Backend) {
    let workers = backend.stores().workers;
    let [old, new, newest] = [(); 3].map(|()| SessionId::random());
    let id = worker_id("node-1");
    assert!(workers.put(&worker(backend, old, 1), None).await.unwrap());
    assert!(workers.put(&worker(backend, old, 3), Some(old)).await.unwrap());
    let row = worker(backend, new, 1);
    assert!(workers.put(&row, Some(old)).await.unwrap());
    // What they read before they stalled is not the truth any more.
    let late = [
        (old, 2, Some(old)),
        (old, 4, Some(old)),
        (newest, 1, Some(old)),
        (newest, 1, None),
    ];
    for (session, conn, replaces) in late {
        let put = workers.put(&worker(backend, session, conn), replaces).await;
        assert!(!put.unwrap(), "{session} {conn} {replaces:?}");
    }
    for (session, conn) in [(old, 3), (new, 2), (newest, 1)] {
        let said = workers.refresh(&id, &words(backend, session, conn)).await;
        assert!(!said.unwrap());
    }
    assert_eq!(workers.get(&id).await.unwrap(), Some(row.clone()));
    // The same hello again changes nothing; within a session a higher connection replaces a lower one for good.
    assert!(workers.put(&row, Some(old)).await.unwrap());
    assert!(workers.put(&worker(backend, new, 3), Some(new)).await.unwrap());
    assert!(!workers.put(&worker(backend, new, 2), Some(new)).await.unwrap());
    assert!(!workers.put(&worker(backend, new, 2), Some(old)).await.unwrap());
    assert_eq!(workers.get(&id).await.unwrap().map(|row| row.conn), Some(3));
}

pub async fn of_hellos_at_the_same_time_each_is_another_connection(backend: &mut impl Backend) {
    const HELLOS: usize = 40;
    let workers = backend.stores().workers;
    let (own, other, lost) = (open(backend).await, open(backend).await, open(backend).await);
    assert!(workers.declare_lost(lost.id, lost.beat).await.unwrap());
    let id = worker_id("node-1");
    let stranger = worker_id("node-2");
    // In one group: a session asked for many times, others once, and some that nobody may have.
    let resumed = join_all((0..HELLOS).map(|_| workers.resume_session(own.id, &id)));
    let (resumed, once, gone, theirs, unknown) = tokio::join!(
        resumed,
        workers.resume_session(other.id, &id),
        workers.resume_session(lost.id, &id),
        workers.resume_session(own.id, &stranger),
        workers.resume_session(SessionId::random(), &id),
    );
    assert_eq!(once.unwrap().unwrap().conn, 2);
    assert_eq!(
        (gone.unwrap(), theirs.unwrap(), unknown.unwrap()),
        (None, None, None)
    );
    // A store may send some of them away for the time being, but gives no number twice.
    let mut conns: Vec<u64> = resumed
        .into_iter()
        .filter_map(|one| Some(one.ok()??.conn))
        .collect();
    conns.sort_unstable();
    assert!(
        !conns.is_empty() && conns.windows(2).all(|pair| pair[0] < pair[1]),
        "{conns:?}"
    );
    assert!(conns[0] > own.conn);
    let last = stored(backend, own.id).await.conn;
    assert_eq!(beat(backend, own.id, last).await, BeatAnswer::Renewed);
    assert_eq!(beat(backend, own.id, last - 1).await, BeatAnswer::Superseded);
}

pub async fn hellos_of_many_workers_at_the_same_time_are_each_kept_or_refused(backend: &mut impl Backend) {
    const WORKERS: usize = 60;
    let workers = backend.stores().workers;
    let row = |number: usize, session: SessionId, conn: u64| Worker {
        id: worker_id(&format!("crowd-{number}")),
        ..worker(backend, session, conn)
    };
    let sessions: Vec<SessionId> = (0..WORKERS).map(|_| SessionId::random()).collect();
    let opened = join_all((0..WORKERS).map(|number| {
        let (workers, now) = (&workers, backend.clock().now());
        let (session, id) = (sessions[number], worker_id(&format!("crowd-{number}")));
        async move { workers.open_session(session, &id, now).await }
    }));
    for (number, session) in opened.await.into_iter().enumerate() {
        let session = session.unwrap();
        assert_eq!((session.id, session.beat, session.conn), (sessions[number], 1, 1));
    }
    let rows: Vec<Worker> = (0..WORKERS)
        .map(|number| row(number, sessions[number], 1))
        .collect();
    let put = join_all(rows.iter().map(|row| workers.put(row, None))).await;
    assert!(put.into_iter().all(Result::unwrap), "the first hello of each");
    // Again at once, a third each: the same hello, a newer connection, and one that knows of an older session alone.
    let again = |number: usize| match number % 3 {
        0 => (rows[number].clone(), None, true),
        1 => (row(number, sessions[number], 2), Some(sessions[number]), true),
        _ => (row(number, SessionId::random(), 1), None, false),
    };
    let again: Vec<(Worker, Option<SessionId>, bool)> = (0..WORKERS).map(again).collect();
    let put = join_all(again.iter().map(|(row, replaces, _)| workers.put(row, *replaces))).await;
    for (number, (put, (_, _, speaks))) in put.into_iter().zip(&again).enumerate() {
        assert_eq!(put.unwrap(), *speaks, "of worker {number}");
        let kept = if *speaks { &again[number].0 } else { &rows[number] };
        assert_eq!(workers.get(&kept.id).await.unwrap().as_ref(), Some(kept));
    }
}
