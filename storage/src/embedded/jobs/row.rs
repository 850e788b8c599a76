//! A job as a row: its document, and the columns that repeat what queries ask for.

use common::job::{Job, JobState, StateName};
use common::store::StoreError;
use rusqlite::{Connection, params};

use super::super::sqlite;

pub(super) struct Row {
    pub(super) id: [u8; 16],
    pub(super) account: String,
    state: i64,
    revision: i64,
    epoch: i64,
    session: Option<[u8; 16]>,
    due: Option<i64>,
    cancelling: bool,
    hidden: bool,
    doc: String,
}

impl Row {
    pub(super) fn of(job: &Job) -> Result<Self, StoreError> {
        let due = match &job.state {
            JobState::Scheduled { at } => Some(*at),
            JobState::Queued { .. } => job.queue_deadline(),
            JobState::Assigned { .. }
            | JobState::Running { .. }
            | JobState::Succeeded { .. }
            | JobState::Failed { .. }
            | JobState::Cancelled { .. } => None,
        };
        Ok(Self {
            id: job.id.as_u128().to_be_bytes(),
            account: job.account.as_str().to_owned(),
            state: number(job.state.name()),
            revision: job.revision.0.cast_signed(),
            epoch: job.epoch.0.cast_signed(),
            session: job
                .state
                .lease()
                .map(|lease| lease.session.as_u128().to_be_bytes()),
            due: due.map(|at| at.as_millis()),
            cancelling: job.cancel.is_some() && matches!(job.state, JobState::Running { .. }),
            hidden: job.hidden,
            doc: sqlite::encode("a job", job)?,
        })
    }

    /// Size of the document.
    pub(super) const fn bytes(&self) -> usize {
        self.doc.len()
    }

    /// A row that is there already stays as it is.
    pub(super) fn insert(&self, db: &Connection) -> rusqlite::Result<usize> {
        db.prepare_cached(
            "INSERT INTO jobs (id, account, state, revision, epoch, session, due, cancelling, hidden, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (id) DO NOTHING",
        )?
        .execute(params![
            self.id,
            self.account,
            self.state,
            self.revision,
            self.epoch,
            self.session,
            self.due,
            self.cancelling,
            self.hidden,
            self.doc
        ])
    }

    /// How many rows were of the expected revision: one or none.
    pub(super) fn update(&self, db: &Connection, expected: i64) -> rusqlite::Result<usize> {
        db.prepare_cached(
            "UPDATE jobs SET state = ?3, revision = ?4, epoch = ?5, session = ?6, due = ?7, cancelling = ?8,
             hidden = ?9, doc = ?10 WHERE id = ?1 AND revision = ?2",
        )?
        .execute(params![
            self.id,
            expected,
            self.state,
            self.revision,
            self.epoch,
            self.session,
            self.due,
            self.cancelling,
            self.hidden,
            self.doc
        ])
    }
}

/// States as stored; never renumbered.
pub(super) const fn number(state: StateName) -> i64 {
    match state {
        StateName::Scheduled => 0,
        StateName::Queued => 1,
        StateName::Assigned => 2,
        StateName::Running => 3,
        StateName::Succeeded => 4,
        StateName::Failed => 5,
        StateName::Cancelled => 6,
    }
}

pub(super) fn name(number: i64) -> Option<StateName> {
    StateName::ALL
        .into_iter()
        .find(|name| self::number(*name) == number)
}
