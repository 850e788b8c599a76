//! What a start makes of a database, which ones it refuses and with what words, and what others find in it.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mongo.rs"]
mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use common::ids::{AccountId, AttemptId, FileId, SessionId, UserId, WorkerId};
use common::secret::Secret;
use common::store::{FilePurpose, NewFile};
use common::time::{Clock, SystemClock};
use futures_util::future::join_all;
use futures_util::{AsyncReadExt, TryStreamExt};
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::{GridFsBucketOptions, IndexOptions};
use storage::conformance::mongo_server::{Database, Server};

use support::open;

/// Programs that start over one fresh database.
const AT_ONCE: usize = 4;
/// More than one piece of a GridFS file (255 KiB), and no multiple of it.
const FILE_BYTES: usize = 700_001;
/// Of every user here.
const PASSWORD: &str = "the-right-one";
const WRONG: &str = "another-one";

async fn refused(uri: &Secret<String>) -> String {
    let opened = open(uri).await;
    opened.err().expect("this database is refused")
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
        let listed: Vec<IndexModel> = listed.try_collect().await.unwrap();
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
    let uri = database.uri();
    let opened = join_all((0..AT_ONCE).map(|_| open(&uri))).await;
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
    open(&database.uri()).await.unwrap().closing.close().await;
    assert_eq!(indexes(&inside).await, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_before_the_first_release_is_refused_with_what_to_do() {
    let database = Database::shared().await;
    open(&database.uri()).await.unwrap().closing.close().await;
    let versions = inside(&database).await.collection::<Document>("schema");
    for older in [1_i64, 2] {
        let older_one = doc! { "$set": { "version": older } };
        versions.update_one(doc! {}, older_one).await.unwrap();
        let told = open(&database.uri()).await.err().unwrap();
        let found = format!("is of schema version {older}, this program knows version 3");
        for part in [
            "MONGODB_URI",
            &found,
            "no migration",
            "run the program that wrote it",
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_ours_is_read_by_any_client_of_gridfs() {
    let database = Database::shared().await;
    let rows = open(&database.uri()).await.unwrap();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_is_refused_with_a_sentence() {
    for (uri, said) in [
        ("not an address", "MONGODB_URI cannot be used"),
        ("mongodb://127.0.0.1:1/x", "no MongoDB answers at MONGODB_URI"),
        ("mongodb://127.0.0.1:1/x", "rs.initiate()"),
    ] {
        let told = refused(&Secret::new(uri.into())).await;
        assert!(told.contains(said), "{uri}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_ours_is_refused_with_a_sentence() {
    let database = Database::shared().await;
    let inside = inside(&database).await;
    let jobs = inside.collection::<Document>("jobs");
    jobs.insert_one(doc! { "_id": 1 }).await.unwrap();
    let told = refused(&database.uri()).await;
    assert!(
        told.contains("MONGODB_URI") && told.contains("another program"),
        "{told}"
    );
    jobs.drop().await.unwrap();

    open(&database.uri()).await.unwrap().closing.close().await;
    let schema = inside.collection::<Document>("schema");
    let newer = doc! { "$set": { "version": 99_i64 } };
    schema.update_one(doc! {}, newer).await.unwrap();
    let told = refused(&database.uri()).await;
    assert!(
        told.contains("MONGODB_URI") && told.contains("99") && told.contains("newer program"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_stands_in_the_way_is_told_with_what_the_server_says() {
    let database = Database::shared().await;
    open(&database.uri()).await.unwrap().closing.close().await;
    let users = inside(&database).await.collection::<Document>("users");
    users.drop_index("users_by_name").await.unwrap();
    let options = IndexOptions::builder().name("users_by_name".to_owned()).build();
    let in_the_way = IndexModel::builder()
        .keys(doc! { "other": 1 })
        .options(options)
        .build();
    users.create_index(in_the_way).await.unwrap();
    let told = refused(&database.uri()).await;
    for part in [
        "MONGODB_URI",
        "refuses what a start asks",
        "users_by_name",
        "name an empty database",
    ] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_alone_is_refused_with_a_sentence() {
    let alone = Server::with(&["--standalone"]).await;
    let told = refused(&alone.uri("x")).await;
    assert!(
        told.contains("replica set") && told.contains("MONGODB_URI"),
        "{told}"
    );
}

/// The address of the database `x` for this user.
fn as_user(server: &Server, user: &str, password: &str) -> Secret<String> {
    let address = server.address();
    Secret::new(format!(
        "mongodb://{user}:{password}@{address}/x?authSource=admin"
    ))
}

/// Users with a right each, made by the first one.
async fn make_users(server: &Server) {
    let user = |name: &str, role: &str, database: &str| {
        doc! { "createUser": name, "pwd": PASSWORD, "roles": [{ "role": role, "db": database }] }
    };
    // Whoever comes from this machine may make the first user, and then no more.
    let client = mongodb::Client::with_uri_str(server.uri("admin").expose())
        .await
        .unwrap();
    let admin = client.database("admin");
    admin.run_command(user("root", "root", "admin")).await.unwrap();
    let client = mongodb::Client::with_uri_str(as_user(server, "root", PASSWORD).expose())
        .await
        .unwrap();
    let admin = client.database("admin");
    for (name, role, database) in [
        ("reader", "read", "x"),
        ("elsewhere", "readWrite", "y"),
        ("writer", "readWrite", "x"),
    ] {
        admin.run_command(user(name, role, database)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_the_rights_is_refused_with_what_is_missing_and_the_right_one_is_enough() {
    let strict = Server::with(&["--auth"]).await;
    make_users(&strict).await;
    let missing = ["MONGODB_URI", "a right is missing", "readWrite"];
    let unknown = ["MONGODB_URI", "does not let this program in", "authSource"];
    for (uri, said) in [
        (strict.uri("x"), missing),
        (as_user(&strict, "reader", PASSWORD), missing),
        (as_user(&strict, "elsewhere", PASSWORD), missing),
        (as_user(&strict, "writer", WRONG), unknown),
        (as_user(&strict, "nobody", PASSWORD), unknown),
    ] {
        let told = refused(&uri).await;
        for part in said {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        assert!(
            !told.contains(PASSWORD) && !told.contains(WRONG),
            "a password is shown: {told}"
        );
    }
    let rows = open(&as_user(&strict, "writer", PASSWORD)).await.unwrap();
    let now = SystemClock.now();
    let ended = rows.logs.purge(AttemptId::random()).await;
    let opened = rows
        .workers
        .open_session(SessionId::random(), &WorkerId::new("node").unwrap(), now)
        .await;
    assert!(ended.is_ok() && opened.is_ok(), "{ended:?} {opened:?}");
    // It may read what is there, and start all the same it may not.
    let told = refused(&as_user(&strict, "reader", PASSWORD)).await;
    assert!(told.contains("a right is missing"), "{told}");
    rows.closing.close().await;
}
