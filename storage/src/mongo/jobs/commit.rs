//! Changes of jobs: one `update` command for a group, each statement a compare-and-set on its row's revision.
//!
//! The server tells only how many statements matched. Where that is all of them, all are stored; where it is fewer, or
//! nothing is known because the command was not answered, the rows are read back and tell by revision and nonce.

use std::collections::HashMap;
use std::sync::Arc;

use common::store::{Commit, CommitError};
use mongodb::bson::{Document, doc};

use super::super::lane::{Weighed, Work};
use super::super::link::{Link, Question, in_time};
use super::super::schema;
use super::super::trouble::Trouble;
use super::row::{Fate, Fields, Trace, fate, writer_path};

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
        doc! { "q": { "_id": &self.id, "revision": self.expected }, "u": change }
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

    async fn run(&mut self, group: Vec<Change>) -> Vec<Result<Self::Answer, Trouble>> {
        // What is not judged when the time is over is unknown.
        match in_time(async { Ok(self.commit(&group).await) }).await {
            Ok(answers) => answers,
            Err(trouble) => group.iter().map(|_| Err(trouble.clone())).collect(),
        }
    }
}

impl Committer {
    async fn commit(&self, group: &[Change]) -> Vec<Result<Result<(), CommitError>, Trouble>> {
        let statements: Vec<Document> = group.iter().map(Change::statement).collect();
        let command = doc! { "update": schema::JOBS, "updates": statements, "ordered": false };
        let outcome = match self.0.write(command).await {
            Ok(written) => match written.errors.first() {
                None if usize::try_from(written.n) == Ok(group.len()) => {
                    return group.iter().map(|_| Ok(Ok(()))).collect();
                }
                None => Ok(()),
                Some(error) => Err(error.trouble()),
            },
            Err(trouble) => Err(trouble),
        };
        match self.traces(group).await {
            Ok(traces) => {
                let judge = |change: &Change| judge(change, traces.get(&change.id), outcome.as_ref().err());
                group.iter().map(judge).collect()
            }
            Err(trouble) => {
                let trouble = outcome.err().unwrap_or(trouble);
                group.iter().map(|_| Err(trouble.clone())).collect()
            }
        }
    }

    async fn traces(&self, group: &[Change]) -> Result<HashMap<String, Trace>, Trouble> {
        let ids: Vec<&str> = group.iter().map(|change| change.id.as_str()).collect();
        let question = Question::new(schema::JOBS, doc! { "_id": { "$in": ids } })
            .only(doc! { "revision": 1, "writers": 1 });
        let rows = self
            .0
            .ask(question, |row| {
                Ok(Some((row.get_str("_id")?.to_owned(), Trace::of(row)?)))
            })
            .await?;
        Ok(rows.into_iter().collect())
    }
}

/// `unknown`: why the command's own answer tells nothing, if so.
fn judge(
    change: &Change,
    trace: Option<&Trace>,
    unknown: Option<&Trouble>,
) -> Result<Result<(), CommitError>, Trouble> {
    // No job is ever removed, so what is not there has never been.
    let Some(trace) = trace else {
        return Ok(Err(CommitError::NotFound));
    };
    match (fate(trace, change.revision, change.nonce), unknown) {
        (Fate::Stored, _) => Ok(Ok(())),
        (Fate::Overtaken, _) => Ok(Err(CommitError::Conflict)),
        // The server has judged this statement and found another revision.
        (Fate::NotYet, None) => Ok(Err(CommitError::Conflict)),
        (Fate::NotYet, Some(trouble)) => Err(trouble.clone()),
        (Fate::Forgotten, _) => Err(Trouble::Forgotten),
    }
}
