//! What the database itself can do: one insert and three guarded updates a job, in groups, by the driver that the product
//! uses, and nothing else. The documents are as large as the product's; there is no index but the one of ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use common::ids::{AccountId, JobId, UserId};
use common::job::Job;
use common::tasks::Tasks;
use common::time::{Clock, SystemClock};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use crate::client::job_of;
use crate::servers::Mongo;
use crate::stats::Stopwatch;

/// Jobs in one command.
pub const GROUP: usize = 256;
/// Groups under way at the same time.
pub const HANDS: usize = 4;

const COLLECTION: &str = "jobs";
const GIVEN_UP: Duration = Duration::from_secs(600);

/// Jobs a second.
///
/// # Errors
/// The database refuses, or an update matched nothing.
pub async fn measure(mongo: &Mongo, jobs: usize, database: &str) -> anyhow::Result<f64> {
    let client = Client::with_uri_str(mongo.uri(database)).await?;
    let database = client
        .default_database()
        .context("the address names a database")?;
    let body: Arc<str> = body()?.into();
    let left = Arc::new(AtomicUsize::new(jobs));
    let tasks = Tasks::new();
    let (ended, mut ends) = tokio::sync::mpsc::channel(HANDS);
    let watch = Stopwatch::start();
    for _ in 0..HANDS {
        let (database, body, left, ended) = (
            database.clone(),
            Arc::clone(&body),
            Arc::clone(&left),
            ended.clone(),
        );
        tasks.spawn("hand", async move {
            let _ = ended.send(hand(&database, &body, &left).await).await;
        });
    }
    for _ in 0..HANDS {
        let end = tokio::time::timeout(GIVEN_UP, ends.recv()).await?;
        end.context("a hand is gone")??;
    }
    let seconds = watch.read().as_secs_f64();
    database.drop().await?;
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let jobs = jobs as f64;
    Ok(jobs / seconds)
}

/// A job as the product keeps it in its document.
fn body() -> anyhow::Result<String> {
    let (now, asked) = (SystemClock.now(), job_of(&["true"]));
    let spec = serde_json::from_value(serde_json::to_value(&asked)?);
    let spec = spec.unwrap_or_else(|_| common::lifecycle::testing::spec());
    let (account, user) = (AccountId::new("default")?, UserId::new("admin")?);
    let job = Job::submitted(JobId::generate(now), account, user, spec, now);
    Ok(serde_json::to_string(&job)?)
}

async fn hand(database: &Database, body: &str, left: &AtomicUsize) -> anyhow::Result<()> {
    loop {
        let take = |left: usize| (left > 0).then(|| left - left.min(GROUP));
        let Ok(before) = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else {
            return Ok(());
        };
        group(database, body, before.min(GROUP)).await?;
    }
}

async fn group(database: &Database, body: &str, size: usize) -> anyhow::Result<()> {
    let ids: Vec<String> = (0..size)
        .map(|_| JobId::generate(SystemClock.now()).to_string())
        .collect();
    let documents = ids.iter().map(|id| {
        doc! { "_id": id, "account": "default", "state": "queued", "hidden": false, "revision": 0_i64, "epoch": 0_i64, "job": body }
    });
    let documents: Vec<Document> = documents.collect();
    write(
        database,
        doc! { "insert": COLLECTION, "documents": documents, "ordered": false },
        size,
    )
    .await?;
    for (revision, state) in [(0_i64, "assigned"), (1, "running"), (2, "succeeded")] {
        let statements = ids.iter().map(|id| {
            doc! {
                "q": { "_id": id, "revision": revision },
                "u": { "$set": { "state": state, "revision": revision + 1, "epoch": 1_i64, "job": body } },
            }
        });
        let statements: Vec<Document> = statements.collect();
        write(
            database,
            doc! { "update": COLLECTION, "updates": statements, "ordered": false },
            size,
        )
        .await?;
    }
    Ok(())
}

async fn write(database: &Database, mut command: Document, size: usize) -> anyhow::Result<()> {
    command.insert("writeConcern", doc! { "w": "majority", "j": true });
    let answer = database.run_command(command).await?;
    let matched = answer
        .get("n")
        .and_then(|n| n.as_i64().or_else(|| n.as_i32().map(i64::from)));
    anyhow::ensure!(
        matched == i64::try_from(size).ok() && !answer.contains_key("writeErrors"),
        "of {size} statements not all were done: {answer}"
    );
    Ok(())
}
