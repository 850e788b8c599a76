//! Files: whole or not at all.

use bytes::Bytes;
use common::ids::{FileId, UserId};
use common::lifecycle::testing;
use common::store::{FileMeta, FilePurpose, FileQuery, NewFile, StoreError};
use common::time::Clock;
use futures_util::TryStreamExt;

use super::Backend;
use super::kit::turn;

/// SHA-256 of `abc`, from the standard's own examples.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn new_file(backend: &impl Backend) -> NewFile {
    let now = backend.clock().now();
    NewFile {
        id: FileId::generate(now),
        account: testing::account("acme"),
        owner: UserId::new("alice").unwrap(),
        purpose: FilePurpose::Upload,
        name: "../../etc/passwd".into(),
        content_type: "text/plain".into(),
        created_at: now,
    }
}

pub async fn store(backend: &impl Backend, parts: &[&[u8]]) -> FileMeta {
    let mut writer = backend.stores().files.create(new_file(backend)).await.unwrap();
    for part in parts {
        writer.write(Bytes::copy_from_slice(part)).await.unwrap();
    }
    writer.finish(None).await.unwrap()
}

pub async fn read(backend: &impl Backend, id: FileId, start: u64, end: Option<u64>) -> Vec<u8> {
    let stream = backend.stores().files.read(id, start, end).await.unwrap();
    let chunks: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(
        chunks.iter().all(|chunk| chunk.len() <= 256 * 1024),
        "chunks are bounded"
    );
    chunks.concat()
}

pub async fn a_file_appears_whole_or_not_at_all(backend: &mut impl Backend) {
    let files = backend.stores().files;
    let new = new_file(backend);
    let id = new.id;
    let mut writer = files.create(new.clone()).await.unwrap();
    writer.write(Bytes::from_static(b"ab")).await.unwrap();
    assert_eq!(files.meta(id).await.unwrap(), None);
    assert!(matches!(files.read(id, 0, None).await, Err(StoreError::NotFound)));
    drop(writer);
    assert_eq!(files.meta(id).await.unwrap(), None);

    let mut writer = files.create(new.clone()).await.unwrap();
    let rival = files.create(new.clone()).await.unwrap();
    for part in ["a", "", "bc"] {
        writer.write(Bytes::from(part)).await.unwrap();
    }
    let meta = writer.finish(Some(ABC)).await.unwrap();
    assert_eq!(
        (meta.bytes, meta.sha256.as_str(), meta.name.as_str()),
        (3, ABC, new.name.as_str())
    );
    assert_eq!(files.meta(id).await.unwrap(), Some(meta));
    // Neither who began before nor who comes after replaces it.
    assert!(matches!(rival.finish(None).await, Err(StoreError::Exists)));
    assert!(matches!(files.create(new).await, Err(StoreError::Exists)));
    assert_eq!(read(backend, id, 0, None).await, b"abc");
    files.delete(id).await.unwrap();
    files.delete(id).await.unwrap();
    assert_eq!(files.meta(id).await.unwrap(), None);
}

pub async fn a_wrong_sum_keeps_nothing(backend: &mut impl Backend) {
    let new = new_file(backend);
    let id = new.id;
    let files = backend.stores().files;
    let mut writer = files.create(new).await.unwrap();
    writer.write(Bytes::from_static(b"abd")).await.unwrap();
    assert!(matches!(
        writer.finish(Some(ABC)).await,
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(files.meta(id).await.unwrap(), None);
}

pub async fn ranges_of_files(backend: &mut impl Backend) {
    let whole: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8).collect();
    let meta = store(backend, &[&whole[..70_000], &whole[70_000..]]).await;
    let end = whole.len();
    for (start, until) in [(0, end), (1, 2), (65_535, 65_537), (end - 1, end), (10, 10)] {
        let found = read(backend, meta.id, start as u64, Some(until as u64)).await;
        assert!(found == whole[start..until], "{start}..{until}");
    }
    assert!(read(backend, meta.id, 100_000, None).await == whole[100_000..]);
    assert!(read(backend, meta.id, end as u64 + 5, None).await.is_empty());
    assert_eq!(read(backend, meta.id, 0, Some(u64::MAX)).await.len(), end);
}

pub async fn files_are_listed_newest_first(backend: &mut impl Backend) {
    let mut stored = Vec::new();
    for number in 0..5u8 {
        stored.insert(0, store(backend, &[&[number]]).await);
        turn(backend, std::time::Duration::from_millis(1));
    }
    let files = backend.stores().files;
    let query = |before, limit| FileQuery {
        account: Some(testing::account("acme")),
        before,
        limit,
    };
    assert_eq!(files.list(&query(None, 2)).await.unwrap(), stored[..2]);
    assert_eq!(
        files.list(&query(Some(stored[1].id), 9)).await.unwrap(),
        stored[2..]
    );
    let foreign = FileQuery {
        account: Some(testing::account("globex")),
        before: None,
        limit: 9,
    };
    assert_eq!(files.list(&foreign).await.unwrap(), []);
    let everybody = FileQuery {
        limit: 9,
        ..FileQuery::default()
    };
    assert_eq!(files.list(&everybody).await.unwrap(), stored);
}
