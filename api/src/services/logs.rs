//! Reading output: which attempt is meant, and where its last lines begin.

use std::sync::Arc;

use bytes::Bytes;
use common::attempt::Attempt;
use common::ids::AttemptId;
use common::job::Job;
use common::log::Stream;
use common::store::{LogStore, StoreError};

use crate::error::ApiError;

/// One read of a stream: what a download holds in memory.
const PIECE: u64 = 256 * 1024;
/// How far back the last lines are looked for; longer "lines" are cut there.
const TAIL_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A look back goes in steps of this.
const TAIL_STEP: u64 = 64 * 1024;

/// The attempt of that number; without a number the last. None for a job that has none.
///
/// # Errors
/// 404 for a number that the job does not have, or has no longer.
pub fn attempt(job: &Job, number: Option<u32>) -> Result<Option<&Attempt>, ApiError> {
    match number {
        None => Ok(job.last_attempt()),
        Some(number) => job
            .attempts
            .iter()
            .find(|attempt| attempt.number == number)
            .map(Some)
            .ok_or_else(|| ApiError::not_found("attempt")),
    }
}

/// The bytes `start..end` of a stream, read only as fast as they are taken.
pub fn stream(
    logs: Arc<dyn LogStore>,
    attempt: AttemptId,
    stream: Stream,
    start: u64,
    end: u64,
) -> impl futures_util::Stream<Item = Result<Bytes, StoreError>> {
    futures_util::stream::try_unfold((logs, start), move |(logs, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let piece = logs.read_range(attempt, stream, at, end.min(at + PIECE)).await?;
        if piece.is_empty() {
            return Ok(None);
        }
        let next = at + piece.len() as u64;
        Ok(Some((piece, (logs, next))))
    })
}

/// Where the last `lines` lines of the first `total` bytes begin.
///
/// # Errors
/// When the store does not answer.
pub async fn tail_start(
    logs: &dyn LogStore,
    attempt: AttemptId,
    stream: Stream,
    total: u64,
    lines: u64,
) -> Result<u64, StoreError> {
    if lines == 0 {
        return Ok(total);
    }
    let floor = total.saturating_sub(TAIL_BYTES_MAX);
    let mut end = total;
    let mut wanted = lines;
    while end > floor {
        let start = end.saturating_sub(TAIL_STEP).max(floor);
        let piece = logs.read_range(attempt, stream, start, end).await?;
        for (place, _) in piece.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + place as u64 + 1;
            // the newline that ends the last line begins none
            if after == total {
                continue;
            }
            wanted -= 1;
            if wanted == 0 {
                return Ok(after);
            }
        }
        end = start;
    }
    Ok(floor)
}
