//! Questions about jobs. Each names the index that answers it, so that no server chooses a worse one.

use common::ids::{AccountId, JobId, SessionId};
use common::job::{Job, StateName};
use common::store::{Due, Held, JobCursor, JobQuery, Page};
use common::time::Timestamp;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};

use super::super::link::{Link, Question, in_time, whole_number};
use super::super::schema;
use super::super::trouble::Trouble;
use super::row::{job_of, mark, state_names};

/// Longest page of a list.
const PAGE_MAX: usize = 1_000;
/// Most rows of one sweep's answer.
const SWEEP_MAX: usize = 100_000;
/// Ids in one question.
const IDS_MAX: usize = 1_000;
/// Where counting ends: a page that shows a number this large needs no larger one, and counting reads every key.
const COUNT_MAX: i64 = 1_000_000;

pub(super) async fn get(link: &Link, id: JobId) -> Result<Option<Job>, Trouble> {
    let question = Question::new(schema::JOBS, doc! { "_id": id.to_string() }).only(body());
    link.ask_one(question, job_of).await
}

pub(super) async fn get_many(link: &Link, ids: &[JobId]) -> Result<Vec<Job>, Trouble> {
    let mut jobs = Vec::with_capacity(ids.len());
    for part in ids.chunks(IDS_MAX) {
        let ids: Vec<String> = part.iter().map(ToString::to_string).collect();
        let question = Question::new(schema::JOBS, doc! { "_id": { "$in": ids } }).only(body());
        jobs.extend(link.ask(question, |row| job_of(row).map(Some)).await?);
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
            .only(body())
            .at_most(limit + 1);
        link.ask(question, |row| job_of(row).map(Some))
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
    let index = match &query.account {
        Some(account) => {
            filter.insert("account", account.as_str());
            schema::JOBS_BY_ACCOUNT_STATE
        }
        None => schema::JOBS_BY_STATE,
    };
    Question::new(schema::JOBS, filter).by(index)
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
        return Question::new(schema::JOBS, filter).by(schema::JOBS_BY_LABEL);
    }
    match &query.account {
        Some(account) => {
            filter.insert("account", account.as_str());
            Question::new(schema::JOBS, filter).by(schema::JOBS_BY_ACCOUNT)
        }
        // Administrators alone; hidden jobs are passed over one by one.
        None => Question::new(schema::JOBS, filter).by(schema::BY_ID),
    }
}

fn before(query: &JobQuery) -> Document {
    match query.before {
        Some(JobCursor(id)) => doc! { "_id": { "$lt": id.to_string() } },
        None => Document::new(),
    }
}

pub(super) async fn queued(link: &Link, after: Option<JobId>, limit: usize) -> Result<Vec<Job>, Trouble> {
    let mut filter = doc! { "state": StateName::Queued.as_str() };
    filter.extend(beyond(after));
    sweep(
        link,
        Question::new(schema::JOBS, filter)
            .by(schema::JOBS_BY_STATE)
            .sorted(doc! { "_id": 1 }),
        limit,
    )
    .await
}

pub(super) async fn due(link: &Link, due: Due, now: Timestamp, limit: usize) -> Result<Vec<Job>, Trouble> {
    let state = match due {
        Due::Start => StateName::Scheduled,
        Due::QueueDeadline => StateName::Queued,
    };
    let filter = doc! { "state": state.as_str(), "due": { "$exists": true, "$lte": now.as_millis() } };
    sweep(
        link,
        Question::new(schema::JOBS, filter)
            .by(schema::JOBS_DUE)
            .sorted(doc! { "due": 1 }),
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
    let index = match held {
        Held::Any => {
            filter.insert("session", doc! { "$exists": true });
            schema::JOBS_HELD
        }
        Held::BeforeTerm(term) => {
            filter.insert("session", doc! { "$exists": true });
            filter.insert("epoch", doc! { "$lt": term.0.cast_signed() });
            schema::JOBS_HELD
        }
        Held::Sessions(sessions) => {
            filter.insert("session", doc! { "$exists": true, "$in": texts(sessions) });
            schema::JOBS_HELD
        }
        Held::Undelivered(sessions) => {
            filter.insert("undelivered", true);
            filter.insert("session", doc! { "$in": texts(sessions) });
            schema::JOBS_UNDELIVERED
        }
    };
    sweep(
        link,
        Question::new(schema::JOBS, filter)
            .by(index)
            .sorted(doc! { "_id": 1 }),
        limit,
    )
    .await
}

pub(super) async fn count_by_state(
    link: &Link,
    account: Option<&AccountId>,
) -> Result<Vec<(StateName, u64)>, Trouble> {
    let counts = StateName::ALL.into_iter().map(|state| async move {
        let (query, index) = match account {
            Some(account) => (
                doc! { "account": account.as_str(), "state": state.as_str() },
                schema::JOBS_BY_ACCOUNT_STATE,
            ),
            None => (doc! { "state": state.as_str() }, schema::JOBS_BY_STATE),
        };
        let command = doc! {
            "count": schema::JOBS, "query": query, "hint": index, "limit": COUNT_MAX,
            "readConcern": { "level": "majority" },
        };
        let answer = in_time(link.run(&command)).await?;
        let count = whole_number(&answer, "n").ok_or_else(|| Trouble::unreadable("the answer to a count"))?;
        Ok((state, u64::try_from(count).unwrap_or(0)))
    });
    try_join_all(counts).await
}

async fn sweep(link: &Link, question: Question, limit: usize) -> Result<Vec<Job>, Trouble> {
    let question = question.only(body()).at_most(limit.min(SWEEP_MAX));
    link.ask(question, |row| job_of(row).map(Some)).await
}

fn body() -> Document {
    doc! { "_id": 0, "job": 1 }
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
