//! Changes of jobs: one `update` command for a group, each statement a compare-and-set on its row's revision.
//!
//! The server tells only how many statements matched. Where that is all of them, all are stored; where it is fewer, or
//! nothing is known because the command was not answered, the rows are read back and tell by revision and nonce. A
//! statement that the server refuses for its row's own sake is told of that row alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use common::lifecycle::FENCED;
use common::store::{Commit, CommitError};
use mongodb::bson::{Document, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, Written, in_time};
use super::super::schema;
use super::super::trouble::Trouble;
use super::row::{Fate, Fields, Trace, fate, writer_path};
use crate::passed_over::Row;

pub(in super::super) struct Change {
    id: String,
    expected: i64,
    revision: i64,
    nonce: i64,
    fields: Fields,
}

impl Change {
    /// `nonce`: random, another for each change.
    pub(super) fn of(commit: &Commit, nonce: i64) -> Result<Self, Trouble> {
        Ok(Self {
            id: commit.job.id.to_string(),
            expected: commit.expected.0.cast_signed(),
            revision: commit.job.revision.0.cast_signed(),
            nonce,
            fields: Fields::of(&commit.job)?,
        })
    }

    fn statement(&self) -> Document {
        let mut set = self.fields.set.clone();
        set.insert(writer_path(self.revision), self.nonce);
        let mut change = doc! { "$set": set };
        if !self.fields.unset.is_empty() {
            change.insert("$unset", self.fields.unset.clone());
        }
        let row = if FENCED {
            doc! { "_id": &self.id, "revision": self.expected }
        } else {
            doc! { "_id": &self.id }
        };
        doc! { "q": row, "u": change }
    }
}

impl Weighed for Change {
    fn bytes(&self) -> usize {
        // What a statement holds beside the body, generously.
        self.fields.bytes + 512
    }
}

pub(in super::super) struct Committer(pub(in super::super) Arc<Link>);

impl Work for Committer {
    type Item = Change;
    type Answer = Result<(), CommitError>;

    async fn run(&mut self, group: Vec<Change>) -> Answers<Self::Answer> {
        // What is not judged when the time is over is unknown.
        in_time(self.commit(&group)).await
    }
}

impl Committer {
    async fn commit(&self, group: &[Change]) -> Answers<Result<(), CommitError>> {
        let statements: Vec<Document> = group.iter().map(Change::statement).collect();
        let command = doc! { "update": schema::JOBS, "updates": statements, "ordered": false };
        let (mut refused, mut unknown) = (HashSet::new(), None);
        match self.0.write(command).await {
            Ok(written) if written.errors.is_empty() && usize::try_from(written.n) == Ok(group.len()) => {
                return Ok(group.iter().map(|_| Ok(Ok(()))).collect());
            }
            Ok(written) => {
                for error in &written.errors {
                    match error.is_of_its_row() {
                        true => drop(refused.insert(error.index)),
                        false => unknown = Some(error.trouble()),
                    }
                }
                self.tell(group, &written);
                let judged = group.len().saturating_sub(written.errors.len());
                let late = judged.saturating_sub(usize::try_from(written.n).unwrap_or(0));
                if late > 0 {
                    tracing::debug!(refused = late, "changes came too late: their rows have moved on");
                }
            }
            Err(trouble) => unknown = Some(trouble),
        }
        // Why the command told nothing says more than why its rows cannot be asked.
        let traces = match (self.traces(group).await, &unknown) {
            (Err(_), Some(trouble)) => return Err(trouble.clone()),
            (traces, _) => traces?,
        };
        let judge = |(place, change): (usize, &Change)| {
            let outcome = Outcome {
                refused: refused.contains(&place),
                unknown: unknown.as_ref(),
            };
            judge(change, traces.get(&change.id), outcome)
        };
        Ok(group.iter().enumerate().map(judge).collect())
    }

    fn tell(&self, group: &[Change], written: &Written) {
        let of_their_rows = written.errors.iter().filter(|error| error.is_of_its_row());
        let rows: Vec<Row> = of_their_rows
            .filter_map(|error| Some((group.get(error.index)?.id.clone(), error.message.clone())))
            .collect();
        self.0
            .passed_over
            .tell("the database refuses to change rows of jobs", &rows);
    }

    /// Of a row that is there and does not tell, none.
    async fn traces(&self, group: &[Change]) -> Result<HashMap<String, Option<Trace>>, Trouble> {
        let ids: Vec<&str> = group.iter().map(|change| change.id.as_str()).collect();
        let question = Question::new(schema::JOBS, doc! { "_id": { "$in": ids } })
            .only(doc! { "revision": 1, "writers": 1 });
        let rows = self
            .0
            .ask(question, |row| {
                Ok(Some((row.get_str("_id")?.to_owned(), Trace::of(row).ok())))
            })
            .await?;
        Ok(rows.into_iter().collect())
    }
}

/// What the command's own answer says of one statement.
#[derive(Clone, Copy)]
struct Outcome<'a> {
    /// For its row's own sake: the same statement would be refused again.
    refused: bool,
    /// Why the answer tells nothing, if so.
    unknown: Option<&'a Trouble>,
}

fn judge(
    change: &Change,
    trace: Option<&Option<Trace>>,
    outcome: Outcome<'_>,
) -> Result<Result<(), CommitError>, Trouble> {
    let trace = match trace {
        // No job is ever removed, so what is not there has never been.
        None => return Ok(Err(CommitError::NotFound)),
        Some(None) => return Ok(Err(CommitError::Unchangeable)),
        Some(Some(trace)) => trace,
    };
    match (fate(trace, change.revision, change.nonce), outcome.unknown) {
        (Fate::Stored, _) => Ok(Ok(())),
        (Fate::Overtaken, _) => Ok(Err(CommitError::Conflict)),
        (Fate::NotYet, _) if outcome.refused => Ok(Err(CommitError::Unchangeable)),
        // The server has judged this statement and found another revision.
        (Fate::NotYet, None) => Ok(Err(CommitError::Conflict)),
        (Fate::NotYet, Some(trouble)) => Err(trouble.clone()),
        (Fate::Forgotten, _) => Err(Trouble::Forgotten),
    }
}
