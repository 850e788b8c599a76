//! Workers and their sessions.
//!
//! A worker's row is changed field by field, so that an agent's words and an administrator's wish never undo each other.
//! Renewals have a lane of their own, and so have the words that come with them: one `update` command for all that were
//! heard, read back where fewer matched. No nonce is needed there, since connections only rise and lost is final: what
//! the row shows later holds for then, too. Sent twice, a renewal counts twice, which harms nobody: beats are compared, never counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use common::ids::{SessionId, WorkerId};
use common::store::{AgentWords, Beat, BeatAnswer, StoreError, WorkerStore};
use common::tasks::Tasks;
use common::time::Timestamp;
use common::worker::{Session, Worker};
use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::lane::{Lane, Weighed, Work};
use super::link::{Link, Question, in_time};
use super::schema;
use super::trouble::{Trouble, decode, encode};

/// Ids in one question.
const IDS_MAX: usize = 1_000;

pub(super) struct Workers {
    link: Arc<Link>,
    beats: Lane<Renewer>,
    words: Lane<Listener>,
}

impl Workers {
    pub(super) fn new(link: &Arc<Link>, tasks: &Tasks) -> Self {
        Self {
            link: Arc::clone(link),
            beats: Lane::start(
                "store-beats",
                tasks,
                [Renewer(Arc::clone(link)), Renewer(Arc::clone(link))],
            ),
            words: Lane::start(
                "store-words",
                tasks,
                [Listener(Arc::clone(link)), Listener(Arc::clone(link))],
            ),
        }
    }
}

#[async_trait]
impl WorkerStore for Workers {
    async fn put(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, StoreError> {
        Ok(in_time(self.put_row(worker, replaces)).await?)
    }

    async fn refresh(&self, id: &WorkerId, words: &AgentWords) -> Result<bool, StoreError> {
        let said = self.words.write(vec![Said::of(id, words)?]).await?;
        Ok(said.into_iter().all(|stored| stored))
    }

    async fn set_draining(&self, id: &WorkerId, draining: bool) -> Result<Option<Worker>, StoreError> {
        let command = doc! {
            "findAndModify": schema::WORKERS, "query": { "_id": id.as_str() },
            "update": { "$set": { "draining": draining } }, "new": true,
        };
        let found = in_time(self.link.find_and_modify(command)).await?;
        Ok(found
            .as_ref()
            .map(raw)
            .transpose()?
            .map(|row| worker(&row))
            .transpose()?)
    }

    async fn get(&self, id: &WorkerId) -> Result<Option<Worker>, StoreError> {
        let question = Question::new(schema::WORKERS, doc! { "_id": id.as_str() });
        Ok(self.link.ask_one(question, worker).await?)
    }

    async fn list(&self) -> Result<Vec<Worker>, StoreError> {
        let question = Question::new(schema::WORKERS, Document::new()).sorted(doc! { "_id": 1 });
        Ok(self.link.ask(question, |row| worker(row).map(Some)).await?)
    }

    async fn open_session(
        &self,
        id: SessionId,
        worker: &WorkerId,
        now: Timestamp,
    ) -> Result<Session, StoreError> {
        let session = doc! {
            "_id": id.to_string(), "worker": worker.as_str(), "beat": 1_i64, "conn": 1_i64, "lost": false,
            "opened_at": now.as_millis(),
        };
        let insert = doc! { "insert": schema::SESSIONS, "documents": [session] };
        let written = in_time(self.link.write(insert)).await?;
        let refusal = written.errors.first();
        if let Some(error) = refusal.filter(|error| !error.is_duplicate()) {
            return Err(error.trouble().into());
        }
        // The same request again, its first answer lost, finds the session as it stands.
        let found = self.sessions(&[id]).await?.pop();
        match found {
            Some(found) if found.worker == *worker && !found.lost => Ok(found),
            Some(_) => Err(StoreError::Exists),
            None => Err(Trouble::Contended.into()),
        }
    }

    async fn resume_session(&self, id: SessionId, worker: &WorkerId) -> Result<Option<Session>, StoreError> {
        let command = doc! {
            "findAndModify": schema::SESSIONS,
            "query": { "_id": id.to_string(), "worker": worker.as_str(), "lost": false },
            "update": { "$inc": { "conn": 1_i64, "beat": 1_i64 } },
            "new": true,
        };
        let found = in_time(self.link.find_and_modify(command)).await?;
        Ok(found
            .as_ref()
            .map(raw)
            .transpose()?
            .map(|row| session(&row))
            .transpose()?)
    }

    async fn beat(&self, beats: &[Beat]) -> Result<Vec<BeatAnswer>, StoreError> {
        Ok(self.beats.write(beats.to_vec()).await?)
    }

    async fn declare_lost(&self, id: SessionId, beat: u64) -> Result<bool, StoreError> {
        let statement = doc! {
            "q": { "_id": id.to_string(), "beat": beat.cast_signed() }, "u": { "$set": { "lost": true } },
        };
        let command = doc! { "update": schema::SESSIONS, "updates": [statement] };
        let written = in_time(self.link.write(command)).await?.whole()?;
        Ok(written.n == 1)
    }

    async fn live_sessions(&self) -> Result<Vec<Session>, StoreError> {
        let question = Question::new(schema::SESSIONS, doc! { "lost": false });
        Ok(self.link.ask(question, |row| session(row).map(Some)).await?)
    }

    async fn sessions(&self, ids: &[SessionId]) -> Result<Vec<Session>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for part in ids.chunks(IDS_MAX) {
            let ids: Vec<String> = part.iter().map(ToString::to_string).collect();
            let question = Question::new(schema::SESSIONS, doc! { "_id": { "$in": ids } });
            found.extend(self.link.ask(question, |row| session(row).map(Some)).await?);
        }
        Ok(found)
    }
}

