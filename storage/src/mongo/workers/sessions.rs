//! Sessions that begin, and sessions that go on through another connection: a fleet that comes back at once is a few
//! commands, not one for each agent.
//!
//! Every change is a compare-and-set on the session's connection number. A group's own mark in the row tells afterwards
//! whose change it was, so that two connections never share a number: not within a group, not between two gateways, and
//! not where a command is sent twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use common::ids::{SessionId, WorkerId};
use common::time::Timestamp;
use common::worker::Session;
use mongodb::bson::{Document, RawDocument, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, in_time};
use super::super::trouble::Trouble;
use super::super::{nonce, schema};

/// Tries to raise a connection's number while others raise it too: several connections of one session in one group take
/// a try each. Past it the agent comes again.
const TRIES_MAX: usize = 4;

/// A session that is to begin.
pub(in super::super) struct Begun {
    pub(super) id: SessionId,
    pub(super) worker: WorkerId,
    pub(super) at: Timestamp,
}

impl Weighed for Begun {
    fn bytes(&self) -> usize {
        512
    }
}

pub(in super::super) struct Opener(pub(in super::super) Arc<Link>);

impl Work for Opener {
    type Item = Begun;
    /// None: the id is used up.
    type Answer = Option<Session>;

    async fn run(&mut self, group: Vec<Begun>) -> Answers<Self::Answer> {
        in_time(self.open(&group)).await
    }
}

impl Opener {
    async fn open(&self, group: &[Begun]) -> Answers<Option<Session>> {
        let documents: Vec<Document> = group.iter().map(Begun::document).collect();
        let command = doc! { "insert": schema::HEARTBEATS, "documents": documents, "ordered": false };
        let written = self.0.write(command).await?;
        let mut answers: Vec<Result<Option<Session>, Trouble>> =
            group.iter().map(|begun| Ok(Some(begun.session()))).collect();
        let mut there = Vec::new();
        for error in &written.errors {
            if error.is_duplicate() {
                there.push(error.index);
            } else if let Some(answer) = answers.get_mut(error.index) {
                *answer = Err(error.trouble());
            }
        }
        there.retain(|place| *place < group.len());
        // The same request again, its first answer lost, finds the session as it stands.
        let ids = there.iter().map(|place| group[*place].id);
        let rows = rows(&self.0, ids).await?;
        for place in there {
            let begun = &group[place];
            answers[place] = match rows.get(&begun.id) {
                Some(Row { session, .. }) if session.worker == begun.worker && !session.lost => {
                    Ok(Some(session.clone()))
                }
                Some(_) => Ok(None),
                None => Err(Trouble::Contended),
            };
        }
        Ok(answers)
    }
}

impl Begun {
    fn document(&self) -> Document {
        doc! {
            "_id": self.id.to_string(), "worker": self.worker.as_str(), "beat": 1_i64, "conn": 1_i64, "lost": false,
            "opened_at": self.at.as_millis(),
        }
    }

    fn session(&self) -> Session {
        Session {
            id: self.id,
            worker: self.worker.clone(),
            beat: 1,
            conn: 1,
            lost: false,
            opened_at: self.at,
        }
    }
}

/// A session that is to go on through another connection of this worker.
pub(in super::super) struct Wanted {
    pub(super) id: SessionId,
    pub(super) worker: WorkerId,
}

impl Weighed for Wanted {
    fn bytes(&self) -> usize {
        128
    }
}

pub(in super::super) struct Resumer(pub(in super::super) Arc<Link>);

impl Work for Resumer {
    type Item = Wanted;
    /// None: lost, unknown or another worker's.
    type Answer = Option<Session>;

    async fn run(&mut self, group: Vec<Wanted>) -> Answers<Self::Answer> {
        let answers = in_time(self.resume(&group)).await?;
        Ok(answers
            .into_iter()
            .map(|answer| answer.ok_or(Trouble::Contended))
            .collect())
    }
}

impl Resumer {
    /// None where others were quicker each time.
    async fn resume(&self, group: &[Wanted]) -> Result<Vec<Option<Option<Session>>>, Trouble> {
        let mut answers: Vec<Option<Option<Session>>> = group.iter().map(|_| None).collect();
        for _ in 0..TRIES_MAX {
            let open: Vec<usize> = (0..group.len())
                .filter(|&place| answers[place].is_none())
                .collect();
            if open.is_empty() {
                break;
            }
            let before = self.rows_of(group, &open).await?;
            // Of one session one at a time.
            let (mut named, mut raised) = (HashSet::new(), Vec::with_capacity(open.len()));
            for place in open {
                let wanted = &group[place];
                match before.get(&wanted.id).filter(|row| row.is_alive_for(wanted)) {
                    Some(row) if named.insert(wanted.id) => raised.push((place, row.session.conn + 1)),
                    Some(_) => {}
                    None => answers[place] = Some(None),
                }
            }
            let mark = nonce();
            self.raise(group, &raised, mark).await?;
            let places: Vec<usize> = raised.iter().map(|(place, _)| *place).collect();
            let after = self.rows_of(group, &places).await?;
            for (place, conn) in raised {
                answers[place] = match after
                    .get(&group[place].id)
                    .filter(|row| row.is_alive_for(&group[place]))
                {
                    Some(row) if row.opener == Some(mark) && row.session.conn == conn => {
                        Some(Some(row.session.clone()))
                    }
                    // Another connection was quicker, or has already taken it from this one.
                    Some(_) => None,
                    None => Some(None),
                };
            }
        }
        Ok(answers)
    }

    async fn rows_of(&self, group: &[Wanted], places: &[usize]) -> Result<HashMap<SessionId, Row>, Trouble> {
        rows(&self.0, places.iter().map(|&place| group[place].id)).await
    }

    /// One statement for all that had the same number.
    async fn raise(&self, group: &[Wanted], raised: &[(usize, u64)], mark: i64) -> Result<(), Trouble> {
        let mut by_conn: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (place, conn) in raised {
            by_conn
                .entry(*conn)
                .or_default()
                .push(group[*place].id.to_string());
        }
        if by_conn.is_empty() {
            return Ok(());
        }
        let statements = by_conn.into_iter().map(|(conn, ids)| {
            doc! {
                "q": { "_id": { "$in": ids }, "conn": (conn - 1).cast_signed(), "lost": false },
                "u": { "$inc": { "conn": 1_i64, "beat": 1_i64 }, "$set": { "opener": mark } },
                "multi": true,
            }
        });
        let statements: Vec<Document> = statements.collect();
        let command = doc! { "update": schema::HEARTBEATS, "updates": statements, "ordered": false };
        self.0.write(command).await?.whole().map(drop)
    }
}

struct Row {
    session: Session,
    /// The mark of the group that raised the connection's number last; none before the first.
    opener: Option<i64>,
}

impl Row {
    fn is_alive_for(&self, wanted: &Wanted) -> bool {
        self.session.worker == wanted.worker && !self.session.lost
    }
}

async fn rows(
    link: &Link,
    ids: impl Iterator<Item = SessionId> + Send,
) -> Result<HashMap<SessionId, Row>, Trouble> {
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let question = Question::new(schema::HEARTBEATS, doc! { "_id": { "$in": ids } });
    let decode = |row: &RawDocument| {
        let opener = row.get_i64("opener").ok();
        let session = session(row)?;
        Ok(Some((session.id, Row { session, opener })))
    };
    Ok(link.ask(question, decode).await?.into_iter().collect())
}

pub(super) fn session(row: &RawDocument) -> Result<Session, Trouble> {
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
