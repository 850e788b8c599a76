//! Workers' rows as hellos read and write them, by the group.

use std::collections::HashMap;
use std::sync::Arc;

use common::ids::{SessionId, WorkerId};
use common::time::Timestamp;
use common::worker::Worker;
use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, in_time};
use super::super::schema;
use super::super::trouble::{Trouble, decode, encode};

impl Weighed for WorkerId {
    fn bytes(&self) -> usize {
        256
    }
}

/// Reads rows.
pub(in super::super) struct Reader(pub(in super::super) Arc<Link>);

impl Work for Reader {
    type Item = WorkerId;
    type Answer = Option<Worker>;

    async fn run(&mut self, group: Vec<WorkerId>) -> Answers<Option<Worker>> {
        let ids: Vec<&str> = group.iter().map(WorkerId::as_str).collect();
        let question = Question::new(schema::WORKERS, doc! { "_id": { "$in": ids } });
        // One that cannot be read is not the others' trouble.
        let read = |row: &RawDocument| Ok(Some((row.get_str("_id")?.to_owned(), worker(row))));
        let found = in_time(self.0.ask(question, read)).await?;
        let found: HashMap<String, Result<Worker, Trouble>> = found.into_iter().collect();
        let own = |id: &WorkerId| found.get(id.as_str()).cloned().transpose();
        Ok(group.iter().map(own).collect())
    }
}

/// What a hello stores.
pub(in super::super) struct Put {
    id: String,
    session: Bson,
    conn: i64,
    /// What the row's session is expected to be.
    replaces: Bson,
    change: Document,
    bytes: usize,
}

impl Put {
    pub(super) fn of(worker: &Worker, replaces: Option<SessionId>) -> Result<Self, Trouble> {
        let (session, conn) = (text(worker.session), worker.conn.cast_signed());
        let description = encode("a worker's description", &worker.description)?;
        let condition = encode("a worker's condition", &worker.condition)?;
        let bytes = 1_024 + description.len() + condition.len();
        let change = doc! {
            "$set": {
                "session": session.clone(),
                "conn": conn,
                "description": description,
                "condition": condition,
                "heard_at": worker.heard_at.as_millis(),
            },
            "$setOnInsert": {
                "draining": worker.draining,
                "registered_at": worker.registered_at.as_millis(),
                "load": encode("a worker's load", &worker.load)?,
            },
        };
        Ok(Self {
            id: worker.id.as_str().to_owned(),
            session,
            conn,
            replaces: text(replaces),
            change,
            bytes,
        })
    }

    /// The usual case: it takes the row from the session that it replaces, or makes it. An upsert that finds a row of
    /// another session meets it.
    fn taking(&self) -> Document {
        if self.replaces == self.session {
            return self.going_on();
        }
        let upsert = self.replaces == Bson::Null;
        doc! { "q": { "_id": &self.id, "session": self.replaces.clone() }, "u": self.change.clone(), "upsert": upsert }
    }

    /// Within its session, of which no higher connection may have spoken.
    fn going_on(&self) -> Document {
        let speaks = doc! { "_id": &self.id, "session": self.session.clone(), "conn": { "$lte": self.conn } };
        doc! { "q": speaks, "u": self.change.clone() }
    }
}

impl Weighed for Put {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Stores hellos. Sent twice, they are the same hellos.
///
/// Each statement names its row by id and nothing but equalities beside it: there are servers that read every row where
/// a statement has alternatives.
pub(in super::super) struct Putter(pub(in super::super) Arc<Link>);

impl Work for Putter {
    type Item = Put;
    /// Whether it may speak.
    type Answer = bool;

    async fn run(&mut self, group: Vec<Put>) -> Answers<bool> {
        in_time(self.put(&group)).await
    }
}

impl Putter {
    async fn put(&self, group: &[Put]) -> Answers<bool> {
        let statements: Vec<Document> = group.iter().map(Put::taking).collect();
        let command = doc! { "update": schema::WORKERS, "updates": statements, "ordered": false };
        let written = self.0.write(command).await?;
        if written.errors.is_empty() && usize::try_from(written.n) == Ok(group.len()) {
            return Ok(group.iter().map(|_| Ok(true)).collect());
        }
        let refused: HashMap<usize, Trouble> = written
            .errors
            .iter()
            .filter(|error| !error.is_duplicate())
            .map(|error| (error.index, error.trouble()))
            .collect();
        // A connection's number is its own, so that the row tells whose hello it has. One that was overtaken since has
        // a newer one behind it.
        let ids: Vec<&str> = group.iter().map(|put| put.id.as_str()).collect();
        let speakers = speakers(&self.0, &ids).await?;
        let mut answers = Vec::with_capacity(group.len());
        for (place, put) in group.iter().enumerate() {
            let row = speakers.get(&put.id);
            let conn = row
                .filter(|(session, _)| put.session.as_str() == Some(session))
                .map(|(_, conn)| *conn);
            answers.push(match (refused.get(&place), conn) {
                (Some(trouble), _) => Err(trouble.clone()),
                (None, Some(conn)) if conn == put.conn => Ok(true),
                // Its session has the row already, which a statement that takes it from another does not see.
                (None, Some(_)) if put.replaces != put.session => self.go_on(put).await,
                (None, _) => Ok(false),
            });
        }
        Ok(answers)
    }

    async fn go_on(&self, put: &Put) -> Result<bool, Trouble> {
        let command = doc! { "update": schema::WORKERS, "updates": [put.going_on()] };
        Ok(self.0.write(command).await?.whole()?.n == 1)
    }
}

/// Which session's connection each row is of.
pub(super) async fn speakers(link: &Link, ids: &[&str]) -> Result<HashMap<String, (String, i64)>, Trouble> {
    let question =
        Question::new(schema::WORKERS, doc! { "_id": { "$in": ids } }).only(doc! { "session": 1, "conn": 1 });
    let speaker = |row: &RawDocument| {
        let session = row.get_str("session").unwrap_or_default().to_owned();
        let speaker = (session, row.get_i64("conn")?);
        Ok(Some((row.get_str("_id")?.to_owned(), speaker)))
    };
    Ok(link.ask(question, speaker).await?.into_iter().collect())
}

pub(super) fn worker(row: &RawDocument) -> Result<Worker, Trouble> {
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
