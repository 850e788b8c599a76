//! A job as a document: its body as JSON text, and beside it the fields that questions and checks need.
//!
//! The body is the truth; the fields repeat parts of it and are written in the same statement. JSON, the very text that
//! the embedded store keeps, has no field names that a server may refuse (names of variables and labels may hold dots
//! and dollars) and no numbers that BSON lacks (`docs/adr/0010`).

use common::job::{Job, JobState, StateName};
use common::store::Holding;
use mongodb::bson::{Bson, Document, RawDocument, doc};

use super::super::trouble::{Trouble, decode, encode};

/// How many changes back a writer can still find that one was its own. A job is changed some five times in its life,
/// and read back within seconds.
const WRITERS_KEPT: u64 = 8;

/// What each change sets; fields that are absent in a state are unset, so that partial indexes hold only what they are
/// for.
pub(super) struct Fields {
    pub(super) set: Document,
    pub(super) unset: Document,
    pub(super) bytes: usize,
}

impl Fields {
    pub(super) fn of(job: &Job) -> Result<Self, Trouble> {
        let body = encode("a job", job)?;
        let bytes = body.len();
        let mut fields = Self {
            set: doc! {
                "state": job.state.name().as_str(),
                "hidden": job.hidden,
                "revision": job.revision.0.cast_signed(),
                "epoch": job.epoch.0.cast_signed(),
                "job": body,
            },
            unset: Document::new(),
            bytes,
        };
        let (held, undelivered) = match &job.state {
            JobState::Assigned { lease, .. } => (Some(lease), true),
            JobState::Running { lease, .. } => (Some(lease), job.cancel.is_some()),
            JobState::Scheduled { .. }
            | JobState::Queued { .. }
            | JobState::Succeeded { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. } => (None, false),
        };
        fields.put("session", held.map(|lease| lease.session.to_string()));
        fields.put("attempt", job.state.attempt().map(|attempt| attempt.to_string()));
        fields.put("undelivered", undelivered.then_some(true));
        fields.put("due", due(job));
        Ok(fields)
    }

    fn put(&mut self, name: &str, value: Option<impl Into<Bson>>) {
        match value {
            Some(value) => self.set.insert(name, value),
            None => self.unset.insert(name, ""),
        };
    }
}

/// When a scheduled job starts, or a queued one gives up waiting.
fn due(job: &Job) -> Option<i64> {
    let due = match &job.state {
        JobState::Scheduled { at } => Some(*at),
        JobState::Queued { .. } => job.queue_deadline(),
        JobState::Assigned { .. }
        | JobState::Running { .. }
        | JobState::Succeeded { .. }
        | JobState::Failed { .. }
        | JobState::Cancelled { .. } => None,
    };
    due.map(common::time::Timestamp::as_millis)
}

/// A new job's document, without what an idempotency key adds.
pub(super) fn new_document(job: &Job, fields: Fields) -> Document {
    let mut document = doc! { "_id": job.id.to_string(), "account": job.account.as_str() };
    document.extend(fields.set);
    let labels = &job.spec.labels;
    if !labels.is_empty() {
        // Each twice: for lists of one account, and for lists of all of them.
        let marks = labels
            .iter()
            .flat_map(|(name, value)| [mark(job.account.as_str(), name, value), mark("", name, value)]);
        document.insert("labels", marks.collect::<Vec<_>>());
    }
    document
}

/// A label as one indexed text. Names of accounts have no slash, and neither names nor values of labels have a control
/// character, so no two labels make the same text.
pub(super) fn mark(account: &str, name: &str, value: &str) -> String {
    format!("{account}/{name}\u{1f}{value}")
}

/// Where the writer of a revision leaves its nonce, as a path into the document.
pub(super) fn writer_path(revision: i64) -> String {
    format!("writers.{}", slot(revision))
}

fn slot(revision: i64) -> String {
    format!("w{}", revision.cast_unsigned() % WRITERS_KEPT)
}

/// What is read back of a row to learn who wrote it.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) revision: i64,
    writers: Document,
}

impl Trace {
    pub(super) fn of(document: &RawDocument) -> Result<Self, Trouble> {
        let writers = match document.get_document("writers") {
            Ok(writers) => Document::try_from(writers)?,
            // Inserted, and never changed since.
            Err(_) => Document::new(),
        };
        Ok(Self {
            revision: document.get_i64("revision")?,
            writers,
        })
    }
}

