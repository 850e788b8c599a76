//! Those who submit and cancel, through the same service as the API, and who remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::ids::{JobId, UserId};
use common::job::{CancelRequest, CancelledBy, Job, JobSpec, Limits, StateName};
use common::lifecycle::{JobEvent, Refusal, testing};
use common::retry::RetryPolicy;
use common::service::{Applied, Jobs};
use common::store::{Fingerprint, IdempotencyKey, Inserted, NewJob};

use super::dice::Dice;
use super::engine::Script;
use super::history::History;
use super::store::held;

/// How often a client tries one thing.
const TRIES: u32 = 6;

pub struct Clients {
    jobs: Jobs,
    dice: Arc<Dice>,
    history: Arc<History>,
    told: Mutex<Told>,
}

/// What clients know.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Acknowledged, by their key.
    pub stored: BTreeMap<String, JobId>,
    /// Every key that was ever used.
    pub keys: BTreeSet<String>,
    /// Every id that was ever sent, with its key.
    pub sent: BTreeMap<JobId, String>,
    pub cancelled: BTreeSet<JobId>,
    /// "It had ended", and how.
    pub too_late: BTreeMap<JobId, StateName>,
}

impl Clients {
    pub fn new(jobs: Jobs, dice: Arc<Dice>, history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            jobs,
            dice,
            history,
            told: Mutex::default(),
        })
    }

    pub fn told(&self) -> Told {
        held(&self.told).clone()
    }

    /// One client with one job: submits, perhaps twice at a time, and perhaps cancels.
    pub async fn one(self: Arc<Self>, number: u32, within: Duration) {
        let most = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(self.dice.millis(0, most)).await;
        let key = format!("key-{number}");
        let spec = self.spec();
        let stored = if self.dice.chance(0.1) {
            let (one, two) = tokio::join!(self.submit(&key, &spec), self.submit(&key, &spec));
            one.or(two)
        } else {
            self.submit(&key, &spec).await
        };
        let Some(job) = stored else { return };
        if self.dice.chance(0.25) {
            tokio::time::sleep(self.dice.millis(0, 6_000)).await;
            self.cancel(job).await;
        }
    }

    /// Submits until it is acknowledged, always under the same key; none: given up, and nothing is known.
    pub async fn submit(&self, key: &str, spec: &JobSpec) -> Option<JobId> {
        held(&self.told).keys.insert(key.to_owned());
        for _ in 0..TRIES {
            let now = self.jobs.now();
            let user = UserId::new("alice").expect("a good name");
            let account = testing::account(["acme", "globex"][key.len() % 2]);
            let job = Job::submitted(JobId::generate(now), account, user, spec.clone(), now);
            let id = job.id;
            held(&self.told).sent.insert(id, key.to_owned());
            let name = (IdempotencyKey(key.to_owned()), Fingerprint("one".to_owned()));
            let new = NewJob { job, key: Some(name) };
            match self.jobs.submit(vec![new]).await.as_deref() {
                Ok([Inserted::Stored]) => return Some(self.acknowledged(key, id)),
                Ok([Inserted::Repeated(first)]) => return Some(self.acknowledged(key, first.id)),
                Ok(other) => self.history.violated(format!("I2: {key} was answered {other:?}")),
                Err(error) => self.history.note(format_args!("CLIENT {key} {id}: {error}")),
            }
            tokio::time::sleep(self.dice.millis(50, 800)).await;
        }
        None
    }

    fn acknowledged(&self, key: &str, id: JobId) -> JobId {
        self.history.note(format_args!("CLIENT {key} is {id}"));
        self.history.count("submitted");
        if let Some(other) = held(&self.told).stored.insert(key.to_owned(), id)
            && other != id
        {
            self.history
                .violated(format!("I2: {key} is both {other} and {id}"));
        }
        id
    }

    async fn cancel(&self, job: JobId) {
        let by = CancelledBy::User(UserId::new("alice").expect("a good name"));
        for _ in 0..TRIES {
            let at = self.jobs.now();
            let event = if self.dice.chance(0.2) {
                JobEvent::Deleted { by: by.clone() }
            } else {
                let by = by.clone();
                JobEvent::CancelAsked(CancelRequest { by, why: None, at })
            };
            let answer = self.jobs.apply(job, event).await;
            self.history
                .note(format_args!("CLIENT cancels {job}: {}", words(&answer)));
            match answer {
                Ok(Applied::Done(row)) if row.cancel.is_some() => {
                    self.history.count("cancelled");
                    held(&self.told).cancelled.insert(job);
                    return;
                }
                // Deleted after its end.
                Ok(Applied::Done(_)) => return,
                Ok(Applied::Refused(Refusal::Unchanged, _)) => {
                    return;
                }
                Ok(Applied::Refused(Refusal::Ended(name), _)) => {
                    held(&self.told).too_late.insert(job, name);
                    return;
                }
                Ok(other) => {
                    self.history
                        .violated(format!("I8: cancelling {job} was answered {other:?}"));
                    return;
                }
                Err(_) => tokio::time::sleep(self.dice.millis(50, 500)).await,
            }
        }
    }

    fn spec(&self) -> JobSpec {
        let dice = &self.dice;
        let script = Script {
            runs_for: if dice.chance(0.2) {
                dice.millis(0, 20)
            } else {
                dice.millis(50, 4_000)
            },
            chunks: dice.number(0, 12),
            code: i32::from(dice.chance(0.15)),
            fails_first: if dice.chance(0.2) { 1 } else { 0 },
            dies_in: dice.millis(0, 900),
        };
        let retries = u32::try_from(dice.number(0, 2)).unwrap_or(0);
        JobSpec {
            command: script.command(),
            limits: Limits {
                queue: dice.chance(0.1).then(|| dice.millis(1_000, 8_000)),
                run: if dice.chance(0.1) {
                    dice.millis(500, 2_000)
                } else {
                    Duration::from_secs(600)
                },
                ..Limits::default()
            },
            retry: RetryPolicy {
                backoff: dice.millis(50, 500),
                ..RetryPolicy::times(retries)
            },
            not_before: dice
                .chance(0.1)
                .then(|| self.jobs.now().after(dice.millis(0, 4_000))),
            ..testing::spec()
        }
    }

    /// A job that has nothing special about it.
    pub fn plain() -> JobSpec {
        let script = Script {
            runs_for: Duration::from_millis(100),
            chunks: 2,
            code: 0,
            fails_first: 0,
            dies_in: Duration::ZERO,
        };
        JobSpec {
            command: script.command(),
            ..testing::spec()
        }
    }
}

fn words(answer: &Result<Applied, common::store::StoreError>) -> String {
    match answer {
        Ok(Applied::Done(job)) => format!("done, {}", job.state.name()),
        Ok(Applied::Refused(refusal, _)) => format!("refused, {refusal}"),
        Ok(Applied::Unknown) => "unknown".to_owned(),
        Err(error) => error.to_string(),
    }
}
