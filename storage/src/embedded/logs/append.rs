//! Writing the log's index, on the lane's thread.

use common::ids::AttemptId;
use common::log::{LogChunk, Stream};
use common::store::{Appended, StoreError};
use common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::super::segments::LogState;
use super::super::sqlite::{corrupt, sql};
use super::super::writer::State;

/// What is known of a stream as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamRow {
    pub(super) chunks: i64,
    pub(super) bytes: i64,
    pub(super) next_seq: i64,
    /// The highest stored; -1 for none.
    top_seq: i64,
    pub(super) ordered: bool,
}

impl StreamRow {
    const EMPTY: Self = Self {
        chunks: 0,
        bytes: 0,
        next_seq: 0,
        top_seq: -1,
        ordered: true,
    };
}

/// What is known of the attempt whose chunks are being stored.
struct Open {
    id: AttemptId,
    key: i64,
    next_position: i64,
    streams: [StreamRow; 2],
}

pub(super) fn append(
    state: &mut LogState,
    chunks: &[LogChunk],
    now: Timestamp,
) -> Result<Vec<Appended>, StoreError> {
    let mut answers = Vec::with_capacity(chunks.len());
    let mut open: Option<Open> = None;
    for chunk in chunks {
        let mut attempt = match open.take() {
            Some(open) if open.id == chunk.attempt => open,
            other => {
                if let Some(done) = other {
                    done.save(state.db()).map_err(sql)?;
                }
                Open::load(state.db(), chunk.attempt).map_err(sql)?
            }
        };
        answers.push(attempt.store(state, chunk, now)?);
        open = Some(attempt);
    }
    if let Some(done) = open {
        done.save(state.db()).map_err(sql)?;
    }
    Ok(answers)
}

impl Open {
    fn load(db: &Connection, id: AttemptId) -> rusqlite::Result<Self> {
        let raw = id.as_u128().to_be_bytes();
        let found = find(db, id)?;
        let (key, next_position) = match found {
            Some(found) => found,
            None => {
                db.prepare_cached("INSERT INTO attempts (attempt, next_position) VALUES (?1, 0)")?
                    .execute([raw])?;
                (db.last_insert_rowid(), 0)
            }
        };
        let streams = [
            stream(db, key, Stream::Stdout)?.unwrap_or(StreamRow::EMPTY),
            stream(db, key, Stream::Stderr)?.unwrap_or(StreamRow::EMPTY),
        ];
        Ok(Self {
            id,
            key,
            next_position,
            streams,
        })
    }

    fn store(
        &mut self,
        state: &mut LogState,
        chunk: &LogChunk,
        now: Timestamp,
    ) -> Result<Appended, StoreError> {
        let seq = i64::try_from(chunk.seq).map_err(|_| corrupt("a chunk's number past 2^63"))?;
        let index = chunk.stream.index();
        let mut row = self.streams[index];
        if seq <= row.top_seq && is_stored(state.db(), self.key, index, seq).map_err(sql)? {
            return Ok(Appended::Repeat);
        }
        let length = i64::try_from(chunk.bytes.len()).unwrap_or(i64::MAX);
        let (segment, place) = state.place(&chunk.bytes);
        state
            .db()
            .prepare_cached(
                "INSERT INTO chunks (attempt, position, stream, seq, stored_at, segment, place, length, start, crc)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    self.key,
                    self.next_position,
                    index as i64,
                    seq,
                    now.as_millis(),
                    segment,
                    place.cast_signed(),
                    length,
                    row.bytes,
                    crc32fast::hash(&chunk.bytes)
                ])
            })
            .map_err(sql)?;
        self.next_position += 1;
        row.ordered &= seq > row.top_seq;
        row.chunks += 1;
        row.bytes += length;
        if seq == row.next_seq {
            row.next_seq += 1;
            if seq < row.top_seq {
                row.next_seq = after_run(state.db(), self.key, index, row.next_seq).map_err(sql)?;
            }
        }
        row.top_seq = row.top_seq.max(seq);
        self.streams[index] = row;
        Ok(Appended::Stored)
    }

    fn save(&self, db: &Connection) -> rusqlite::Result<()> {
        db.prepare_cached("UPDATE attempts SET next_position = ?2 WHERE key = ?1")?
            .execute([self.key, self.next_position])?;
        for (index, row) in self.streams.iter().enumerate() {
            if row.chunks > 0 {
                db.prepare_cached(
                    "INSERT OR REPLACE INTO streams (attempt, stream, chunks, bytes, next_seq, top_seq, ordered)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    self.key,
                    index as i64,
                    row.chunks,
                    row.bytes,
                    row.next_seq,
                    row.top_seq,
                    row.ordered
                ])?;
            }
        }
        Ok(())
    }
}

