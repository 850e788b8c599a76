//! Collections, their indexes, and the version of it all.
//!
//! Made at every start, and made only once: whoever comes first makes them, whoever comes later finds them. A database
//! of another version, or of another program, is refused with a sentence instead of being guessed at.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::link::{Link, Question, in_time, whole_number};
use super::trouble::{Trouble, is_duplicate};

pub(super) const JOBS: &str = "jobs";
pub(super) const LOGS: &str = "jobLogs";
pub(super) const WORKERS: &str = "workers";
/// Workers' sessions with their beats. (People's sign-ins are in `logins`.)
pub(super) const HEARTBEATS: &str = "heartbeats";
pub(super) const TERMS: &str = "terms";
pub(super) const ACCOUNTS: &str = "accounts";
pub(super) const USERS: &str = "users";
pub(super) const LOGINS: &str = "logins";
pub(super) const API_KEYS: &str = "apiKeys";
/// GridFS's two, under the bucket's name `files`.
pub(super) const FILES: &str = "files.files";
pub(super) const FILE_CHUNKS: &str = "files.chunks";
/// Files that are being written or removed: what a crash leaves is found here.
pub(super) const UNFINISHED: &str = "files.unfinished";
const SCHEMA: &str = "schema";

const JOBS_BY_KEY: &str = "jobs_by_key";
const JOBS_BY_ACCOUNT: &str = "jobs_by_account";
const JOBS_BY_ACCOUNT_STATE: &str = "jobs_by_account_state";
const JOBS_BY_STATE: &str = "jobs_by_state";
const JOBS_BY_LABEL: &str = "jobs_by_label";
const JOBS_DUE: &str = "jobs_due";
const JOBS_HELD: &str = "jobs_held";
const JOBS_BY_SESSION: &str = "jobs_by_session";
const JOBS_UNDELIVERED: &str = "jobs_undelivered";
const LOGS_BY_SEQ: &str = "logs_by_seq";
const LOGS_BY_START: &str = "logs_by_start";
const HEARTBEATS_LIVE: &str = "heartbeats_live";
const FILES_BY_ID: &str = "files_by_id";
const FILES_BY_ACCOUNT: &str = "files_by_account";
const USERS_BY_NAME: &str = "users_by_name";
const LOGINS_BY_USER: &str = "logins_by_user";
const LOGINS_BY_END: &str = "logins_by_end";
const API_KEYS_BY_USER: &str = "api_keys_by_user";

/// Raised with every change of what is below, or of what documents look like.
const VERSION: i64 = 3;
/// In a fresh database indexes are made at once; in one that somebody has filled it may take a while.
const INDEXES_WITHIN: Duration = Duration::from_secs(60);

/// Brings the database to this program's version, or says why it cannot.
pub(super) async fn prepare(link: &Link) -> Result<(), Trouble> {
    check_server(link).await?;
    let found = version(link).await?;
    match found {
        Some(VERSION) => {}
        Some(other) => return Err(of_another_version(link, other)),
        None => check_nobody_elses(link).await?,
    }
    // Also where the version fits: an index that somebody has dropped would turn a question into a scan.
    for (collection, indexes) in indexes() {
        let command = doc! { "createIndexes": collection, "indexes": indexes };
        let made = tokio::time::timeout(INDEXES_WITHIN, link.durable(command, INDEXES_WITHIN));
        made.await.unwrap_or(Err(Trouble::Silent))?;
    }
    if found.is_none() {
        write_version(link).await?;
    }
    Ok(())
}

/// A standalone server has no majority and, at some versions, loses what it acknowledged.
async fn check_server(link: &Link) -> Result<(), Trouble> {
    let hello = in_time(link.run(&doc! { "hello": 1 })).await?;
    let is_cluster =
        hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|role| role == "isdbgrid");
    if is_cluster {
        return Ok(());
    }
    Err(Trouble::unreadable(
        "MONGODB_URI names a server that is no member of a replica set, so nothing it acknowledges is safe: start it \
         with `--replSet` and run `rs.initiate()` once (one member is enough)",
    ))
}

async fn version(link: &Link) -> Result<Option<i64>, Trouble> {
    let question = Question::new(SCHEMA, doc! { "_id": SCHEMA });
    let found = link.ask_one(question, |row| Ok(Document::try_from(row)?)).await?;
    match found {
        None => Ok(None),
        Some(document) => match whole_number(&document, "version") {
            Some(version) => Ok(Some(version)),
            None => Err(foreign(link, SCHEMA)),
        },
    }
}

/// Without a version there must be nothing under our names: another program's database is not ours to change. A start
/// that was interrupted has made indexes, but no document.
async fn check_nobody_elses(link: &Link) -> Result<(), Trouble> {
    for collection in [
        JOBS, LOGS, WORKERS, HEARTBEATS, TERMS, ACCOUNTS, USERS, LOGINS, API_KEYS, FILES,
    ] {
        let question = Question::new(collection, Document::new()).only(doc! { "_id": 1 });
        let somebodys = link.ask_one(question, |_| Ok(())).await?.is_some();
        if somebodys && version(link).await?.is_none() {
            return Err(foreign(link, collection));
        }
    }
    Ok(())
}

