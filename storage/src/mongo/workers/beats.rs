//! Renewals: one `update` command for all sessions that were heard, read back where fewer matched.
//!
//! No nonce is needed here, since connections only rise and lost is final: what the row shows later holds for then, too.
//! Sent twice, a renewal counts twice, which harms nobody: beats are compared, never counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::ids::SessionId;
use common::store::{Beat, BeatAnswer};
use common::worker::Session;
use mongodb::bson::{Document, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, in_time};
use super::super::schema;
use super::super::trouble::Trouble;
use super::sessions::session;

impl Weighed for Beat {
    fn bytes(&self) -> usize {
        256
    }
}

/// Renews sessions by the group.
pub(in super::super) struct Renewer(pub(in super::super) Arc<Link>);

impl Work for Renewer {
    type Item = Beat;
    type Answer = BeatAnswer;

    async fn run(&mut self, group: Vec<Beat>) -> Answers<BeatAnswer> {
        let answers = in_time(self.renew(&group)).await?;
        Ok(answers.into_iter().map(Ok).collect())
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
        let command = doc! { "update": schema::HEARTBEATS, "updates": statements, "ordered": false };
        let written = self.0.write(command).await?.whole()?;
        if usize::try_from(written.n) == Ok(group.len()) {
            return Ok(vec![BeatAnswer::Renewed; group.len()]);
        }
        let ids: Vec<String> = group.iter().map(|beat| beat.session.to_string()).collect();
        let question = Question::new(schema::HEARTBEATS, doc! { "_id": { "$in": ids } });
        let rows = self.0.ask(question, |row| session(row).map(Some)).await?;
        let rows: HashMap<SessionId, Session> = rows.into_iter().map(|row| (row.id, row)).collect();
        Ok(group
            .iter()
            .map(|beat| judge(*beat, rows.get(&beat.session)))
            .collect())
    }
}

const fn judge(beat: Beat, row: Option<&Session>) -> BeatAnswer {
    match row {
        Some(row) if !row.lost && row.conn == beat.conn => BeatAnswer::Renewed,
        Some(row) if !row.lost => BeatAnswer::Superseded,
        Some(_) | None => BeatAnswer::Lost,
    }
}
