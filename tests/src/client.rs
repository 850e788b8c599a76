//! A small client of `/api/v1`, typed by the server's own types. It tries nothing again by itself, so that a test sees
//! every answer as it was given; only where it asks too often (429) it waits as it was told, as a good client does.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::api_types::{
    ArtifactsView, BulkAnswer, CancelRequestBody, CommandBody, ExplainView, FileView, JobList, JobView,
    LoginAnswer, Problem, ResourcesBody, SubmitBulk, SubmitJob, WorkerList, WorkerView, paths,
};
use common::ids::{FileId, JobId};
use common::log::Stream;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::events::Follower;
use crate::wait::{LONG, wait_for};

/// No request of a test has to wait for longer; a follower has no limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An answer that was not what the request asked for.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    /// Where the body is one.
    pub problem: Option<Problem>,
    /// As the header has it.
    pub retry_after: Option<String>,
    pub text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "answered {}: {}", self.status, self.text)
    }
}

impl std::error::Error for Refused {}

/// The refusal that `result` has to be.
///
/// # Errors
/// When it is none.
pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> Result<Refused> {
    match result {
        Ok(answer) => bail!("expected a refusal, got {answer:?}"),
        Err(error) => error.downcast::<Refused>(),
    }
}

/// Signed in at one server, whose address may change when it is started anew.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<RwLock<String>>,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str) -> Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(5))
                .build()?,
            base: Arc::new(RwLock::new(base.to_owned())),
            token: None,
        })
    }

    /// # Errors
    /// The refusal.
    pub async fn sign_in(&self, user: &str, password: &str) -> Result<Self> {
        let body = serde_json::json!({ "username": user, "password": password });
        let answer: LoginAnswer = self.post(paths::LOGIN, &body).await?;
        Ok(self.with_token(&answer.token))
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    pub fn base(&self) -> String {
        self.base.read().map(|base| base.clone()).unwrap_or_default()
    }

    /// From now on the server is found there; for every clone.
    pub fn moved_to(&self, base: &str) {
        if let Ok(mut place) = self.base.write() {
            base.clone_into(&mut place);
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base()));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.request(Method::GET, path).timeout(ANSWER_WITHIN)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        read(self.request(Method::POST, path).timeout(ANSWER_WITHIN).json(body)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn submit(&self, job: &SubmitJob) -> Result<JobView> {
        self.post(paths::JOBS, job).await
    }

    /// # Errors
    /// The refusal, or what broke: then the job may be stored or not.
    pub async fn submit_keyed(&self, job: &SubmitJob, key: &str) -> Result<JobView> {
        let request = self
            .request(Method::POST, paths::JOBS)
            .header(paths::IDEMPOTENCY_KEY, key);
        read(request.timeout(ANSWER_WITHIN).json(job)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn submit_all(&self, jobs: Vec<SubmitJob>) -> Result<Vec<JobId>> {
        let answer: BulkAnswer = self.post(paths::JOBS_BULK, &SubmitBulk { jobs }).await?;
        Ok(answer.ids)
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn job(&self, id: JobId) -> Result<JobView> {
        self.get(&paths::job(id)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn cancel(&self, id: JobId, why: &str) -> Result<JobView> {
        let body = CancelRequestBody {
            why: Some(why.to_owned()),
        };
        self.post(&paths::job_cancel(id), &body).await
    }

    /// Every job that there is, newest first.
    ///
    /// # Errors
    /// The refusal, or what broke.
    pub async fn jobs(&self) -> Result<Vec<JobView>> {
        self.jobs_of("").await
    }

    /// Those of them that this says, such as `&label=colour%3Dred`.
    ///
    /// # Errors
    /// The refusal, or what broke.
    pub async fn jobs_of(&self, which: &str) -> Result<Vec<JobView>> {
        let (mut jobs, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("{}?limit=200{which}{cursor}", paths::JOBS);
            let page: JobList = self.get(&path).await?;
            jobs.extend(page.jobs);
            match page.next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(jobs),
            }
        }
    }

    /// Why it is where it is.
    ///
    /// # Errors
    /// The refusal, or what broke.
    pub async fn explain(&self, id: JobId) -> Result<ExplainView> {
        self.get(&paths::job_explain(id)).await
    }

    /// The job once it has ended.
    ///
    /// # Errors
    /// When it has not, in time; with how it stood last.
    pub async fn ended(&self, id: JobId, within: Duration) -> Result<JobView> {
        self.job_when(id, within, "its end", |job| job.state.is_terminal())
            .await
    }

    /// The job once `good` holds.
    ///
    /// # Errors
    /// When it does not, in time; with how the job stood last.
    pub async fn job_when(
        &self,
        id: JobId,
        within: Duration,
        what: &str,
        good: impl Fn(&JobView) -> bool,
    ) -> Result<JobView> {
        wait_for(within, &format!("{what} ({id})"), async || {
            match self.job(id).await {
                Ok(job) if good(&job) => Ok(job),
                Ok(job) => Err(brief(&job)),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn workers(&self) -> Result<Vec<WorkerView>> {
        let list: WorkerList = self.get(paths::WORKERS).await?;
        Ok(list.workers)
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn upload(&self, name: &str, bytes: Vec<u8>) -> Result<FileView> {
        let part = Part::bytes(bytes).file_name(name.to_owned());
        let request = self
            .request(Method::POST, paths::FILES)
            .multipart(Form::new().part("file", part));
        read(request.timeout(ANSWER_WITHIN)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn download(&self, file: FileId) -> Result<Vec<u8>> {
        self.bytes(&paths::file(file)).await
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn artifacts(&self, job: JobId) -> Result<ArtifactsView> {
        self.get(&paths::job_artifacts(job)).await
    }

    /// What the last attempt wrote into one stream, as bytes.
    ///
    /// # Errors
    /// The refusal, or what broke.
    pub async fn log(&self, job: JobId, stream: Stream) -> Result<Vec<u8>> {
        self.bytes(&format!(
            "{}?stream={}",
            paths::job_logs_raw(job),
            stream.as_str()
        ))
        .await
    }

    /// Standard output as text.
    ///
    /// # Errors
    /// The refusal, or what broke.
    pub async fn stdout(&self, job: JobId) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.log(job, Stream::Stdout).await?).into_owned())
    }

    /// # Errors
    /// The refusal, or what broke.
    pub async fn follow(&self, job: JobId) -> Result<Follower> {
        let request = self.request(Method::GET, &paths::job_logs_follow(job));
        Ok(Follower::new(accepted(request).await?))
    }

    async fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let response = accepted(self.request(Method::GET, path).timeout(ANSWER_WITHIN)).await?;
        Ok(response.bytes().await?.to_vec())
    }

    /// Waits until a worker of this pool says that it can start jobs.
    ///
    /// # Errors
    /// When none does in time; with what the workers said last.
    pub async fn worker_ready(&self, pool: &str) -> Result<WorkerView> {
        self.worker_when("to be ready", |worker| {
            worker.pool.as_str() == pool && worker.ready
        })
        .await
    }

    /// Waits for a worker that looks like this.
    ///
    /// # Errors
    /// When there is none in time; with what the workers said last.
    pub async fn worker_when(&self, what: &str, good: impl Fn(&WorkerView) -> bool) -> Result<WorkerView> {
        wait_for(LONG, &format!("a worker {what}"), async || {
            match self.workers().await {
                Ok(workers) => workers
                    .iter()
                    .find(|worker| good(worker))
                    .cloned()
                    .ok_or_else(|| format!("{workers:?}")),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }
}

/// A job in one line, for errors.
pub fn brief(job: &JobView) -> String {
    let attempts: Vec<String> = job
        .attempts
        .iter()
        .map(|attempt| match &attempt.outcome {
            Some(outcome) => format!(
                "{}: {} {}",
                attempt.number,
                outcome.kind,
                outcome.message.as_deref().unwrap_or_default()
            ),
            None => format!("{}: under way on {}", attempt.number, attempt.worker),
        })
        .collect();
    format!("{} is {}, attempts [{}]", job.id, job.state, attempts.join("; "))
}

/// A line for the shell, with so few resources that several run at a time on a small machine.
pub fn shell(line: &str) -> SubmitJob {
    small(CommandBody::Shell(line.to_owned()))
}

/// A command and its arguments, likewise.
pub fn argv(words: &[&str]) -> SubmitJob {
    small(CommandBody::Argv(
        words.iter().map(|&word| word.to_owned()).collect(),
    ))
}

fn small(command: CommandBody) -> SubmitJob {
    SubmitJob {
        resources: ResourcesBody {
            cpu_millis: Some(500),
            memory_mib: Some(32),
            disk_mib: Some(16),
        },
        ..SubmitJob::of(command)
    }
}

async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T> {
    let bytes = accepted(request).await?.bytes().await?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("not what was asked for: {}", String::from_utf8_lossy(&bytes)))
}

async fn accepted(request: RequestBuilder) -> Result<Response> {
    let response = patiently(request).await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = response.headers().get(reqwest::header::RETRY_AFTER);
    let retry_after = retry_after.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let text = response.text().await.unwrap_or_default();
    Err(Refused {
        status: status.as_u16(),
        problem: serde_json::from_str(&text).ok(),
        retry_after,
        text,
    }
    .into())
}

/// Sends, and comes again when it was told to.
async fn patiently(request: RequestBuilder) -> Result<Response> {
    loop {
        // a form is a stream and is sent once
        let again = request.try_clone();
        let Some(request) = again else {
            return Ok(request.send().await?);
        };
        let response = request.send().await?;
        let wait = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .filter(|_| response.status().as_u16() == 429)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        match wait {
            // The server's own word for when it answers again. tidy: poll
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => return Ok(response),
        }
    }
}
