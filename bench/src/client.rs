//! An ordinary client of the API: one keep-alive connection pool, a bearer token, events where it waits.

use std::time::Duration;

use anyhow::Context;
use common::api_types::{
    AccountView, BulkAnswer, CancelRequestBody, CommandBody, CreateAccount, CreateUser, EndEvent, JobView,
    LoginAnswer, StateCounts, SubmitBulk, SubmitJob, UserView, WorkerList, event, paths,
};
use common::identity::Role;
use common::ids::{AccountId, JobId};
use common::job::StateName;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longer than any measured request.
const REQUEST_WITHIN: Duration = Duration::from_secs(600);
/// For a worker to appear after its start.
const WORKERS_WITHIN: Duration = Duration::from_secs(30);
/// Jobs a request: the most that one may carry.
pub const BULK_MAX: usize = 1_000;
/// Requests under way where many jobs are wanted soon: the database is never without one.
const FILLERS: usize = 4;
/// What the server asks for in `Retry-After`, and how often it may be short of breath in a row.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const TRIES: usize = 60;
const TELL_EVERY: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    pub base: String,
}

impl Client {
    /// As the first administrator; also answers the token, for the shell.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn sign_in(address: &str, password: &str) -> anyhow::Result<(Self, String)> {
        let base = if address.contains("://") {
            address.trim_end_matches('/').to_owned()
        } else {
            format!("http://{address}")
        };
        Self::sign_in_as(base, "admin", password).await
    }

    /// As a new user of a new account, both of this name; this client is an administrator's.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn sign_in_beside(&self, name: &str, password: &str, role: Role) -> anyhow::Result<Self> {
        let account = AccountId::new(name)?;
        let wanted = CreateAccount {
            id: account.clone(),
            name: name.to_owned(),
            plan: None,
        };
        let _: AccountView = self.post(paths::ACCOUNTS, &wanted).await?;
        let wanted = CreateUser {
            username: name.to_owned(),
            password: password.to_owned(),
            role,
            account,
        };
        let _: UserView = self.post(paths::USERS, &wanted).await?;
        Ok(Self::sign_in_as(self.base.clone(), name, password).await?.0)
    }

    async fn sign_in_as(base: String, user: &str, password: &str) -> anyhow::Result<(Self, String)> {
        let open = Self {
            http: reqwest::Client::builder().no_proxy().build()?,
            base: base.clone(),
        };
        let body = serde_json::json!({ "username": user, "password": password });
        let answer: LoginAnswer = open.post(paths::LOGIN, &body).await?;
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_str(&format!("Bearer {}", answer.token))?,
        );
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers)
            .timeout(REQUEST_WITHIN)
            .build()?;
        Ok((Self { http, base }, answer.token))
    }

    /// # Errors
    /// The server's refusal.
    pub async fn submit(&self, job: &SubmitJob) -> anyhow::Result<JobId> {
        let view: JobView = self.post(paths::JOBS, job).await?;
        Ok(view.id)
    }

    /// Submits a job and is answered with its end: one request.
    ///
    /// # Errors
    /// The server's refusal, or the job has not ended within what may be waited.
    pub async fn submit_to_end(&self, job: &SubmitJob) -> anyhow::Result<JobView> {
        let view: JobView = self.post(&format!("{}?wait=25", paths::JOBS), job).await?;
        anyhow::ensure!(view.state.is_terminal(), "{} has not ended within 25 s", view.id);
        Ok(view)
    }

    /// # Errors
    /// The server's refusal.
    pub async fn submit_many(&self, jobs: Vec<SubmitJob>) -> anyhow::Result<Vec<JobId>> {
        let answer: BulkAnswer = self.post(paths::JOBS_BULK, &SubmitBulk { jobs }).await?;
        Ok(answer.ids)
    }

    /// Submits so many jobs in requests of as many as one may carry.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn submit_count(&self, jobs: usize) -> anyhow::Result<()> {
        let mut left = jobs;
        while left > 0 {
            let count = left.min(BULK_MAX);
            self.submit_many(vec![job_of(&["true"]); count]).await?;
            left -= count;
        }
        Ok(())
    }

    /// As [`Client::submit_count`], several requests at a time, and tells now and then how far it is. What a server that
    /// is short of breath does not take is sent again, under a key, so that it is stored once.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn fill(&self, jobs: usize) -> anyhow::Result<()> {
        let watch = crate::stats::Stopwatch::start();
        // Of this call alone: a second one would be told of the first one's jobs.
        let filling = rand::random::<u32>();
        let parts = (0..jobs).step_by(BULK_MAX);
        let requests = parts.map(|from| async move {
            let count = BULK_MAX.min(jobs - from);
            self.submit_under(&format!("fill-{filling}-{from}"), count)
                .await?;
            anyhow::Ok(count)
        });
        let mut answers = stream::iter(requests).buffer_unordered(FILLERS);
        let (mut stored, mut told) = (0, Duration::ZERO);
        while let Some(count) = answers.try_next().await? {
            stored += count;
            if watch.read() >= told + TELL_EVERY {
                told = watch.read();
                eprintln!("{stored} of {jobs} jobs submitted after {} s", told.as_secs());
            }
        }
        Ok(())
    }

    async fn submit_under(&self, key: &str, jobs: usize) -> anyhow::Result<()> {
        let jobs = vec![job_of(&["true"]); jobs];
        let request = self
            .http
            .post(self.url(paths::JOBS_BULK))
            .header(paths::IDEMPOTENCY_KEY, key)
            .json(&SubmitBulk { jobs });
        for _ in 0..TRIES {
            let again = request.try_clone().context("a body that can be sent again")?;
            let response = again.send().await?;
            if response.status() != StatusCode::SERVICE_UNAVAILABLE {
                return accepted(response).await.map(drop);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        anyhow::bail!("{key} was not taken in {TRIES} tries")
    }

    /// # Errors
    /// The server's refusal.
    pub async fn counts(&self) -> anyhow::Result<StateCounts> {
        self.get(paths::JOBS_COUNTS).await
    }

    /// # Errors
    /// The server's refusal.
    pub async fn cancel(&self, job: JobId, body: &CancelRequestBody) -> anyhow::Result<()> {
        let _: JobView = self.post(&paths::job_cancel(job), body).await?;
        Ok(())
    }

    /// Follows the job's output until its end, and answers how it ended.
    ///
    /// # Errors
    /// The stream broke off before the end.
    pub async fn end_of(&self, job: JobId) -> anyhow::Result<EndEvent> {
        let mut response = accepted(
            self.http
                .get(self.url(&paths::job_logs_follow(job)))
                .send()
                .await?,
        )
        .await?;
        let mut lines = Vec::new();
        let mut at_end = false;
        while let Some(piece) = response.chunk().await? {
            lines.extend_from_slice(&piece);
            while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = lines.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let (field, value) = line.trim_end().split_once(':').unwrap_or_default();
                match (field, value.trim_start()) {
                    ("event", name) => at_end = name == event::END,
                    ("data", data) if at_end => return serde_json::from_str(data).context("the end's data"),
                    _ => {}
                }
            }
        }
        anyhow::bail!("the events of {job} ended before it")
    }

    /// Submits a job, waits for its end, and makes sure that it is the one wanted.
    ///
    /// # Errors
    /// It did not succeed.
    pub async fn run(&self, job: &SubmitJob) -> anyhow::Result<JobId> {
        let id = self.submit(job).await?;
        let end = self.end_of(id).await?;
        anyhow::ensure!(end.state == StateName::Succeeded, "{id} ended otherwise: {end:?}");
        Ok(id)
    }

    /// Waits until so many workers can take jobs.
    ///
    /// # Errors
    /// They do not come.
    pub async fn wait_for_workers(&self, wanted: usize) -> anyhow::Result<()> {
        let watch = crate::stats::Stopwatch::start();
        loop {
            let list: WorkerList = self.get(paths::WORKERS).await?;
            if list.workers.iter().filter(|worker| worker.ready).count() >= wanted {
                return Ok(());
            }
            anyhow::ensure!(
                watch.read() < WORKERS_WITHIN,
                "waited for {wanted} workers, found {:?}",
                list.workers
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let response = self.http.get(self.url(path)).send().await?;
        Ok(accepted(response).await?.json().await?)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let response = self.http.post(self.url(path)).json(body).send().await?;
        Ok(accepted(response).await?.json().await?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// A job of these arguments that asks for little, so that many fit.
pub fn job_of(argv: &[&str]) -> SubmitJob {
    SubmitJob::of(CommandBody::Argv(
        argv.iter().map(|word| (*word).to_owned()).collect(),
    ))
}

async fn accepted(response: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().path().to_owned());
    anyhow::bail!(
        "{url} answered {status}: {}",
        response.text().await.unwrap_or_default()
    )
}
