//! A file's bytes as a stream of bounded chunks.

use std::sync::Arc;

use bytes::Bytes;
use common::store::{ByteStream, StoreError};
use futures_util::stream;
use mongodb::bson::doc;

use super::super::link::{Link, Question};
use super::super::schema;
use super::super::trouble::Trouble;
use super::{Found, find};

pub(super) fn of(link: Arc<Link>, file: Found, start: u64, end: u64) -> ByteStream {
    Box::pin(stream::try_unfold(
        (link, file, start),
        move |(link, file, at)| async move {
            if at >= end {
                return Ok(None);
            }
            let bytes = chunk(&link, &file, at, end).await?;
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, (link, file, next))))
        },
    ))
}

/// The bytes of one chunk from `at` on, up to `end`; never empty.
async fn chunk(link: &Link, file: &Found, at: u64, end: u64) -> Result<Bytes, StoreError> {
    let number =
        i32::try_from(at / file.chunk_bytes).map_err(|_| Trouble::unreadable("a file's chunk number"))?;
    let question = Question::new(schema::FILE_CHUNKS, doc! { "files_id": file.place, "n": number });
    let found = link
        .ask_one(question, |row| {
            Ok(Bytes::copy_from_slice(row.get_binary("data")?.bytes))
        })
        .await?;
    let skipped = usize::try_from(at % file.chunk_bytes).unwrap_or(usize::MAX);
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    match found {
        Some(whole) if skipped < whole.len() => {
            let until = whole.len().min(skipped.saturating_add(left));
            Ok(whole.slice(skipped..until))
        }
        // Gone while it was read, or broken.
        _ => match find(link, file.meta.id).await? {
            Some(_) => Err(Trouble::unreadable("a file that is shorter than its record").into()),
            None => Err(StoreError::NotFound),
        },
    }
}
