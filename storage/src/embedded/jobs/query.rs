//! Questions about jobs. Each is answered by an index; the tests below hold SQLite's plans to it.
//!
//! A row whose document cannot be read is left out of every answer but that of [`get`], and told in the log: one that
//! somebody has spoilt must not stop the sweeps, the queue or a list for all others.

use std::collections::HashSet;
use std::sync::LazyLock;

use common::ids::{AccountId, JobId, SessionId};
use common::job::{Epoch, Job, StateName};
use common::store::{Due, Held, JobCursor, JobQuery, Page, StoreError};
use common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Rows, params};

use super::super::sqlite::{decode, sql};
use super::row::{name, number};
use crate::passed_over::{PassedOver, Row as Passed};

/// Rows that one page looks at in one scan: a filter that hardly anything fits must not hold a connection for long.
pub(super) const SCAN_MAX: usize = 20_000;
/// Longest page of a list.
const PAGE_MAX: usize = 1_000;
/// Most rows of one sweep's answer.
pub(super) const SWEEP_MAX: usize = 100_000;

const GET: &str = "SELECT doc FROM jobs WHERE id = ?1";
const LIST_ACCOUNT: &str = "SELECT id, state, doc FROM jobs
    WHERE account = ?1 AND state = ?2 AND id < ?3 AND hidden = 0 ORDER BY id DESC";
const LIST_ACTIVE: &str = "SELECT id, state, doc FROM jobs
    WHERE state = ?1 AND state < 4 AND id < ?2 AND hidden = 0 ORDER BY id DESC";
const LIST_ALL: &str = "SELECT id, state, doc FROM jobs WHERE id < ?1 AND hidden = 0 ORDER BY id DESC";
/// Answered from the index alone; documents are fetched only of what fits.
const ACTIVE: &str =
    "SELECT id, session, epoch FROM jobs WHERE state = ?1 AND state < 4 AND id > ?2 ORDER BY id";
const CANCELLING: &str = "SELECT id, session, 0 FROM jobs WHERE cancelling = 1 AND id > ?1 ORDER BY id";
const DUE: &str = "SELECT id, doc FROM jobs WHERE state = ?1 AND due <= ?2 AND due IS NOT NULL ORDER BY due";

const COUNT: &str = "SELECT count(*) FROM jobs WHERE account = ?1 AND state = ?2";

pub(super) fn get(db: &Connection, id: JobId) -> Result<Option<Job>, StoreError> {
    let doc = document(db, id)?;
    doc.map(|doc| decode("a job", &doc)).transpose()
}

/// Those that are there and can be read.
pub(super) fn get_many(db: &Connection, ids: &[JobId]) -> Result<Vec<Job>, StoreError> {
    let (mut jobs, mut readable) = (Vec::with_capacity(ids.len()), Readable::default());
    for id in ids {
        if let Some(doc) = document(db, *id)? {
            jobs.extend(readable.job(*id, &doc));
        }
    }
    Ok(jobs)
}

fn document(db: &Connection, id: JobId) -> Result<Option<String>, StoreError> {
    db.prepare_cached(GET)
        .map_err(sql)?
        .query_row([id.as_u128().to_be_bytes()], |row| row.get::<_, String>(0))
        .optional()
        .map_err(sql)
}

/// Reads documents; at its end it tells of those that were none.
#[derive(Default)]
struct Readable(Vec<Passed>);

/// Of the process: whoever has opened the same file twice hears of a row once.
static PASSED_OVER: LazyLock<PassedOver> = LazyLock::new(PassedOver::default);

impl Readable {
    fn job(&mut self, id: JobId, doc: &str) -> Option<Job> {
        match serde_json::from_str::<Job>(doc) {
            Ok(job) if job.id == id => return Some(job),
            Ok(_) => self.0.push((id.to_string(), "it is another job's".to_owned())),
            Err(error) => self.0.push((id.to_string(), error.to_string())),
        }
        None
    }
}

impl Drop for Readable {
    fn drop(&mut self) {
        PASSED_OVER.tell("the database holds rows that cannot be read", &self.0);
    }
}

pub(super) fn list(db: &Connection, query: &JobQuery) -> Result<Page<Job>, StoreError> {
    let before = query
        .before
        .map_or([0xff; 16], |cursor| cursor.0.as_u128().to_be_bytes());
    let limit = query.limit.clamp(1, PAGE_MAX);
    let wanted: &[StateName] = if query.states.is_empty() {
        &StateName::ALL
    } else {
        &query.states
    };
    let wanted: HashSet<StateName> = wanted.iter().copied().collect();
    let mut found = Found::new(&wanted, &query.labels, limit);
    match &query.account {
        Some(account) => {
            for state in &wanted {
                let mut statement = db.prepare_cached(LIST_ACCOUNT).map_err(sql)?;
                let rows = statement.query(params![account.as_str(), number(*state), before]);
                found.scan(rows.map_err(sql)?)?;
            }
        }
        None if wanted.iter().all(|state| !state.is_terminal()) => {
            for state in &wanted {
                let mut statement = db.prepare_cached(LIST_ACTIVE).map_err(sql)?;
                let rows = statement.query(params![number(*state), before]);
                found.scan(rows.map_err(sql)?)?;
            }
        }
        None => {
            let mut statement = db.prepare_cached(LIST_ALL).map_err(sql)?;
            found.scan(statement.query([before]).map_err(sql)?)?;
        }
    }
    found.page()
}

