//! Workers and their sessions. Renewals go through the lane of the small things, so no batch of jobs delays them.

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{SessionId, WorkerId};
use common::store::{AgentWords, Beat, BeatAnswer, StoreError, WorkerStore};
use common::time::Timestamp;
use common::worker::{Session, Worker};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::readers::Readers;
use super::sqlite::{corrupt, decode, encode, sql};
use super::writer::Lane;

const COLUMNS: &str = "id, worker, beat, conn, lost, opened_at";

pub(super) struct Workers {
    lane: Lane<Connection>,
    readers: Arc<Readers>,
}

impl Workers {
    pub(super) fn new(lane: Lane<Connection>, readers: Arc<Readers>) -> Self {
        Self { lane, readers }
    }
}

#[async_trait]
impl WorkerStore for Workers {
    async fn put(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, StoreError> {
        let mut new = worker.clone();
        let work = move |db: &mut Connection| {
            if let Some(row) = worker_row(db, &new.id)? {
                if !may_speak(&row, &new, replaces) {
                    return Ok(false);
                }
                (new.draining, new.registered_at, new.load) = (row.draining, row.registered_at, row.load);
            }
            store(db, &new)?;
            Ok(true)
        };
        self.lane.write(1, work).await
    }

    async fn refresh(&self, id: &WorkerId, words: &AgentWords) -> Result<bool, StoreError> {
        let (id, words) = (id.clone(), words.clone());
        let work = move |db: &mut Connection| {
            let Some(row) = worker_row(db, &id)? else {
                return Ok(false);
            };
            if row.session != Some(words.session) || row.conn != words.conn {
                return Ok(false);
            }
            let (condition, load) = words.state.clone().unwrap_or((row.condition, row.load));
            let new = Worker {
                condition,
                load,
                heard_at: words.heard_at,
                ..row
            };
            store(db, &new)?;
            Ok(true)
        };
        self.lane.write(1, work).await
    }

    async fn set_draining(&self, id: &WorkerId, draining: bool) -> Result<Option<Worker>, StoreError> {
        let id = id.clone();
        let work = move |db: &mut Connection| {
            let Some(row) = worker_row(db, &id)? else {
                return Ok(None);
            };
            let new = Worker { draining, ..row };
            store(db, &new)?;
            Ok(Some(new))
        };
        self.lane.write(1, work).await
    }

    async fn get(&self, id: &WorkerId) -> Result<Option<Worker>, StoreError> {
        let id = id.clone();
        self.readers
            .read(move |db: &Connection| worker_row(db, &id))
            .await
    }

    async fn list(&self) -> Result<Vec<Worker>, StoreError> {
        let list = |db: &Connection| {
            let mut statement = db
                .prepare_cached("SELECT doc FROM workers ORDER BY id")
                .map_err(sql)?;
            let docs = statement
                .query_map([], |row| row.get::<_, String>(0))
                .map_err(sql)?;
            docs.map(|doc| decode("a worker", &doc.map_err(sql)?)).collect()
        };
        self.readers.read(list).await
    }

    async fn open_session(
        &self,
        id: SessionId,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Session, StoreError> {
        let session = Session {
            id,
            worker: worker.clone(),
            beat: 1,
            conn: 1,
            lost: false,
            opened_at: now,
        };
        let open = move |db: &mut Connection| open_session(db, &session);
        self.lane.write(1, open).await
    }

    async fn resume_session(&self, id: SessionId, worker: &WorkerId) -> Result<Option<Session>, StoreError> {
        let worker = worker.clone();
        let resume = move |db: &mut Connection| {
            db.prepare_cached(
                "UPDATE sessions SET conn = conn + 1, beat = beat + 1 WHERE id = ?1 AND worker = ?2 AND lost = 0
                 RETURNING id, worker, beat, conn, lost, opened_at",
            )
            .and_then(|mut statement| {
                statement
                    .query_row(params![bytes(id), worker.as_str()], columns)
                    .optional()
            })
            .map_err(sql)?
            .map(session)
            .transpose()
        };
        self.lane.write(1, resume).await
    }

    async fn beat(&self, beats: &[Beat]) -> Result<Vec<BeatAnswer>, StoreError> {
        let beats = beats.to_vec();
        let weight = beats.len();
        let work = move |db: &mut Connection| {
            let answers = beats.iter().map(|one| beat(db, *one));
            answers.collect::<Result<Vec<_>, _>>().map_err(sql)
        };
        self.lane.write(weight, work).await
    }

    async fn declare_lost(&self, id: SessionId, beat: u64) -> Result<bool, StoreError> {
        let work = move |db: &mut Connection| {
            db.prepare_cached("UPDATE sessions SET lost = 1 WHERE id = ?1 AND beat = ?2")
                .and_then(|mut statement| statement.execute(params![bytes(id), beat.cast_signed()]))
                .map(|changed| changed == 1)
                .map_err(sql)
        };
        self.lane.write(1, work).await
    }

    async fn live_sessions(&self) -> Result<Vec<Session>, StoreError> {
        let live = |db: &Connection| {
            let mut statement = db
                .prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE lost = 0"))
                .map_err(sql)?;
            let rows = statement.query_map([], columns).map_err(sql)?;
            rows.map(|row| session(row.map_err(sql)?)).collect()
        };
        self.readers.read(live).await
    }

    async fn sessions(&self, ids: &[SessionId]) -> Result<Vec<Session>, StoreError> {
        let ids = ids.to_vec();
        let some = move |db: &Connection| {
            let found = ids.iter().map(|id| find(db, *id));
            found.filter_map(Result::transpose).collect()
        };
        self.readers.read(some).await
    }
}

/// Whether the connection behind `new` is not older than the one that wrote `row`.
fn may_speak(row: &Worker, new: &Worker, replaces: Option<SessionId>) -> bool {
    if row.session == new.session {
        row.conn <= new.conn
    } else {
        row.session == replaces
    }
}

fn worker_row(db: &Connection, id: &WorkerId) -> Result<Option<Worker>, StoreError> {
    let doc: Option<String> = db
        .prepare_cached("SELECT doc FROM workers WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.as_str()], |row| row.get(0)).optional())
        .map_err(sql)?;
    doc.map(|doc| decode("a worker", &doc)).transpose()
}

fn store(db: &Connection, worker: &Worker) -> Result<(), StoreError> {
    let doc = encode("a worker", worker)?;
    db.prepare_cached("INSERT OR REPLACE INTO workers (id, doc) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute(params![worker.id.as_str(), doc]))
        .map(drop)
        .map_err(sql)
}

/// The same request again, its first answer lost, finds the session as it stands.
fn open_session(db: &Connection, new: &Session) -> Result<Session, StoreError> {
    if let Some(found) = find(db, new.id)? {
        return if found.worker == new.worker && !found.lost {
            Ok(found)
        } else {
            Err(StoreError::Exists)
        };
    }
    db.prepare_cached(
        "INSERT INTO sessions (id, worker, beat, conn, lost, opened_at) VALUES (?1, ?2, 1, 1, 0, ?3)",
    )
    .and_then(|mut statement| {
        statement.execute(params![
            bytes(new.id),
            new.worker.as_str(),
            new.opened_at.as_millis()
        ])
    })
    .map_err(sql)?;
    Ok(new.clone())
}

fn beat(db: &Connection, beat: Beat) -> rusqlite::Result<BeatAnswer> {
    let renewed = db
        .prepare_cached("UPDATE sessions SET beat = beat + 1 WHERE id = ?1 AND conn = ?2 AND lost = 0")?
        .execute(params![bytes(beat.session), beat.conn.cast_signed()])?;
    if renewed == 1 {
        return Ok(BeatAnswer::Renewed);
    }
    let live = db
        .prepare_cached("SELECT 1 FROM sessions WHERE id = ?1 AND lost = 0")?
        .exists([bytes(beat.session)])?;
    Ok(if live {
        BeatAnswer::Superseded
    } else {
        BeatAnswer::Lost
    })
}

fn find(db: &Connection, id: SessionId) -> Result<Option<Session>, StoreError> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([bytes(id)], columns).optional())
        .map_err(sql)?
        .map(session)
        .transpose()
}

type Columns = ([u8; 16], String, i64, i64, bool, i64);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((
        row.get(0)?,
        row.get(1)?,
        row.get(2)?,
        row.get(3)?,
        row.get(4)?,
        row.get(5)?,
    ))
}

fn session((id, worker, beat, conn, lost, opened_at): Columns) -> Result<Session, StoreError> {
    Ok(Session {
        id: SessionId::from_u128(u128::from_be_bytes(id)),
        worker: WorkerId::new(&worker).map_err(|_| corrupt("a session's worker"))?,
        beat: beat.cast_unsigned(),
        conn: conn.cast_unsigned(),
        lost,
        opened_at: Timestamp::from_millis(opened_at),
    })
}

fn bytes(id: SessionId) -> [u8; 16] {
    id.as_u128().to_be_bytes()
}