impl Workers {
    async fn put_row(&self, worker: &Worker, replaces: Option<SessionId>) -> Result<bool, Trouble> {
        let mut may_speak =
            vec![doc! { "session": text(worker.session), "conn": { "$lte": worker.conn.cast_signed() } }];
        if replaces != worker.session {
            may_speak.push(doc! { "session": text(replaces) });
        }
        let change = doc! {
            "$set": {
                "session": text(worker.session),
                "conn": worker.conn.cast_signed(),
                "description": encode("a worker's description", &worker.description)?,
                "condition": encode("a worker's condition", &worker.condition)?,
                "heard_at": worker.heard_at.as_millis(),
            },
            "$setOnInsert": {
                "draining": worker.draining,
                "registered_at": worker.registered_at.as_millis(),
                "load": encode("a worker's load", &worker.load)?,
            },
        };
        let query = doc! { "_id": worker.id.as_str(), "$or": may_speak };
        // Where a row is there but does not let this one speak, the upsert meets it. It may also meet one that another
        // hello has just made: then the second look decides.
        for upsert in [true, false] {
            let statement = doc! { "q": query.clone(), "u": change.clone(), "upsert": upsert };
            let written = self
                .link
                .write(doc! { "update": schema::WORKERS, "updates": [statement] })
                .await?;
            match written.errors.first() {
                None => return Ok(written.n == 1),
                Some(error) if error.is_duplicate() => {}
                Some(error) => return Err(error.trouble()),
            }
        }
        Err(Trouble::Contended)
    }
}

impl Weighed for Beat {
    fn bytes(&self) -> usize {
        256
    }
}

/// Renews sessions by the group.
struct Renewer(Arc<Link>);

impl Work for Renewer {
    type Item = Beat;
    type Answer = BeatAnswer;

    async fn run(&mut self, group: Vec<Beat>) -> Vec<Result<BeatAnswer, Trouble>> {
        match in_time(self.renew(&group)).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(trouble) => group.iter().map(|_| Err(trouble.clone())).collect(),
        }
    }
}

impl Renewer {
    async fn renew(&self, group: &[Beat]) -> Result<Vec<BeatAnswer>, Trouble> {
        // One statement for all of the same connection number: of a fleet that never lost a connection, one in all.
        let mut by_conn: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for beat in group {
            let sessions = by_conn.entry(beat.conn).or_default();
            sessions.push(beat.session.to_string());
        }
        let statements = by_conn.into_iter().map(|(conn, sessions)| {
            doc! {
                "q": { "_id": { "$in": sessions }, "conn": conn.cast_signed(), "lost": false },
                "u": { "$inc": { "beat": 1_i64 } },
                "multi": true,
            }
        });
        let statements: Vec<Document> = statements.collect();
        let command = doc! { "update": schema::SESSIONS, "updates": statements, "ordered": false };
        let written = self.0.write(command).await?.whole()?;
        if usize::try_from(written.n) == Ok(group.len()) {
            return Ok(vec![BeatAnswer::Renewed; group.len()]);
        }
        let ids: Vec<String> = group.iter().map(|beat| beat.session.to_string()).collect();
        let question = Question::new(schema::SESSIONS, doc! { "_id": { "$in": ids } });
        let rows = self.0.ask(question, |row| session(row).map(Some)).await?;
        let rows: HashMap<SessionId, Session> = rows.into_iter().map(|row| (row.id, row)).collect();
        Ok(group
            .iter()
            .map(|beat| judge(*beat, rows.get(&beat.session)))
            .collect())
    }
}

/// What an agent said.
pub(super) struct Said {
    id: String,
    session: String,
    conn: i64,
    heard_at: i64,
    /// What is new beside that it was heard.
    state: Option<Document>,
    bytes: usize,
}

impl Said {
    fn of(id: &WorkerId, words: &AgentWords) -> Result<Self, Trouble> {
        let mut bytes = 512;
        let state = match &words.state {
            Some((condition, load)) => {
                let condition = encode("a worker's condition", condition)?;
                let load = encode("a worker's load", load)?;
                bytes += condition.len() + load.len();
                Some(doc! { "condition": condition, "load": load })
            }
            None => None,
        };
        Ok(Self {
            id: id.as_str().to_owned(),
            session: words.session.to_string(),
            conn: words.conn.cast_signed(),
            heard_at: words.heard_at.as_millis(),
            state,
            bytes,
        })
    }
}