/// What several scans, each newest first, have found; merged into one page.
struct Found<'a> {
    states: &'a HashSet<StateName>,
    labels: &'a [(String, String)],
    limit: usize,
    rows: Vec<(JobId, String)>,
    readable: Readable,
    /// The highest id that a scan stopped at with more below it: nothing under it is known to be complete.
    floor: Option<JobId>,
}

impl<'a> Found<'a> {
    fn new(states: &'a HashSet<StateName>, labels: &'a [(String, String)], limit: usize) -> Self {
        Self {
            states,
            labels,
            limit,
            rows: Vec::new(),
            readable: Readable::default(),
            floor: None,
        }
    }

    fn scan(&mut self, mut rows: Rows<'_>) -> Result<(), StoreError> {
        let (mut found, mut looked_at) = (0, 0);
        let mut last = None;
        while let Some(row) = rows.next().map_err(sql)? {
            let id = job_id(row.get(0).map_err(sql)?);
            if looked_at == SCAN_MAX {
                self.stop_at(last);
                break;
            }
            looked_at += 1;
            let state = name(row.get(1).map_err(sql)?);
            if state.is_some_and(|state| self.states.contains(&state)) {
                let doc: String = row.get(2).map_err(sql)?;
                if self.carries_labels(id, &doc) {
                    if found == self.limit {
                        self.stop_at(last);
                        break;
                    }
                    found += 1;
                    self.rows.push((id, doc));
                }
            }
            last = Some(id);
        }
        Ok(())
    }

    fn stop_at(&mut self, id: Option<JobId>) {
        self.floor = self.floor.max(id);
    }

    fn carries_labels(&mut self, id: JobId, doc: &str) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let Some(job) = self.readable.job(id, doc) else {
            return false;
        };
        let carries = |(name, value): &(String, String)| job.spec.labels.get(name) == Some(value);
        self.labels.iter().all(carries)
    }

    fn page(mut self) -> Result<Page<Job>, StoreError> {
        self.rows.retain(|(id, _)| Some(*id) >= self.floor);
        self.rows.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        let next = if self.rows.len() > self.limit {
            self.rows.truncate(self.limit);
            self.rows.last().map(|(id, _)| *id)
        } else {
            self.floor
        };
        let (rows, mut readable) = (self.rows, self.readable);
        let items = rows.iter().filter_map(|(id, doc)| readable.job(*id, doc));
        Ok(Page {
            items: items.collect(),
            next: next.map(JobCursor),
        })
    }
}

pub(super) fn queued(db: &Connection, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, StoreError> {
    let limit = limit.min(SWEEP_MAX);
    let (mut jobs, mut after) = (Vec::new(), after);
    loop {
        let wanted = limit - jobs.len();
        let ids = active(db, StateName::Queued, after, wanted, |_, _| true)?;
        after = ids.last().copied();
        // As they stand: one may have gone on to another state a moment ago, which the caller's own check finds.
        jobs.extend(get_many(db, &ids)?);
        if ids.len() < wanted || jobs.len() == limit {
            return Ok(jobs);
        }
    }
}

pub(super) fn due(db: &Connection, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
    let state = match due {
        Due::Start => StateName::Scheduled,
        Due::QueueDeadline => StateName::Queued,
    };
    let limit = limit.min(SWEEP_MAX);
    let mut statement = db.prepare_cached(DUE).map_err(sql)?;
    let mut rows = statement
        .query(params![number(state), now.as_millis()])
        .map_err(sql)?;
    let (mut jobs, mut readable) = (Vec::new(), Readable::default());
    while jobs.len() < limit
        && let Some(row) = rows.next().map_err(sql)?
    {
        let doc: String = row.get(1).map_err(sql)?;
        jobs.extend(readable.job(job_id(row.get(0).map_err(sql)?), &doc));
    }
    Ok(jobs)
}

/// In order; the caller looks the jobs up, and finds in them what has changed meanwhile.
pub(super) fn held(
    db: &Connection,
    held: &Held,
    after: Option<JobId>,
    limit: usize,
) -> Result<Vec<JobId>, StoreError> {
    let limit = limit.min(SWEEP_MAX);
    let mut ids = match held {
        Held::Any => both(db, after, limit, |_, _| true)?,
        Held::BeforeTerm(term) => both(db, after, limit, |_, epoch| epoch < *term)?,
        Held::Sessions(sessions) => {
            let sessions: HashSet<_> = sessions.iter().copied().collect();
            both(db, after, limit, |session, _| sessions.contains(&session))?
        }
        Held::AllUndelivered => undelivered(db, after, limit, |_, _| true)?,
        Held::Undelivered(sessions) => {
            let sessions: HashSet<_> = sessions.iter().copied().collect();
            undelivered(db, after, limit, |session, _| sessions.contains(&session))?
        }
    };
    ids.sort_unstable();
    ids.truncate(limit);
    Ok(ids)
}

fn undelivered(
    db: &Connection,
    after: Option<JobId>,
    limit: usize,
    wanted: impl Fn(SessionId, Epoch) -> bool,
) -> Result<Vec<JobId>, StoreError> {
    let mut ids = active(db, StateName::Assigned, after, limit, &wanted)?;
    let mut statement = db.prepare_cached(CANCELLING).map_err(sql)?;
    let rows = statement.query([from(after)]).map_err(sql)?;
    ids.extend(pick(rows, limit, &wanted)?);
    Ok(ids)
}

pub(super) fn count_by_state(
    db: &Connection,
    account: Option<&AccountId>,
) -> Result<Vec<(StateName, u64)>, StoreError> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let counts: Vec<(i64, i64)> = match account {
        Some(account) => db
            .prepare_cached("SELECT state, count(*) FROM jobs WHERE account = ?1 GROUP BY state")
            .and_then(|mut statement| statement.query_map([account.as_str()], read)?.collect()),
        None => db
            .prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state")
            .and_then(|mut statement| statement.query_map([], read)?.collect()),
    }
    .map_err(sql)?;
    let count = |state: StateName| {
        let found = counts.iter().find(|(stored, _)| *stored == number(state));
        (state, found.map_or(0, |(_, count)| count.cast_unsigned()))
    };
    Ok(StateName::ALL.into_iter().map(count).collect())
}

