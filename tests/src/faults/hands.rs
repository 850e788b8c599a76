//! The client's hands: submits jobs, from several places at once, while everything else is being broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use common::api_types::{AccountView, CreateAccount, CreateUser, JobView, SubmitJob, UserView, paths};
use common::identity::Role;
use common::ids::{AccountId, JobId};
use common::time::{Clock, SystemClock};
use futures_util::future::try_join_all;

use crate::chaos::Chaos;
use crate::client::{Client, brief};
use crate::history::{Answer, Event, Key, Recorder, Request};
use crate::marked::{self, patient};
use crate::sim;
use crate::wait::wait_for;

/// At a time.
const LANES: usize = 4;
/// Between two jobs of one lane, at most: so they keep coming while the fault lasts.
const PAUSE_MOST: Duration = Duration::from_millis(150);
/// A job in a container takes up to so many fifths of a second.
const FIFTHS_MOST: u64 = 14;
/// For the end of one job, after a fault; generous, the law is stricter.
const ENDED_WITHIN: Duration = Duration::from_secs(90);
/// An account and a user of it.
const CROWD: &str = "crowd";
/// Of one call, as the API takes it.
const BULK: usize = 500;

#[derive(Debug, Clone)]
pub struct Hands {
    pub client: Client,
    pub recorder: Recorder,
    mark: String,
    /// The jobs whose processes are watched.
    jobs: Arc<Mutex<BTreeMap<Key, JobId>>>,
    /// One look at the rows at a time: of two, the older could be noted last.
    looks: Arc<tokio::sync::Mutex<()>>,
    slowest_canary: Arc<Mutex<Duration>>,
    /// Which rows belong to the history, where there are others.
    which: &'static str,
}

impl Hands {
    pub fn new(client: Client, recorder: Recorder, mark: String) -> Self {
        Self {
            client,
            recorder,
            mark,
            jobs: Arc::default(),
            looks: Arc::default(),
            slowest_canary: Arc::default(),
            which: "",
        }
    }

    /// Where a crowd waits beside them, only the watched jobs are read.
    pub fn beside_a_crowd(self) -> Self {
        Self {
            which: marked::WATCHED,
            ..self
        }
    }

    /// A crowd of another account's jobs, which nobody watches, in calls of many.
    ///
    /// # Errors
    /// When the account cannot be made, or a call is refused.
    pub async fn crowd(&self, count: usize) -> Result<AccountId> {
        let account = AccountId::new(CROWD)?;
        let password = format!("crowd-{:016x}", rand::random::<u64>());
        let new = CreateAccount {
            id: account.clone(),
            name: CROWD.to_owned(),
            plan: None,
        };
        let _: AccountView = self.client.post(paths::ACCOUNTS, &new).await?;
        let user = CreateUser {
            username: CROWD.to_owned(),
            password: password.clone(),
            role: Role::User,
            account: account.clone(),
        };
        let _: UserView = self.client.post(paths::USERS, &user).await?;
        let client = Client::new(&self.client.base())?
            .sign_in(CROWD, &password)
            .await?;
        let mut left = count;
        while left > 0 {
            let part = left.min(BULK);
            client.submit_all(vec![sim::job(); part]).await?;
            left -= part;
        }
        Ok(account)
    }

