//! New jobs: one `insert` command for a group.
//!
//! The idempotency key is a field of the job itself under a unique index, so key and job are stored in one act. It ends
//! with a generation: a key is free again after a day, and its next use is the next generation, so nothing is ever
//! taken back from a job. A refused insert is looked up and told apart: the same write again, the same request again,
//! another request under a used key, or a key that is free again. Sent twice, an insert is the same insert.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::ids::{AccountId, UserId};
use common::job::Job;
use common::store::{Fingerprint, IdempotencyKey, Inserted, NewJob};
use common::time::SharedClock;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use mongodb::bson::{Document, RawDocument, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, in_time};
use super::super::schema;
use super::super::trouble::Trouble;
use super::row::{Fields, job_of, new_document};

/// How long a client's own name for a submission is remembered.
const KEYS_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// The first round stores or meets a rival, the second stores the next generation or meets its rival; more are needed
/// only where keys become free at this very moment.
const ROUNDS_MAX: usize = 6;
/// Keys that are looked up at the same time.
const LOOKS_TOGETHER: usize = 8;

pub(in super::super) struct NewRow {
    id: String,
    document: Document,
    key: Option<Key>,
    bytes: usize,
}

struct Key {
    /// Account, submitter and the client's own name.
    base: String,
    fingerprint: String,
}

impl NewRow {
    pub(super) fn of(new: &NewJob, now: i64) -> Result<Self, Trouble> {
        let fields = Fields::of(&new.job)?;
        let bytes = fields.bytes;
        let mut document = new_document(&new.job, fields);
        let key = new.key.as_ref().map(|(key, fingerprint)| Key {
            base: own(&new.job.account, &new.job.submitted_by, &key.0),
            fingerprint: fingerprint.0.clone(),
        });
        if let Some(key) = &key {
            document
                .extend(doc! { "key": place(&key.base, 0), "fingerprint": &key.fingerprint, "key_at": now });
        }
        Ok(Self {
            id: new.job.id.to_string(),
            document,
            key,
            bytes,
        })
    }

    /// The key goes on where another job's use of it has ended.
    fn move_to(&mut self, generation: u32) {
        if let Some(key) = &self.key {
            self.document.insert("key", place(&key.base, generation));
        }
    }
}

/// A key is its account's and submitter's own. Neither of their names can hold a slash.
fn own(account: &AccountId, submitter: &UserId, key: &str) -> String {
    format!("{account}/{submitter}/{key}")
}

/// Every use of a key, in the index.
fn uses(base: &str) -> Document {
    doc! { "$gte": format!("{base}{SEPARATOR}"), "$lt": format!("{base}{PAST_SEPARATOR}") }
}

/// Fingerprints of the requests that a submitter's keys stand for.
pub(super) async fn stored_under(
    link: &Link,
    (account, submitter): (&AccountId, &UserId),
    keys: &[IdempotencyKey],
    now: i64,
) -> Result<Vec<Fingerprint>, Trouble> {
    let forgotten = now.saturating_sub(millis(KEYS_KEPT));
    let look = |key: &IdempotencyKey| {
        let question = Question::new(
            schema::JOBS,
            doc! { "key": uses(&own(account, submitter, &key.0)) },
        )
        .sorted(doc! { "key": -1 })
        .only(doc! { "fingerprint": 1, "key_at": 1 });
        let decode = |row: &RawDocument| Ok((row.get_i64("key_at")?, row.get_str("fingerprint")?.to_owned()));
        link.ask_one(question, decode).boxed()
    };
    let looks: Vec<BoxFuture<'_, _>> = keys.iter().map(look).collect();
    let looks = stream::iter(looks).buffered(LOOKS_TOGETHER).collect::<Vec<_>>();
    let mut found = Vec::new();
    for last in looks.await {
        let live = last?.filter(|(key_at, _)| *key_at > forgotten);
        found.extend(live.map(|(_, fingerprint)| Fingerprint(fingerprint)));
    }
    Ok(found)
}

/// A key's place in the index. Keys are printable, so no other one sorts between its generations.
fn place(base: &str, generation: u32) -> String {
    format!("{base}{SEPARATOR}{generation:08x}")
}

const SEPARATOR: char = '\u{1f}';
/// The character after it: the end of a key's generations.
const PAST_SEPARATOR: char = ' ';

impl Weighed for NewRow {
    fn bytes(&self) -> usize {
        // Fields beside the body; labels and keys are bounded by the rules of a submission.
        self.bytes + 2_048
    }
}

pub(in super::super) struct Inserter {
    pub(in super::super) link: Arc<Link>,
    pub(in super::super) clock: SharedClock,
}

impl Work for Inserter {
    type Item = NewRow;
    type Answer = Inserted;

    async fn run(&mut self, mut group: Vec<NewRow>) -> Answers<Inserted> {
        let mut answers: Settled = group.iter().map(|_| None).collect();
        let outcome = in_time(self.insert(&mut group, &mut answers)).await;
        let unknown = outcome.err().unwrap_or(Trouble::Contended);
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(unknown.clone())))
            .collect())
    }
}

type Settled = Vec<Option<Result<Inserted, Trouble>>>;

/// The job that used a key last.
struct Rival {
    id: String,
    generation: u32,
    fingerprint: String,
    key_at: i64,
    job: Job,
}

