//! Questions about jobs. Each is shaped for the one index that answers it ([`super::super::schema`]); what a partial index
//! demands is said by the comparison itself.
//!
//! A row that cannot be read, or whose fields contradict its body, is left out of every answer but that of [`get`], and
//! told in the log: one that somebody has spoilt must not stop the sweeps, the queue or a list for all others.

use std::time::Duration;

use common::ids::{AccountId, JobId, SessionId};
use common::job::{Job, StateName};
use common::store::{Due, Held, Holding, JobCursor, JobQuery, Page};
use common::time::Timestamp;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};

use super::super::link::{Link, Question, in_time, whole_number};
use super::super::schema;
use super::super::trouble::Trouble;
use super::row::{holding_fields, holding_of, job_fields, job_of, mark, state_names};
use super::stretch::Stretch;

/// Longest page of a list.
const PAGE_MAX: usize = 1_000;
/// Most rows of one sweep's answer.
const SWEEP_MAX: usize = 100_000;
/// Ids in one question.
const IDS_MAX: usize = 1_000;
/// Where counting for a page ends: one that shows a number this large needs no larger one, and counting reads every key.
const COUNT_MAX: i64 = 1_000_000;
/// The longest that a count takes on which a limit hangs: nobody's answer waits for the whole of it.
const COUNT_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn get(link: &Link, id: JobId) -> Result<Option<Job>, Trouble> {
    let question = Question::new(schema::JOBS, doc! { "_id": id.to_string() }).only(job_fields());
    link.ask_one(question, job_of).await
}

pub(super) async fn get_many(link: &Link, ids: &[JobId]) -> Result<Vec<Job>, Trouble> {
    let mut jobs = Vec::with_capacity(ids.len());
    for part in ids.chunks(IDS_MAX) {
        let ids: Vec<String> = part.iter().map(ToString::to_string).collect();
        let question = Question::new(schema::JOBS, doc! { "_id": { "$in": ids } }).only(job_fields());
        jobs.extend(link.ask_readable(question, job_of).await?);
    }
    Ok(jobs)
}

pub(super) async fn list(link: &Link, query: &JobQuery) -> Result<Page<Job>, Trouble> {
    let limit = query.limit.clamp(1, PAGE_MAX);
    let every_state =
        query.states.is_empty() || StateName::ALL.iter().all(|state| query.states.contains(state));
    let questions = if query.labels.is_empty() && !every_state {
        // A question for each state, so that each is one run of its index; the page is merged here.
        let mut states = query.states.clone();
        states.sort_unstable();
        states.dedup();
        states.iter().map(|state| of_state(query, *state)).collect()
    } else {
        vec![of_any_state(query, every_state)]
    };
    let pages = questions.into_iter().map(|question| {
        let question = question
            .sorted(doc! { "_id": -1 })
            .only(job_fields())
            .at_most(limit + 1);
        link.ask_readable(question, job_of)
    });
    let mut jobs: Vec<Job> = try_join_all(pages).await?.into_iter().flatten().collect();
    jobs.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
    let more = jobs.len() > limit;
    jobs.truncate(limit);
    let next = jobs.last().filter(|_| more).map(|job| JobCursor(job.id));
    Ok(Page { items: jobs, next })
}

fn of_state(query: &JobQuery, state: StateName) -> Question {
    let mut filter = before(query);
    filter.insert("state", state.as_str());
    filter.insert("hidden", false);
    if let Some(account) = &query.account {
        filter.insert("account", account.as_str());
    }
    Question::new(schema::JOBS, filter)
}

fn of_any_state(query: &JobQuery, every_state: bool) -> Question {
    let mut filter = before(query);
    filter.insert("hidden", false);
    if !every_state {
        filter.insert("state", doc! { "$in": state_names(&query.states) });
    }
    if !query.labels.is_empty() {
        let account = query.account.as_ref().map_or("", AccountId::as_str);
        let marks: Vec<String> = query
            .labels
            .iter()
            .map(|(name, value)| mark(account, name, value))
            .collect();
        filter.insert("labels", doc! { "$all": marks });
        return Question::new(schema::JOBS, filter);
    }
    // Administrators alone ask without; hidden jobs are passed over one by one.
    if let Some(account) = &query.account {
        filter.insert("account", account.as_str());
    }
    Question::new(schema::JOBS, filter)
}

fn before(query: &JobQuery) -> Document {
    match query.before {
        Some(JobCursor(id)) => doc! { "_id": { "$lt": id.to_string() } },
        None => Document::new(),
    }
}

/// Read by stretches of ids: a server that cannot stop early in an index would read the whole rest of the queue for each
/// page. Fewer than `limit` come before the end, none at it.
pub(super) async fn queued(
    link: &Link,
    stretch: &Stretch,
    now: Timestamp,
    after: Option<JobId>,
    limit: usize,
) -> Result<Vec<Job>, Trouble> {
    let mut from = after;
    loop {
        let end = stretch.end(from, now);
        let mut ids = match from {
            Some(from) => doc! { "$gt": from.to_string() },
            None => doc! { "$gte": JobId::from_u128(0).to_string() },
        };
        if let Some(end) = end {
            ids.insert("$lte", end.to_string());
        }
        let filter = doc! { "state": StateName::Queued.as_str(), "_id": ids };
        let found = sweep(
            link,
            Question::new(schema::JOBS, filter).sorted(doc! { "_id": 1 }),
            limit,
        )
        .await?;
        stretch.learn(found.len(), limit);
        match end {
            Some(end) if found.is_empty() => from = Some(end),
            _ => return Ok(found),
        }
    }
}