    /// So many of each, in a steady stream and in an order by lot.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn stream(&self, name: &str, simulated: usize, real: usize, seed: u64) -> Result<()> {
        let lanes = (0..LANES).map(|lane| async move {
            let mut chaos = Chaos::of(seed ^ (lane as u64) << 32);
            let of_lane = |all: usize| all / LANES + usize::from(lane < all % LANES);
            let (mut simulated, mut real) = (of_lane(simulated), of_lane(real));
            while simulated + real > 0 {
                let place = simulated + real;
                if (chaos.number(place as u64 - 1) as usize) < real {
                    let fifths = 1 + u32::try_from(chaos.number(FIFTHS_MOST)).unwrap_or(0);
                    self.real(&format!("{name}-real-{lane}-{place}"), fifths).await?;
                    real -= 1;
                } else {
                    self.simulated(&format!("{name}-{lane}-{place}")).await?;
                    simulated -= 1;
                }
                chaos.some_time(Duration::ZERO, PAUSE_MOST).await;
            }
            anyhow::Ok(())
        });
        try_join_all(lanes).await?;
        Ok(())
    }

    /// # Errors
    /// When it is not acknowledged.
    pub async fn simulated(&self, key: &str) -> Result<JobId> {
        self.submit(key, &patient(sim::job())).await
    }

    /// A job in a container whose life is watched.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn real(&self, key: &str, fifths: u32) -> Result<JobId> {
        let id = self.submit(key, &marked::job(&self.mark, key, fifths)).await?;
        self.watched().insert(key.to_owned(), id);
        Ok(id)
    }

    /// # Errors
    /// When it is not acknowledged.
    pub async fn submit(&self, key: &str, job: &SubmitJob) -> Result<JobId> {
        self.recorder
            .submit(&self.client, key, job)
            .await
            .with_context(|| format!("`{key}` was not acknowledged"))
    }

    /// Many in one call, or a few calls.
    ///
    /// # Errors
    /// When a call is refused or not answered.
    pub async fn bulk(&self, name: &str, count: usize) -> Result<Vec<JobId>> {
        let mut all = Vec::with_capacity(count);
        let keys: Vec<Key> = (0..count).map(|number| format!("{name}-{number}")).collect();
        for keys in keys.chunks(BULK) {
            let named = |key: &Key| SubmitJob {
                name: Some(key.clone()),
                ..patient(sim::job())
            };
            // beyond every number of the recorder's own
            let call = |place: usize| (1 << 60) + (u64::from(rand::random::<u32>()) << 16) + place as u64;
            let calls: Vec<u64> = (0..keys.len()).map(call).collect();
            for (key, call) in keys.iter().zip(&calls) {
                let request = Request::Submit { key: key.clone() };
                self.recorder.note(Event::Asked { call: *call, request });
            }
            let ids = self.client.submit_all(keys.iter().map(named).collect()).await?;
            for (id, call) in ids.into_iter().zip(calls) {
                all.push(id);
                let answer = Answer::Ok { job: id };
                self.recorder.note(Event::Answered { call, answer });
            }
        }
        Ok(all)
    }

    /// A new job goes through, whatever happened before.
    ///
    /// # Errors
    /// When it does not.
    pub async fn canary(&self, name: &str, real: bool) -> Result<()> {
        let begun = SystemClock.mono();
        let key = format!("canary-{name}");
        let id = if real {
            self.real(&key, 1).await?
        } else {
            self.simulated(&key).await?
        };
        let ended = self.client.ended(id, ENDED_WITHIN).await?;
        // A reading like any other: one of all rows takes many calls, and may not get to its end between two faults. It
        // has ended, so a look under way that is noted before cannot know more.
        let looks = self.looks.lock().await;
        self.recorder.note_rows(std::slice::from_ref(&ended));
        drop(looks);
        if ended
            .outcome
            .as_ref()
            .is_none_or(|outcome| outcome.kind != "exited")
        {
            bail!("the canary {}", brief(&ended));
        }
        let took = SystemClock.mono().since(begun);
        let mut slowest = self.slowest_canary.lock().unwrap_or_else(PoisonError::into_inner);
        *slowest = took.max(*slowest);
        Ok(())
    }

    pub fn slowest_canary(&self) -> Duration {
        *self.slowest_canary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads every row into the history.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn look(&self) -> Result<Vec<JobView>> {
        let _one = self.looks.lock().await;
        self.recorder.read_rows_of(&self.client, self.which).await
    }

    /// Waits until every job has ended.
    ///
    /// # Errors
    /// Which have not.
    pub async fn all_ended(&self, within: Duration) -> Result<Vec<JobView>> {
        wait_for(within, "every job to end", async || {
            let jobs = self.look().await.map_err(|error| format!("{error:#}"))?;
            let left: Vec<String> = jobs
                .iter()
                .filter(|job| !job.state.is_terminal())
                .map(brief)
                .collect();
            match left.len() {
                0 => Ok(jobs),
                count => Err(format!("{count} have not: {}", left[..count.min(10)].join("; "))),
            }
        })
        .await
    }

    /// The names and ids of the jobs whose processes are watched.
    pub fn marked(&self) -> Vec<(Key, JobId)> {
        let jobs = self.watched();
        jobs.iter().map(|(key, id)| (key.clone(), *id)).collect()
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, JobId>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
