//! Storing chunks: several of an attempt in one ordered `insert` command, single ones of many attempts in one together.
//!
//! Within an attempt a chunk is stored at the position after the last; two appenders that meet find the position taken,
//! and whoever loses looks at the last chunk again and goes on from there. `ordered` ends a command at the first
//! refusal, so no chunk ever stands on one that is not there. Sent twice, a chunk meets itself and is a repeat.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::ids::AttemptId;
use common::log::{LogChunk, Stream};
use common::store::Appended;
use common::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::{self, StreamExt};
use mongodb::bson::{Document, doc};

use super::super::lane::{Answers, Weighed, Work};
use super::super::link::{Link, Question, Written, in_time};
use super::super::schema;
use super::super::trouble::Trouble;
use super::chunk::{Head, places};

/// Attempts whose last chunk is remembered: more than a fleet has running. Past it all are forgotten, which costs a
/// read each.
const HEADS_MAX: usize = 20_000;
/// Rounds of one group. Two gateways write one attempt only around a reconnect, so losing twice is rare.
const ROUNDS_MAX: usize = 8;
/// Commands under way for one group.
const COMMANDS_MAX: usize = 8;

/// Where the logs go on that this process wrote last.
#[derive(Default)]
pub(super) struct Heads(Mutex<HashMap<AttemptId, Head>>);

impl Heads {
    fn get(&self, attempt: AttemptId) -> Option<Head> {
        self.held().get(&attempt).copied()
    }

    fn put(&self, attempt: AttemptId, head: Head) {
        let mut heads = self.held();
        if heads.len() >= HEADS_MAX {
            heads.clear();
        }
        heads.insert(attempt, head);
    }

    pub(super) fn forget(&self, attempt: AttemptId) {
        self.held().remove(&attempt);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<AttemptId, Head>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct New {
    pub(super) chunk: LogChunk,
    pub(super) now: Timestamp,
    /// Lives as long as the bytes do.
    pub(super) _share: Arc<tokio::sync::OwnedSemaphorePermit>,
}

impl Weighed for New {
    fn bytes(&self) -> usize {
        // The fields beside the payload, and the state of both streams.
        self.chunk.bytes.len() + 512
    }
}

pub(super) struct Appender {
    pub(super) link: Arc<Link>,
    pub(super) heads: Arc<Heads>,
}

type Settled = Vec<Option<Result<Appended, Trouble>>>;

impl Work for Appender {
    type Item = New;
    type Answer = Appended;

    async fn run(&mut self, group: Vec<New>) -> Answers<Appended> {
        let mut answers: Settled = group.iter().map(|_| None).collect();
        let outcome = in_time(async {
            self.append(&group, &mut answers).await;
            Ok(())
        })
        .await;
        let unknown = outcome.err().unwrap_or(Trouble::Contended);
        for (new, answer) in group.iter().zip(&answers) {
            if !matches!(answer, Some(Ok(_))) {
                self.heads.forget(new.chunk.attempt);
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| Err(unknown.clone())))
            .collect())
    }
}

/// What is to be stored of one attempt in one round.
struct Plan {
    attempt: AttemptId,
    /// The chunk of the group that each document is of.
    places: Vec<usize>,
    documents: Vec<Document>,
    /// The head after each document.
    heads: Vec<Head>,
}

impl Appender {
    /// Settles what it can; what has no answer at the end is unknown.
    async fn append(&self, group: &[New], answers: &mut Settled) {
        for _ in 0..ROUNDS_MAX {
            let mut open: BTreeMap<AttemptId, Vec<usize>> = BTreeMap::new();
            for (at, new) in group.iter().enumerate() {
                if answers[at].is_none() {
                    open.entry(new.chunk.attempt).or_default().push(at);
                }
            }
            if open.is_empty() {
                return;
            }
            // Boxed by hand: the compiler does not see that a stream of borrowing futures may move between threads.
            let plans: Vec<BoxFuture<'_, _>> = open
                .into_iter()
                .map(|(attempt, places)| self.plan(group, attempt, places).boxed())
                .collect();
            let planned: Vec<Result<Planned, (Vec<usize>, Trouble)>> =
                stream::iter(plans).buffered(COMMANDS_MAX).collect().await;
            let (mut singles, mut several) = (Vec::new(), Vec::new());
            for plan in planned {
                match plan {
                    Ok(Planned { repeats, plan }) => {
                        for at in repeats {
                            answers[at] = Some(Ok(Appended::Repeat));
                        }
                        match plan.documents.len() {
                            0 => {}
                            1 => singles.push(plan),
                            _ => several.push(vec![plan]),
                        }
                    }
                    Err((places, trouble)) => {
                        for at in places {
                            answers[at] = Some(Err(trouble.clone()));
                        }
                    }
                }
            }
            if !singles.is_empty() {
                several.push(singles);
            }
            let commands: Vec<BoxFuture<'_, _>> =
                several.iter().map(|plans| self.store(plans).boxed()).collect();
            let outcomes: Vec<_> = stream::iter(commands).buffered(COMMANDS_MAX).collect().await;
            for (plans, outcome) in several.iter().zip(outcomes) {
                self.learn(plans, &outcome, answers);
            }
        }
    }

    /// Plans of one chunk each share a command, in which one's refusal does not stop the others; several chunks of one
    /// attempt are a command of their own, which ends at the first refusal.
    async fn store(&self, plans: &[Plan]) -> Result<Written, Trouble> {
        let ordered = plans.len() == 1;
        let documents: Vec<Document> = plans.iter().flat_map(|plan| plan.documents.clone()).collect();
        self.link
            .write(doc! { "insert": schema::LOGS, "documents": documents, "ordered": ordered })
            .await
    }

