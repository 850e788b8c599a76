//! What agents say in their heartbeats: one `update` command for all of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::ids::WorkerId;
use common::store::AgentWords;
use mongodb::bson::{Document, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, in_time};
use super::super::schema;
use super::super::trouble::{Trouble, encode};
use super::rows::speakers;

/// What an agent said.
pub(in super::super) struct Said {
    id: String,
    session: String,
    conn: i64,
    heard_at: i64,
    /// What is new beside that it was heard.
    state: Option<Document>,
    bytes: usize,
}

impl Said {
    pub(super) fn of(id: &WorkerId, words: &AgentWords) -> Result<Self, Trouble> {
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
pub(in super::super) struct Listener(pub(in super::super) Arc<Link>);

impl Work for Listener {
    type Item = Said;
    type Answer = bool;

    async fn run(&mut self, group: Vec<Said>) -> Answers<bool> {
        let answers = in_time(self.store(&group)).await?;
        Ok(answers.into_iter().map(Ok).collect())
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
        let speakers = speakers(&self.0, &ids).await?;
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