/// What became of a change, judged by what its row shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stored,
    /// Not stored, and it never will be.
    Overtaken,
    /// Not stored so far; a command still under way may do it yet.
    NotYet,
    /// So many changes have followed that the row does not tell any more.
    Forgotten,
}

/// `revision` is the one that the change made, `nonce` its writer's.
pub(super) fn fate(trace: &Trace, revision: i64, nonce: i64) -> Fate {
    if trace.revision < revision {
        return Fate::NotYet;
    }
    if trace
        .writers
        .get_i64(slot(revision))
        .is_ok_and(|writer| writer == nonce)
    {
        return Fate::Stored;
    }
    if trace.revision - revision >= WRITERS_KEPT.cast_signed() {
        return Fate::Forgotten;
    }
    Fate::Overtaken
}

/// What [`job_of`] reads.
pub(super) fn job_fields() -> Document {
    doc! { "job": 1, "state": 1, "revision": 1, "epoch": 1, "session": 1, "due": 1 }
}

/// The job, if its row says one thing. Where a field contradicts the body, whoever found the row by that field would
/// find it again and again, and could never change it: such a row is as unreadable as one that is no JSON.
pub(super) fn job_of(document: &RawDocument) -> Result<Job, Trouble> {
    let job: Job = decode("a job", document.get_str("job")?)?;
    let session = job.state.held().map(|(_, lease)| lease.session.to_string());
    let contradicted = [
        ("_id", document.get_str("_id")? != job.id.to_string()),
        ("state", document.get_str("state")? != job.state.name().as_str()),
        (
            "revision",
            document.get_i64("revision")? != job.revision.0.cast_signed(),
        ),
        ("epoch", document.get_i64("epoch")? != job.epoch.0.cast_signed()),
        ("session", document.get_str("session").ok() != session.as_deref()),
        ("due", document.get_i64("due").ok() != due(&job)),
    ];
    match contradicted.into_iter().find(|(_, differs)| *differs) {
        None => Ok(job),
        Some((field, _)) => Err(Trouble::unreadable(format!(
            "a job's row: its field `{field}` contradicts its body"
        ))),
    }
}

/// What [`holding_of`] reads.
pub(super) fn holding_fields() -> Document {
    doc! { "session": 1, "attempt": 1, "state": 1 }
}

pub(super) fn holding_of(document: &RawDocument) -> Result<Holding, Trouble> {
    let broken = || Trouble::unreadable("what a session holds");
    let state = document.get_str("state")?;
    let state = StateName::ALL.into_iter().find(|name| name.as_str() == state);
    Ok(Holding {
        job: document.get_str("_id")?.parse().map_err(|_| broken())?,
        attempt: document.get_str("attempt")?.parse().map_err(|_| broken())?,
        session: document.get_str("session")?.parse().map_err(|_| broken())?,
        state: state.ok_or_else(broken)?,
    })
}

pub(super) fn state_names(states: &[StateName]) -> Vec<&'static str> {
    states.iter().map(|state| state.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(revision: i64, writers: &[(i64, i64)]) -> Trace {
        let mut document = Document::new();
        for (revision, nonce) in writers {
            document.insert(slot(*revision), *nonce);
        }
        Trace {
            revision,
            writers: document,
        }
    }

    #[test]
    fn a_writer_knows_its_own_change_under_later_ones() {
        assert_eq!(fate(&trace(4, &[(4, 77)]), 5, 9), Fate::NotYet);
        assert_eq!(fate(&trace(5, &[(4, 77), (5, 9)]), 5, 9), Fate::Stored);
        assert_eq!(fate(&trace(5, &[(4, 9), (5, 8)]), 5, 9), Fate::Overtaken);
        assert_eq!(fate(&trace(12, &[(5, 9), (12, 1)]), 5, 9), Fate::Stored);
        assert_eq!(fate(&trace(12, &[(5, 8), (12, 1)]), 5, 9), Fate::Overtaken);
        // Slot 5 was used again by revision 13.
        assert_eq!(fate(&trace(13, &[(13, 1)]), 5, 9), Fate::Forgotten);
    }

    #[test]
    fn labels_of_one_account_are_not_anothers() {
        let marks = [
            mark("a", "b", "c"),
            mark("", "b", "c"),
            mark("a", "b=c", ""),
            mark("", "a/b", "c"),
            mark("a", "/b", "c"),
        ];
        for (at, one) in marks.iter().enumerate() {
            assert!(!marks[at + 1..].contains(one), "{one:?}");
        }
    }
}