pub(super) fn count_waiting(db: &Connection, account: &AccountId) -> Result<u64, StoreError> {
    let mut waiting = 0;
    for state in [StateName::Scheduled, StateName::Queued] {
        let count: i64 = db
            .prepare_cached(COUNT)
            .and_then(|mut statement| {
                statement.query_row(params![account.as_str(), number(state)], |row| row.get(0))
            })
            .map_err(sql)?;
        waiting += count.cast_unsigned();
    }
    Ok(waiting)
}

fn both(
    db: &Connection,
    after: Option<JobId>,
    limit: usize,
    fits: impl Fn(SessionId, Epoch) -> bool,
) -> Result<Vec<JobId>, StoreError> {
    let mut ids = active(db, StateName::Assigned, after, limit, &fits)?;
    ids.extend(active(db, StateName::Running, after, limit, &fits)?);
    Ok(ids)
}

fn active(
    db: &Connection,
    state: StateName,
    after: Option<JobId>,
    limit: usize,
    fits: impl Fn(SessionId, Epoch) -> bool,
) -> Result<Vec<JobId>, StoreError> {
    let mut statement = db.prepare_cached(ACTIVE).map_err(sql)?;
    let rows = statement
        .query(params![number(state), from(after)])
        .map_err(sql)?;
    pick(rows, limit, fits)
}

fn pick(
    mut rows: Rows<'_>,
    limit: usize,
    fits: impl Fn(SessionId, Epoch) -> bool,
) -> Result<Vec<JobId>, StoreError> {
    let mut ids = Vec::new();
    while ids.len() < limit
        && let Some(row) = rows.next().map_err(sql)?
    {
        let session: Option<[u8; 16]> = row.get(1).map_err(sql)?;
        let session = SessionId::from_u128(session.map_or(0, u128::from_be_bytes));
        let epoch: i64 = row.get(2).map_err(sql)?;
        if fits(session, Epoch(epoch.cast_unsigned())) {
            ids.push(job_id(row.get(0).map_err(sql)?));
        }
    }
    Ok(ids)
}

fn from(after: Option<JobId>) -> Vec<u8> {
    // No id is below the empty one, so the first page begins at the beginning.
    after.map_or_else(Vec::new, |id| id.as_u128().to_be_bytes().to_vec())
}

fn job_id(bytes: [u8; 16]) -> JobId {
    JobId::from_u128(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::super::sqlite::{JOBS, open_writer};
    use super::*;

    #[test]
    fn every_question_is_answered_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let db = open_writer(folder.path(), &JOBS).unwrap();
        for (question, index) in [
            (GET, "sqlite_autoindex_jobs_1"),
            (LIST_ACCOUNT, "jobs_by_account (account=? AND state=? AND id<?)"),
            (LIST_ACTIVE, "jobs_active (state=? AND id<?)"),
            (LIST_ALL, "sqlite_autoindex_jobs_1 (id<?)"),
            (COUNT, "COVERING INDEX jobs_by_account (account=? AND state=?)"),
            (ACTIVE, "COVERING INDEX jobs_active (state=? AND id>?)"),
            (CANCELLING, "jobs_cancelling (id>?)"),
            (DUE, "jobs_due (state=? AND due>? AND due<?)"),
        ] {
            let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {question}")).unwrap();
            let nothing = vec![rusqlite::types::Null; statement.parameter_count()];
            let plan: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(nothing), |row| row.get(3))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let plan = plan.join("; ");
            assert!(plan.contains(index), "{question}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{question}\n{plan}");
        }
    }
}