impl Weighed for Said {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Stores agents' words by the group. Sent twice, they are the same words.
struct Listener(Arc<Link>);

impl Work for Listener {
    type Item = Said;
    type Answer = bool;

    async fn run(&mut self, group: Vec<Said>) -> Vec<Result<bool, Trouble>> {
        match in_time(self.store(&group)).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(trouble) => group.iter().map(|_| Err(trouble.clone())).collect(),
        }
    }
}

impl Listener {
    async fn store(&self, group: &[Said]) -> Result<Vec<bool>, Trouble> {
        let (statements, expected) = statements(group);
        let command = doc! { "update": schema::WORKERS, "updates": statements, "ordered": false };
        let written = self.0.write(command).await?.whole()?;
        if usize::try_from(written.n) == Ok(expected) {
            return Ok(vec![true; group.len()]);
        }
        // Sessions and connections of a row only move on: who may not speak now may not have spoken then.
        let ids: Vec<&str> = group.iter().map(|said| said.id.as_str()).collect();
        let question = Question::new(schema::WORKERS, doc! { "_id": { "$in": ids } })
            .only(doc! { "session": 1, "conn": 1 });
        let speaker = |row: &RawDocument| {
            let session = row.get_str("session").unwrap_or_default().to_owned();
            let speaker = (session, row.get_i64("conn")?);
            Ok(Some((row.get_str("_id")?.to_owned(), speaker)))
        };
        let speakers: HashMap<String, (String, i64)> =
            self.0.ask(question, speaker).await?.into_iter().collect();
        let speaks = |said: &Said| {
            let speaker = speakers.get(&said.id);
            speaker.is_some_and(|(session, conn)| *session == said.session && *conn == said.conn)
        };
        Ok(group.iter().map(speaks).collect())
    }
}

/// One statement for each whose state is new, and one for all others of the same connection number; and how many rows
/// they match if all may speak. Two sessions of one worker match one row, so that these are told apart by reading it.
fn statements(group: &[Said]) -> (Vec<Document>, usize) {
    let mut statements = Vec::new();
    let mut heard: BTreeMap<i64, (Vec<&str>, Vec<&str>, i64)> = BTreeMap::new();
    let mut expected = 0;
    for said in group {
        if let Some(state) = &said.state {
            let mut set = state.clone();
            set.insert("heard_at", said.heard_at);
            statements.push(doc! {
                "q": { "_id": &said.id, "session": &said.session, "conn": said.conn }, "u": { "$set": set },
            });
            expected += 1;
        } else {
            let (ids, sessions, at) = heard.entry(said.conn).or_default();
            ids.push(&said.id);
            sessions.push(&said.session);
            *at = said.heard_at.max(*at);
        }
    }
    for (conn, (ids, sessions, at)) in heard {
        expected += ids.len();
        statements.push(doc! {
            "q": { "_id": { "$in": ids }, "session": { "$in": sessions }, "conn": conn },
            "u": { "$set": { "heard_at": at } },
            "multi": true,
        });
    }
    (statements, expected)
}

const fn judge(beat: Beat, row: Option<&Session>) -> BeatAnswer {
    match row {
        Some(row) if !row.lost && row.conn == beat.conn => BeatAnswer::Renewed,
        Some(row) if !row.lost => BeatAnswer::Superseded,
        Some(_) | None => BeatAnswer::Lost,
    }
}

fn raw(document: &Document) -> Result<mongodb::bson::RawDocumentBuf, Trouble> {
    Ok(mongodb::bson::RawDocumentBuf::try_from(document)?)
}

fn session(row: &RawDocument) -> Result<Session, Trouble> {
    let broken = || Trouble::unreadable("a session's ids");
    Ok(Session {
        id: row.get_str("_id")?.parse().map_err(|_| broken())?,
        worker: WorkerId::new(row.get_str("worker")?).map_err(|_| broken())?,
        beat: row.get_i64("beat")?.cast_unsigned(),
        conn: row.get_i64("conn")?.cast_unsigned(),
        lost: row.get_bool("lost")?,
        opened_at: Timestamp::from_millis(row.get_i64("opened_at")?),
    })
}

fn worker(row: &RawDocument) -> Result<Worker, Trouble> {
    let broken = || Trouble::unreadable("a worker's ids");
    let session = match row.get_str("session") {
        Ok(session) => Some(session.parse().map_err(|_| broken())?),
        Err(_) => None,
    };
    Ok(Worker {
        id: WorkerId::new(row.get_str("_id")?).map_err(|_| broken())?,
        description: decode("a worker's description", row.get_str("description")?)?,
        condition: decode("a worker's condition", row.get_str("condition")?)?,
        draining: row.get_bool("draining")?,
        session,
        conn: row.get_i64("conn")?.cast_unsigned(),
        registered_at: Timestamp::from_millis(row.get_i64("registered_at")?),
        heard_at: Timestamp::from_millis(row.get_i64("heard_at")?),
        load: decode("a worker's load", row.get_str("load")?)?,
    })
}

fn text(session: Option<SessionId>) -> Bson {
    session.map_or(Bson::Null, |session| Bson::String(session.to_string()))
}