impl Rival {
    fn of(document: &RawDocument) -> Result<Self, Trouble> {
        let (_, generation) = document
            .get_str("key")?
            .rsplit_once(SEPARATOR)
            .ok_or_else(|| Trouble::unreadable("a job's key"))?;
        Ok(Self {
            id: document.get_str("_id")?.to_owned(),
            generation: u32::from_str_radix(generation, 16)
                .map_err(|_| Trouble::unreadable("a job's key"))?,
            fingerprint: document.get_str("fingerprint")?.to_owned(),
            key_at: document.get_i64("key_at")?,
            job: job_of(document)?,
        })
    }
}

/// What is to be done about an insert that was refused, or would be.
enum Verdict {
    Answer(Inserted),
    /// The key's day is over: it goes on in this generation.
    MoveTo(u32),
    Again,
}

impl Inserter {
    /// Settles what it can; an error leaves the rest unknown.
    async fn insert(&self, group: &mut [NewRow], answers: &mut Settled) -> Result<(), Trouble> {
        for _ in 0..ROUNDS_MAX {
            let round = one_of_each(group, answers);
            if round.is_empty() {
                break;
            }
            let documents: Vec<Document> = round.iter().map(|at| group[*at].document.clone()).collect();
            let command = doc! { "insert": schema::JOBS, "documents": documents, "ordered": false };
            let written = self.link.write(command).await?;
            let errors: HashMap<usize, _> = written.errors.iter().map(|error| (error.index, error)).collect();
            let mut refused = false;
            for (place, at) in round.iter().enumerate() {
                match errors.get(&place) {
                    None => answers[*at] = Some(Ok(Inserted::Stored)),
                    Some(error) if error.is_duplicate() => refused = true,
                    Some(error) => answers[*at] = Some(Err(error.trouble())),
                }
            }
            if refused || answers.iter().any(Option::is_none) {
                self.settle(group, answers).await?;
            }
        }
        Ok(())
    }

    /// Looks up what stands in the way of those without an answer.
    async fn settle(&self, group: &mut [NewRow], answers: &mut Settled) -> Result<(), Trouble> {
        let open: Vec<usize> = (0..group.len()).filter(|at| answers[*at].is_none()).collect();
        let ids: Vec<&str> = open.iter().map(|at| group[*at].id.as_str()).collect();
        let there = Question::new(schema::JOBS, doc! { "_id": { "$in": ids } }).only(doc! { "_id": 1 });
        let keys: HashSet<&str> = open
            .iter()
            .filter_map(|at| group[*at].key.as_ref())
            .map(|key| key.base.as_str())
            .collect();
        let looks: Vec<BoxFuture<'_, _>> = keys.into_iter().map(|key| self.rival(key).boxed()).collect();
        let rivals = stream::iter(looks).buffered(LOOKS_TOGETHER).collect::<Vec<_>>();
        let (there, rivals) = tokio::join!(
            self.link
                .ask(there, |row| Ok(Some(row.get_str("_id")?.to_owned()))),
            rivals
        );
        let there: HashSet<String> = there?.into_iter().collect();
        let mut by_key: HashMap<String, Rival> = HashMap::new();
        for rival in rivals {
            by_key.extend(rival?);
        }
        let forgotten = self.clock.now().as_millis().saturating_sub(millis(KEYS_KEPT));
        for at in open {
            let row = &mut group[at];
            let rival = row.key.as_ref().and_then(|key| by_key.get(&key.base));
            match verdict(row, there.contains(&row.id), rival, forgotten) {
                Verdict::Answer(answer) => answers[at] = Some(Ok(answer)),
                Verdict::MoveTo(generation) => row.move_to(generation),
                Verdict::Again => {}
            }
        }
        Ok(())
    }

    async fn rival(&self, key: &str) -> Result<Option<(String, Rival)>, Trouble> {
        let question = Question::new(schema::JOBS, doc! { "key": uses(key) }).sorted(doc! { "key": -1 });
        let last = self.link.ask_one(question, Rival::of).await?;
        Ok(last.map(|rival| (key.to_owned(), rival)))
    }
}

fn verdict(row: &NewRow, is_there: bool, rival: Option<&Rival>, forgotten: i64) -> Verdict {
    let live = rival.filter(|rival| rival.key_at > forgotten);
    if let (Some(rival), Some(key)) = (live, &row.key) {
        return Verdict::Answer(if rival.fingerprint != key.fingerprint {
            Inserted::KeyReused
        } else if rival.id == row.id {
            Inserted::Stored
        } else {
            Inserted::Repeated(Box::new(rival.job.clone()))
        });
    }
    match rival {
        _ if is_there => Verdict::Answer(Inserted::Stored),
        Some(ended) => Verdict::MoveTo(ended.generation.saturating_add(1)),
        None => Verdict::Again,
    }
}

/// Those still without an answer, but of each key and each id only the first: within one group, too, the first one
/// stands.
fn one_of_each(group: &[NewRow], answers: &Settled) -> Vec<usize> {
    let (mut keys, mut ids) = (HashSet::new(), HashSet::new());
    (0..group.len())
        .filter(|at| answers[*at].is_none())
        .filter(|at| {
            let row = &group[*at];
            let new_key = row.key.as_ref().is_none_or(|key| keys.insert(key.base.as_str()));
            ids.insert(row.id.as_str()) && new_key
        })
        .collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
