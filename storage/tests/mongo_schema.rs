//! What a start makes of a database, and what others find in it: collections, indexes, a version, files.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::ids::{AccountId, FileId, UserId};
use common::store::{FilePurpose, NewFile};
use common::time::{Clock, SystemClock};
use futures_util::future::join_all;
use futures_util::{AsyncReadExt, TryStreamExt};
use mongodb::bson::{Document, doc};
use mongodb::options::GridFsBucketOptions;
use storage::conformance::mongo_server::Database;
use storage::mongo::{self, Rows};

/// Programs that start over one fresh database.
const AT_ONCE: usize = 4;
/// More than one piece of a GridFS file (255 KiB), and no multiple of it.
const FILE_BYTES: usize = 700_001;

async fn open(database: &Database) -> Result<Rows, String> {
    let opened = mongo::connect(&database.uri(), Arc::new(SystemClock)).await;
    opened.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

async fn inside(database: &Database) -> mongodb::Database {
    let client = mongodb::Client::with_uri_str(database.uri().expose())
        .await
        .unwrap();
    client.default_database().unwrap()
}

/// The keys of each index, by collection and name.
async fn indexes(database: &mongodb::Database) -> BTreeMap<(String, String), Document> {
    let mut found = BTreeMap::new();
    for collection in database.list_collection_names().await.unwrap() {
        let listed = database
            .collection::<Document>(&collection)
            .list_indexes()
            .await
            .unwrap();
        let listed: Vec<mongodb::IndexModel> = listed.try_collect().await.unwrap();
        for index in listed {
            let name = index.options.and_then(|options| options.name).unwrap_or_default();
            found.insert((collection.clone(), name), index.keys);
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_start_at_once_make_one_schema_and_a_later_start_mends_it() {
    let database = Database::shared().await;
    let inside = inside(&database).await;
    let opened = join_all((0..AT_ONCE).map(|_| open(&database))).await;
    for opened in opened {
        opened.unwrap().closing.close().await;
    }
    let versions = inside.collection::<Document>("schema");
    assert_eq!(versions.count_documents(doc! {}).await.unwrap(), 1);
    let made = indexes(&inside).await;
    let of_jobs = made.keys().filter(|(collection, _)| collection == "jobs").count();
    assert!(of_jobs > 5, "{made:#?}");

    let due = made
        .iter()
        .find(|((collection, _), keys)| collection == "jobs" && keys.contains_key("due"))
        .map(|((_, name), _)| name.clone())
        .unwrap();
    inside
        .collection::<Document>("jobs")
        .drop_index(due)
        .await
        .unwrap();
    assert_eq!(indexes(&inside).await.len(), made.len() - 1);
    open(&database).await.unwrap().closing.close().await;
    assert_eq!(indexes(&inside).await, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_schema_is_refused_with_what_to_do() {
    let database = Database::shared().await;
    open(&database).await.unwrap().closing.close().await;
    let versions = inside(&database).await.collection::<Document>("schema");
    let older = doc! { "$set": { "version": 1_i64 } };
    versions.update_one(doc! {}, older).await.unwrap();
    let told = open(&database).await.err().unwrap();
    for word in ["MONGODB_URI", "version 1", "migration"] {
        assert!(told.contains(word), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_ours_is_read_by_any_client_of_gridfs() {
    let database = Database::shared().await;
    let rows = open(&database).await.unwrap();
    let now = SystemClock.now();
    let id = FileId::generate(now);
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|place| (place % 251) as u8).collect();
    let mut writer = rows
        .files
        .create(NewFile {
            id,
            account: AccountId::new("acme").unwrap(),
            owner: UserId::new("alice").unwrap(),
            purpose: FilePurpose::Upload,
            name: "numbers.bin".to_owned(),
            content_type: "application/octet-stream".to_owned(),
            created_at: now,
        })
        .await
        .unwrap();
    for piece in bytes.chunks(64 * 1_024) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish(None).await.unwrap();

    let options = GridFsBucketOptions::builder()
        .bucket_name("files".to_owned())
        .build();
    let bucket = inside(&database).await.gridfs_bucket(options);
    let file = bucket
        .find_one(doc! { "metadata.file": id.to_string() })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(file.length, FILE_BYTES as u64);
    let mut read = Vec::new();
    let mut stream = bucket.open_download_stream(file.id).await.unwrap();
    stream.read_to_end(&mut read).await.unwrap();
    assert!(
        read == bytes,
        "{} bytes, and others than were written",
        read.len()
    );
    rows.closing.close().await;
}
