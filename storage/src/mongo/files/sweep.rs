//! Marks of files that are being written or removed, and the sweep that ends what a crash left halfway.

use std::time::Duration;

use common::time::Timestamp;
use mongodb::bson::doc;
use mongodb::bson::oid::ObjectId;

use super::super::link::{Link, Question, in_time};
use super::super::schema;
use super::super::trouble::Trouble;

/// Nobody writes one file for longer than this.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// Files ended by one opening; the next one goes on.
const SWEPT_MAX: usize = 1_000;
/// Chunks removed by one command, so that each is over long before its deadline: 50 MB.
const REMOVED_TOGETHER: usize = 200;

/// Before anything of a file is written or removed.
pub(super) async fn mark(link: &Link, place: ObjectId, now: Timestamp) -> Result<(), Trouble> {
    let statement = doc! {
        "q": { "_id": place }, "u": { "$set": { "at": now.as_millis() } }, "upsert": true,
    };
    link.write(doc! { "update": schema::UNFINISHED, "updates": [statement] })
        .await?
        .whole()
        .map(drop)
}

pub(super) async fn unmark(link: &Link, place: ObjectId) -> Result<(), Trouble> {
    remove(link, schema::UNFINISHED, place).await
}

pub(super) async fn forget_record(link: &Link, place: ObjectId) -> Result<(), Trouble> {
    remove(link, schema::FILES, place).await
}

async fn remove(link: &Link, from: &str, id: ObjectId) -> Result<(), Trouble> {
    let statement = doc! { "q": { "_id": id }, "limit": 1 };
    link.write(doc! { "delete": from, "deletes": [statement] })
        .await?
        .whole()
        .map(drop)
}

/// Removes the bytes of a place, then its mark.
pub(super) async fn remove_bytes(link: &Link, place: ObjectId) -> Result<(), Trouble> {
    loop {
        let question = Question::new(schema::FILE_CHUNKS, doc! { "files_id": place })
            .sorted(doc! { "n": 1 })
            .only(doc! { "_id": 1 })
            .at_most(REMOVED_TOGETHER);
        let ids = link
            .ask(question, |row| Ok(Some(row.get_object_id("_id")?)))
            .await?;
        if ids.is_empty() {
            break;
        }
        let statement = doc! { "q": { "_id": { "$in": ids } }, "limit": 0 };
        let command = doc! { "delete": schema::FILE_CHUNKS, "deletes": [statement] };
        in_time(link.write(command)).await?.whole()?;
    }
    in_time(unmark(link, place)).await
}

/// Ends what was left halfway a day ago or longer: bytes without a record go, a finished file keeps its bytes.
pub(in super::super) async fn sweep(link: &Link, now: Timestamp) -> Result<(), Trouble> {
    let long_ago = now
        .as_millis()
        .saturating_sub(i64::try_from(ABANDONED_AFTER.as_millis()).unwrap_or(i64::MAX));
    let question = Question::new(schema::UNFINISHED, doc! { "at": { "$lt": long_ago } })
        .sorted(doc! { "at": 1 })
        .at_most(SWEPT_MAX);
    for place in link
        .ask(question, |row| Ok(Some(row.get_object_id("_id")?)))
        .await?
    {
        let record = Question::new(schema::FILES, doc! { "_id": place }).only(doc! { "_id": 1 });
        if link.ask_one(record, |_| Ok(())).await?.is_some() {
            in_time(unmark(link, place)).await?;
        } else {
            remove_bytes(link, place).await?;
        }
    }
    Ok(())
}