async fn write_version(link: &Link) -> Result<(), Trouble> {
    let document = doc! { "_id": SCHEMA, "version": VERSION, "program": "jobworker" };
    let command = doc! { "insert": SCHEMA, "documents": [document] };
    let written = in_time(link.write(command)).await?;
    match written.errors.first() {
        // Another program of this installation was quicker; it may be of another version.
        Some(error) if is_duplicate(error.code) => match version(link).await? {
            Some(VERSION) => Ok(()),
            Some(other) => Err(of_another_version(link, other)),
            None => Err(Trouble::Contended),
        },
        _ => written.whole().map(drop),
    }
}

fn of_another_version(link: &Link, found: i64) -> Trouble {
    let name = link.database_name();
    let next = if found > VERSION {
        "run the newer program that wrote it, or name another database in MONGODB_URI"
    } else {
        "there is no migration between the two: run the program that wrote it, or name another database in MONGODB_URI"
    };
    Trouble::unreadable(format!(
        "the database `{name}` of MONGODB_URI is of schema version {found}, this program knows version {VERSION}: {next}"
    ))
}

fn foreign(link: &Link, collection: &str) -> Trouble {
    let name = link.database_name();
    Trouble::unreadable(format!(
        "the database `{name}` of MONGODB_URI has a collection `{collection}` that another program has filled: name an \
         empty database in MONGODB_URI"
    ))
}

fn indexes() -> Vec<(&'static str, Vec<Document>)> {
    let exists = |field: &str| doc! { field: { "$exists": true } };
    vec![
        (
            JOBS,
            vec![
                // One job for each use of a client's own name; a job without one is not in it.
                unique(sparse(index(JOBS_BY_KEY, doc! { "key": 1 }))),
                // Lists of an account. Holds nothing that ever changes but `hidden`.
                index(JOBS_BY_ACCOUNT, doc! { "account": 1, "hidden": 1, "_id": 1 }),
                // Lists and counts of an account by state.
                index(
                    JOBS_BY_ACCOUNT_STATE,
                    doc! { "account": 1, "state": 1, "hidden": 1, "_id": 1 },
                ),
                // The queue made anew; lists and counts of everybody by state.
                index(JOBS_BY_STATE, doc! { "state": 1, "_id": 1, "hidden": 1 }),
                partial(
                    index(JOBS_BY_LABEL, doc! { "labels": 1, "_id": 1 }),
                    exists("labels"),
                ),
                partial(index(JOBS_DUE, doc! { "state": 1, "due": 1 }), exists("due")),
                // `assigned` and `running`: what the leader and the gateways look through many times a minute.
                partial(
                    index(JOBS_HELD, doc! { "_id": 1, "session": 1, "epoch": 1 }),
                    exists("session"),
                ),
                // What single sessions hold: every heartbeat asks.
                partial(
                    index(JOBS_BY_SESSION, doc! { "session": 1, "_id": 1 }),
                    exists("session"),
                ),
                partial(
                    index(JOBS_UNDELIVERED, doc! { "undelivered": 1, "_id": 1 }),
                    doc! { "undelivered": true },
                ),
            ],
        ),
        (
            LOGS,
            vec![
                unique(index(LOGS_BY_SEQ, doc! { "attempt": 1, "stream": 1, "seq": 1 })),
                index(LOGS_BY_START, doc! { "attempt": 1, "stream": 1, "start": 1 }),
            ],
        ),
        (
            HEARTBEATS,
            vec![partial(
                index(HEARTBEATS_LIVE, doc! { "lost": 1, "_id": 1 }),
                doc! { "lost": false },
            )],
        ),
        (USERS, vec![unique(index(USERS_BY_NAME, doc! { "user.name": 1 }))]),
        (
            LOGINS,
            vec![
                index(LOGINS_BY_USER, doc! { "login.user": 1 }),
                index(LOGINS_BY_END, doc! { "login.absolute_end": 1 }),
            ],
        ),
        (
            API_KEYS,
            vec![index(API_KEYS_BY_USER, doc! { "key.user": 1, "_id": 1 })],
        ),
        (
            FILES,
            vec![
                unique(index(FILES_BY_ID, doc! { "metadata.file": 1 })),
                index(
                    FILES_BY_ACCOUNT,
                    doc! { "metadata.account": 1, "metadata.file": 1 },
                ),
                // What GridFS's own tools look for.
                index("filename_1_uploadDate_1", doc! { "filename": 1, "uploadDate": 1 }),
            ],
        ),
        (
            FILE_CHUNKS,
            vec![unique(index("files_id_1_n_1", doc! { "files_id": 1, "n": 1 }))],
        ),
        (UNFINISHED, vec![index("unfinished_by_age", doc! { "at": 1 })]),
    ]
}

fn index(name: &str, key: Document) -> Document {
    doc! { "name": name, "key": key }
}

fn unique(mut index: Document) -> Document {
    index.insert("unique", true);
    index
}

fn sparse(mut index: Document) -> Document {
    index.insert("sparse", true);
    index
}

fn partial(mut index: Document, filter: Document) -> Document {
    index.insert("partialFilterExpression", Bson::Document(filter));
    index
}
