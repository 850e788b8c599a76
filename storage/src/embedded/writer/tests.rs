//! The laws of a writer, each told by its name.

use super::super::sqlite::sql;
use super::*;

const SIZE: Size = Size {
    queue: 64,
    group: 64,
    weight: 64,
    at_once: 1,
};

async fn lane() -> (tempfile::TempDir, Lane<Connection>) {
    lane_with(false)
}

fn lane_with(room: bool) -> (tempfile::TempDir, Lane<Connection>) {
    let place = tempfile::tempdir().unwrap();
    let folder = Arc::new(Folder::open(place.path()).unwrap());
    let path = place.path().join("test.sqlite");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n INTEGER UNIQUE, bytes BLOB)")
        .unwrap();
    let room = room.then(|| WalRoom::of(&path));
    let lane = Lane::start("test", db, SIZE, folder, room).unwrap();
    (place, lane)
}

fn insert(db: &Connection, number: i64, bytes: i64) -> Result<(), StoreError> {
    db.execute(
        "INSERT INTO t VALUES (?1, zeroblob(?2))",
        rusqlite::params![number, bytes],
    )
    .map(drop)
    .map_err(sql)
}

async fn numbers(lane: &Lane<Connection>) -> Vec<i64> {
    let read = |db: &mut Connection| {
        let mut statement = db.prepare("SELECT n FROM t ORDER BY n").map_err(sql)?;
        let rows = statement.query_map([], |row| row.get(0)).map_err(sql)?;
        rows.collect::<Result<Vec<i64>, _>>().map_err(sql)
    };
    lane.write(1, read).await.unwrap()
}

#[tokio::test]
async fn a_request_that_fails_halfway_changes_nothing_and_spoils_no_other() {
    let (_place, lane) = lane().await;
    let requests = (0..40).map(|number| {
        let lane = lane.clone();
        async move {
            let work = move |db: &mut Connection| {
                insert(db, number, 0)?;
                // Every third fails after its first change.
                if number % 3 == 0 {
                    insert(db, number, 0)
                } else {
                    Ok(())
                }
            };
            (number, lane.write(1, work).await)
        }
    });
    let answers = futures_util::future::join_all(requests).await;
    let mut stored = Vec::new();
    for (number, answer) in answers {
        if number % 3 == 0 {
            assert!(matches!(answer, Err(StoreError::Exists)));
        } else {
            assert!(answer.is_ok());
            stored.push(number);
        }
    }
    assert_eq!(numbers(&lane).await, stored);
}

#[tokio::test]
async fn a_full_disk_is_told_and_passes() {
    let (_place, lane) = lane().await;
    let limit = |pages: u32| {
        lane.write(1, move |db: &mut Connection| {
            db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
                .map_err(sql)
        })
    };
    limit(20).await.unwrap();
    let mut kept = Vec::new();
    for number in 0..1_000 {
        match lane.write(1, move |db| insert(db, number, 3_000)).await {
            Ok(()) => kept.push(number),
            Err(StoreError::Full(_)) => break,
            Err(other) => panic!("expected a full disk: {other}"),
        }
    }
    assert!(!kept.is_empty() && kept.len() < 1_000);
    assert_eq!(numbers(&lane).await, kept);
    limit(1_000).await.unwrap();
    let more = i64::try_from(kept.len()).unwrap();
    lane.write(1, move |db| insert(db, more, 3_000)).await.unwrap();
    kept.push(more);
    assert_eq!(numbers(&lane).await, kept);
}

async fn outlives_a_panic(lane: Lane<Connection>) {
    let answer: Result<(), StoreError> = lane
        .write(1, |db: &mut Connection| {
            insert(db, 1, 0)?;
            panic!("a fault of ours");
        })
        .await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))));
    lane.write(1, |db| insert(db, 2, 0)).await.unwrap();
    assert_eq!(numbers(&lane).await, [2]);
}

#[tokio::test]
async fn a_panic_costs_its_own_group_alone() {
    let (_place, lane) = lane().await;
    outlives_a_panic(lane).await;
}

/// Threads that wrote, each as often as it did.
async fn writers(lane: &Lane<Connection>, times: i64) -> Vec<std::thread::ThreadId> {
    let mut threads = Vec::new();
    for number in 0..times {
        let written = lane.write(1, move |db| {
            insert(db, number, 0)?;
            Ok(std::thread::current().id())
        });
        threads.push(written.await.unwrap());
    }
    threads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_writes_alone_commits_on_its_own_thread() {
    let (place, lane) = lane().await;
    // A slow disk sends some of them to the other thread.
    let (threads, mine) = (writers(&lane, 200).await, std::thread::current().id());
    assert!(
        threads.contains(&mine),
        "none of 200 was committed where it was asked for"
    );
    // What was answered is there for another connection.
    let other = Connection::open(place.path().join("test.sqlite")).unwrap();
    let count: i64 = other
        .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 200);
    lane.close().await;
    let answer = lane.write(1, |db| insert(db, 201, 0)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_thread_makes_room_for_those_who_write_by_themselves_and_stays() {
    let (place, lane) = lane_with(true);
    let log = place.path().join("test.sqlite-wal");
    // 3 kB each: past the first megabyte, whoever commits them.
    for number in 0..500 {
        lane.write(1, move |db| insert(db, number, 3_000)).await.unwrap();
    }
    // Too heavy for its caller's thread, so the lane's own answers; after the room that was asked for before.
    let heavy = SIZE.at_once + 1;
    lane.write(heavy, |db| insert(db, 500, 0)).await.unwrap();
    assert_eq!(numbers(&lane).await.len(), 501);
    assert!(std::fs::metadata(&log).unwrap().len() > 1024 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_on_the_callers_thread_costs_the_caller_alone() {
    let (_place, lane) = lane().await;
    outlives_a_panic(lane).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_write_at_once_are_all_answered_in_either_way() {
    let (_place, lane) = lane().await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let lane = lane.clone();
        tasks.spawn(async move {
            for number in 0..50 {
                let n = task * 50 + number;
                lane.write(1, move |db| insert(db, n, 0)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(numbers(&lane).await, (0..800).collect::<Vec<i64>>());
    assert_eq!(lane.shared.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_another_thread_of_the_runtime_the_lanes_own_writes() {
    let (_place, lane) = lane().await;
    let mine = std::thread::current().id();
    assert!(!writers(&lane, 20).await.contains(&mine));
}

#[tokio::test]
async fn a_closed_lane_answers_that_it_is() {
    let (_place, lane) = lane().await;
    lane.close().await;
    lane.close().await;
    let answer = lane.write(1, |db| insert(db, 1, 0)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))));
}