pub(super) async fn due(link: &Link, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, Trouble> {
    let state = match due {
        Due::Start => StateName::Scheduled,
        Due::QueueDeadline => StateName::Queued,
    };
    let filter = doc! { "state": state.as_str(), "due": { "$lte": now.as_millis() } };
    sweep(
        link,
        Question::new(schema::JOBS, filter).sorted(doc! { "due": 1 }),
        limit,
    )
    .await
}

pub(super) async fn held(
    link: &Link,
    held: &Held,
    after: Option<JobId>,
    limit: usize,
) -> Result<Vec<Job>, Trouble> {
    let mut filter = beyond(after);
    match held {
        Held::Any => {
            filter.insert("session", any_session());
        }
        Held::BeforeTerm(term) => {
            filter.insert("session", any_session());
            filter.insert("epoch", doc! { "$lt": term.0.cast_signed() });
        }
        Held::Sessions(sessions) => {
            filter.insert("session", doc! { "$in": texts(sessions) });
        }
        Held::AllUndelivered => {
            filter.insert("undelivered", true);
        }
        Held::Undelivered(sessions) => {
            filter.insert("undelivered", true);
            filter.insert("session", doc! { "$in": texts(sessions) });
        }
    }
    sweep(
        link,
        Question::new(schema::JOBS, filter).sorted(doc! { "_id": 1 }),
        limit,
    )
    .await
}

/// Only what is held names a session.
fn any_session() -> Document {
    doc! { "$gt": "" }
}

pub(super) async fn all_holdings(link: &Link) -> Result<Vec<Holding>, Trouble> {
    let question = Question::new(schema::JOBS, doc! { "session": any_session() }).only(holding_fields());
    link.ask_readable(question, holding_of).await
}

/// Of these sessions, in any order.
pub(super) async fn holdings(link: &Link, sessions: &[SessionId]) -> Result<Vec<Holding>, Trouble> {
    let filter = doc! { "session": { "$in": texts(sessions) } };
    let question = Question::new(schema::JOBS, filter).only(holding_fields());
    link.ask_readable(question, holding_of).await
}

pub(super) async fn count_by_state(
    link: &Link,
    account: Option<&AccountId>,
) -> Result<Vec<(StateName, u64)>, Trouble> {
    let counts = StateName::ALL
        .into_iter()
        .map(|state| async move { Ok((state, count_for_a_page(link, account, state).await?)) });
    try_join_all(counts).await
}

pub(super) async fn count_queued(link: &Link) -> Result<u64, Trouble> {
    count_for_a_page(link, None, StateName::Queued).await
}

/// Each state is a count of its own, so that what has ended costs nothing. In this order: a job whose time comes meanwhile
/// is better counted twice than not at all.
pub(super) async fn count_waiting(link: &Link, account: &AccountId) -> Result<u64, Trouble> {
    let count = async {
        let mut waiting = 0;
        for state in [StateName::Scheduled, StateName::Queued] {
            let command = count_command(Some(account), state);
            waiting += count(link, &command).await?;
        }
        Ok(waiting)
    };
    let counted = tokio::time::timeout(COUNT_WITHIN, count).await;
    counted.unwrap_or(Err(Trouble::Silent))
}

async fn count_for_a_page(
    link: &Link,
    account: Option<&AccountId>,
    state: StateName,
) -> Result<u64, Trouble> {
    let mut command = count_command(account, state);
    command.insert("limit", COUNT_MAX);
    in_time(count(link, &command)).await
}

/// Without a time of the server's own: there are servers that read every row then, where the index would do.
fn count_command(account: Option<&AccountId>, state: StateName) -> Document {
    let mut query = doc! { "state": state.as_str() };
    if let Some(account) = account {
        query.insert("account", account.as_str());
    }
    doc! { "count": schema::JOBS, "query": query, "readConcern": { "level": "majority" } }
}

async fn count(link: &Link, command: &Document) -> Result<u64, Trouble> {
    let answer = link.run(command).await?;
    let count = whole_number(&answer, "n").ok_or_else(|| Trouble::unreadable("the answer to a count"))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn sweep(link: &Link, question: Question, limit: usize) -> Result<Vec<Job>, Trouble> {
    let question = question.only(job_fields()).at_most(limit.min(SWEEP_MAX));
    link.ask_readable(question, job_of).await
}

fn beyond(after: Option<JobId>) -> Document {
    match after {
        Some(id) => doc! { "_id": { "$gt": id.to_string() } },
        None => Document::new(),
    }
}

fn texts(sessions: &[SessionId]) -> Vec<String> {
    sessions.iter().map(ToString::to_string).collect()
}