/// Removes up to `step` chunks of an attempt; whether there are more.
pub(super) fn purge(state: &mut LogState, attempt: AttemptId, step: u32) -> Result<bool, StoreError> {
    let Some((key, _)) = find(state.db(), attempt).map_err(sql)? else {
        return Ok(false);
    };
    let mut removed = 0;
    let mut by_segment = std::collections::BTreeMap::<i64, i64>::new();
    {
        let mut statement = state
            .db()
            .prepare_cached(
                "DELETE FROM chunks WHERE attempt = ?1 AND position IN
                 (SELECT position FROM chunks WHERE attempt = ?1 ORDER BY position LIMIT ?2) RETURNING segment",
            )
            .map_err(sql)?;
        let segments = statement
            .query_map(params![key, step], |row| row.get::<_, i64>(0))
            .map_err(sql)?;
        for segment in segments {
            *by_segment.entry(segment.map_err(sql)?).or_default() += 1;
            removed += 1;
        }
    }
    for (segment, chunks) in by_segment {
        state.forget(segment, chunks);
    }
    if removed == step {
        return Ok(true);
    }
    for statement in [
        "DELETE FROM streams WHERE attempt = ?1",
        "DELETE FROM attempts WHERE key = ?1",
    ] {
        state
            .db()
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute([key]))
            .map_err(sql)?;
    }
    Ok(false)
}

/// The attempt's short key and its next position.
pub(super) fn find(db: &Connection, attempt: AttemptId) -> rusqlite::Result<Option<(i64, i64)>> {
    db.prepare_cached("SELECT key, next_position FROM attempts WHERE attempt = ?1")?
        .query_row([attempt.as_u128().to_be_bytes()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
}

pub(super) fn stream(db: &Connection, key: i64, stream: Stream) -> rusqlite::Result<Option<StreamRow>> {
    db.prepare_cached(
        "SELECT chunks, bytes, next_seq, top_seq, ordered FROM streams WHERE attempt = ?1 AND stream = ?2",
    )?
    .query_row([key, stream.index() as i64], |row| {
        Ok(StreamRow {
            chunks: row.get(0)?,
            bytes: row.get(1)?,
            next_seq: row.get(2)?,
            top_seq: row.get(3)?,
            ordered: row.get(4)?,
        })
    })
    .optional()
}

fn is_stored(db: &Connection, key: i64, stream: usize, seq: i64) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT 1 FROM chunks WHERE attempt = ?1 AND stream = ?2 AND seq = ?3")?
        .exists([key, stream as i64, seq])
}

/// The first number from `seq` on that is not stored: a hole was filled, and what follows it was there before.
fn after_run(db: &Connection, key: i64, stream: usize, mut seq: i64) -> rusqlite::Result<i64> {
    let mut statement = db.prepare_cached(
        "SELECT seq FROM chunks WHERE attempt = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq",
    )?;
    let mut rows = statement.query([key, stream as i64, seq])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? != seq {
            break;
        }
        seq += 1;
    }
    Ok(seq)
}