    fn learn(&self, plans: &[Plan], outcome: &Result<Written, Trouble>, answers: &mut Settled) {
        let mut first = 0;
        for plan in plans {
            let size = plan.documents.len();
            match outcome {
                Ok(written) => {
                    let refusal = written
                        .errors
                        .iter()
                        .find(|error| (first..first + size).contains(&error.index));
                    let stored = refusal.map_or(size, |error| error.index - first);
                    for at in &plan.places[..stored] {
                        answers[*at] = Some(Ok(Appended::Stored));
                    }
                    match refusal {
                        None => self.heads.put(plan.attempt, plan.heads[size - 1]),
                        Some(error) => {
                            self.heads.forget(plan.attempt);
                            if !error.is_duplicate() {
                                answers[plan.places[stored]] = Some(Err(error.trouble()));
                            }
                        }
                    }
                }
                Err(trouble) => {
                    for at in &plan.places {
                        answers[*at] = Some(Err(trouble.clone()));
                    }
                }
            }
            first += size;
        }
    }

    async fn plan(
        &self,
        group: &[New],
        attempt: AttemptId,
        places: Vec<usize>,
    ) -> Result<Planned, (Vec<usize>, Trouble)> {
        match self.try_plan(group, attempt, &places).await {
            Ok(planned) => Ok(planned),
            Err(trouble) => Err((places, trouble)),
        }
    }

    async fn try_plan(
        &self,
        group: &[New],
        attempt: AttemptId,
        places: &[usize],
    ) -> Result<Planned, Trouble> {
        let mut head = match self.heads.get(attempt) {
            Some(head) => head,
            None => head(&self.link, attempt).await?.unwrap_or(Head::EMPTY),
        };
        let mut stored = self.stored_beyond(group, attempt, places, &head).await?;
        let mut planned = Planned {
            repeats: Vec::new(),
            plan: Plan {
                attempt,
                places: Vec::new(),
                documents: Vec::new(),
                heads: Vec::new(),
            },
        };
        for at in places {
            let New { chunk, now, .. } = &group[*at];
            let seq = number(chunk)?;
            let beyond = &mut stored[chunk.stream.index()];
            if seq < head.streams[chunk.stream.index()].next_seq || beyond.contains(&seq) {
                planned.repeats.push(*at);
                continue;
            }
            let document = head.append(chunk, seq, *now, |seq| beyond.contains(&seq));
            beyond.insert(seq);
            planned.plan.places.push(*at);
            planned.plan.documents.push(document);
            planned.plan.heads.push(head);
        }
        // A repeat of what this very round stores is one only if that succeeds: it is judged in the next round.
        let plan = &planned.plan;
        planned
            .repeats
            .retain(|at| was_stored(&group[*at].chunk, plan, group));
        Ok(planned)
    }

    /// Of each stream that has holes, or into which a chunk of this group falls back: the numbers that are stored from
    /// its first hole on.
    async fn stored_beyond(
        &self,
        group: &[New],
        attempt: AttemptId,
        places: &[usize],
        head: &Head,
    ) -> Result<[BTreeSet<i64>; 2], Trouble> {
        let asked = Stream::ALL.map(|stream| {
            let known = &head.streams[stream.index()];
            let falls_back = places.iter().any(|at| {
                let chunk = &group[*at].chunk;
                chunk.stream == stream && number(chunk).is_ok_and(|seq| seq <= known.top_seq)
            });
            let wanted = falls_back && known.next_seq <= known.top_seq;
            async move {
                if wanted {
                    numbers_from(&self.link, attempt, stream, known.next_seq).await
                } else {
                    Ok(BTreeSet::new())
                }
            }
        });
        let [stdout, stderr]: [_; 2] = join_all(asked)
            .await
            .try_into()
            .map_err(|_| Trouble::unreadable("two streams"))?;
        Ok([stdout?, stderr?])
    }
}

struct Planned {
    /// Stored before this round.
    repeats: Vec<usize>,
    plan: Plan,
}

/// Whether a repeat is of a chunk that was stored before, and not only planned in this round.
fn was_stored(chunk: &LogChunk, plan: &Plan, group: &[New]) -> bool {
    !plan.places.iter().any(|at| {
        let planned = &group[*at].chunk;
        planned.stream == chunk.stream && planned.seq == chunk.seq
    })
}

fn number(chunk: &LogChunk) -> Result<i64, Trouble> {
    i64::try_from(chunk.seq).map_err(|_| Trouble::unreadable("a chunk's number past 2^63"))
}

/// The state of an attempt's log; none where nothing is stored.
pub(super) async fn head(link: &Link, attempt: AttemptId) -> Result<Option<Head>, Trouble> {
    let question = Question::new(schema::LOGS, doc! { "_id": places(attempt, 0) })
        .sorted(doc! { "_id": -1 })
        .only(doc! { "position": 1, "after": 1 });
    link.ask_one(question, Head::after).await
}

/// The numbers of a stream's stored chunks, `from` on.
pub(super) async fn numbers_from(
    link: &Link,
    attempt: AttemptId,
    stream: Stream,
    from: i64,
) -> Result<BTreeSet<i64>, Trouble> {
    let filter = doc! { "attempt": attempt.to_string(), "stream": stream.as_str(), "seq": { "$gte": from } };
    let question = Question::new(schema::LOGS, filter)
        .sorted(doc! { "seq": 1 })
        .only(doc! { "_id": 0, "seq": 1 });
    let numbers = link.ask(question, |row| Ok(Some(row.get_i64("seq")?))).await?;
    Ok(numbers.into_iter().collect())
}
