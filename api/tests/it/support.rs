//! One installation a test: own folder, own port, a clock that the test turns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{Config, Limits};
use bytes::Bytes;
use common::attempt::{AttemptReport, Outcome};
use common::config::StoreConfig;
use common::identity::{Account, Role, User};
use common::ids::{AccountId, ApiKeyId, AttemptId, JobId, SessionId, UserId, WorkerId};
use common::job::{Epoch, Job, Lease};
use common::lifecycle::JobEvent;
use common::log::{LogChunk, MissingLogs, Stream};
use common::queue::QueueEntry;
use common::secret::Secret;
use common::service::{Applied, Jobs};
use common::store::{Stores, Topic};
use common::tasks::Tasks;
use common::time::{Clock, ManualClock, SharedClock, Timestamp};
use common::worker::Worker;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub const SECRET: &[u8] = b"a secret of the tests, 32 bytes!";
/// Whatever is waited for comes within this, or the test says what it saw last.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub url: String,
    pub address: SocketAddr,
    pub stores: Stores,
    pub clock: Arc<ManualClock>,
    pub client: reqwest::Client,
    pub keys: Keys,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

/// Keys of four users: admin, user and viewer of one account, and a user of another.
pub struct Keys {
    pub admin: String,
    pub user: String,
    pub viewer: String,
    pub other: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.bytes)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(|stores| stores, change).await
    }

    /// Over stores that something may stand before.
    pub async fn over(before: impl FnOnce(Stores) -> Stores, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let shared: SharedClock = clock.clone();
        let store = StoreConfig::Embedded {
            folder: folder.path().join("store"),
        };
        let stores = before(storage::open(&store, shared.clone()).await.unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(Secret::new(SECRET.to_vec()), "debian:12");
        config.limits = Limits::OFF;
        change(&mut config);
        let tasks = Tasks::new();
        let address = api::serve(config, stores.clone(), shared.clone(), listener, &tasks).unwrap();
        let key = async |name: &str, account: &str, role| {
            add_user(&stores, name, account, role).await;
            let user = UserId::new(name).unwrap();
            api::issue_key(&stores, &shared, &user, "test")
                .await
                .unwrap()
                .expose()
                .clone()
        };
        let keys = Keys {
            admin: key("ada", "home", Role::Admin).await,
            user: key("ursula", "home", Role::User).await,
            viewer: key("victor", "home", Role::Viewer).await,
            other: key("otto", "away", Role::User).await,
        };
        Self {
            url: format!("http://{address}"),
            address,
            stores,
            clock,
            client: reqwest::Client::new(),
            keys,
            tasks,
            _folder: folder,
        }
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.timeout(PATIENCE).send().await.unwrap();
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            bytes: response.bytes().await.unwrap(),
        }
    }

    pub fn request(&self, method: Method, key: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.url));
        if key.is_empty() {
            request
        } else {
            request.bearer_auth(key)
        }
    }

    pub async fn get(&self, key: &str, path: &str) -> Answer {
        self.send(self.request(Method::GET, key, path)).await
    }

    pub async fn post(&self, key: &str, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, key, path).json(body)).await
    }

    pub fn stop(&self) {
        self.tasks.stop();
    }

    pub async fn joined(&self) -> bool {
        self.tasks.join(PATIENCE).await
    }

    /// A job of `key`'s, as just submitted.
    pub async fn submit(&self, key: &str) -> JobId {
        let answer = self
            .post(key, "/api/v1/jobs", &json!({"command": "echo hello"}))
            .await
            .expect(201);
        answer.json()["id"].as_str().unwrap().parse().unwrap()
    }

    pub fn jobs(&self) -> Jobs {
        Jobs::new(self.stores.clone(), self.clock.clone())
    }

    pub async fn apply(&self, job: JobId, event: JobEvent) -> Job {
        match self.jobs().apply(job, event).await.unwrap() {
            Applied::Done(job) => job,
            other => panic!("{other:?}"),
        }
    }

    /// Registers a worker, heard just now in a session that lives, and lets a second pass, for which the API remembers
    /// workers.
    pub async fn put_worker(&self, mut worker: Worker) {
        let workers = &self.stores.workers;
        let before = workers.get(&worker.id).await.unwrap();
        let session = SessionId::random();
        workers
            .open_session(session, &worker.id, self.clock.now())
            .await
            .unwrap();
        self.clock.advance(Duration::from_secs(1));
        worker.session = Some(session);
        worker.heard_at = self.clock.now();
        let replaces = before.and_then(|before| before.session);
        assert!(workers.put(&worker, replaces).await.unwrap());
        workers.set_draining(&worker.id, worker.draining).await.unwrap();
    }

    /// Gives the job to a worker that starts it at once.
    pub async fn run(&self, job: JobId) -> AttemptId {
        let attempt = AttemptId::random();
        let row = self.stores.jobs.get(job).await.unwrap().unwrap();
        self.apply(
            job,
            JobEvent::Claimed {
                attempt,
                lease: Lease {
                    worker: WorkerId::new("node-1").unwrap(),
                    session: SessionId::random(),
                },
                epoch: Epoch(1),
            },
        )
        .await;
        // as the leader does after a claim
        let entry: Vec<QueueEntry> = QueueEntry::of(&row).into_iter().collect();
        self.stores.queue.remove(&entry).await.unwrap();
        self.apply(job, JobEvent::Started { attempt }).await;
        attempt
    }

    pub async fn finish(&self, job: JobId, attempt: AttemptId, outcome: Outcome) -> Job {
        self.finish_with(job, attempt, AttemptReport::bare(outcome)).await
    }

    pub async fn finish_with(&self, job: JobId, attempt: AttemptId, report: AttemptReport) -> Job {
        self.apply(
            job,
            JobEvent::Finished {
                attempt,
                report: Box::new(report),
                logs_missing: MissingLogs::default(),
            },
        )
        .await
    }

    /// What an agent's gateway does with output.
    pub async fn write(&self, attempt: AttemptId, stream: Stream, seq: u64, text: &[u8]) {
        let chunk = LogChunk {
            attempt,
            stream,
            seq,
            bytes: Bytes::copy_from_slice(text),
        };
        self.stores
            .logs
            .append(vec![chunk], self.clock.now())
            .await
            .unwrap();
        self.stores.hints.send(Topic::Log(attempt));
    }

    /// The key of a new user of an account.
    pub async fn key_in(&self, account: &str, user: &str) -> String {
        add_user(&self.stores, user, account, Role::User).await;
        let clock: SharedClock = self.clock.clone();
        let user = UserId::new(user).unwrap();
        let key = api::issue_key(&self.stores, &clock, &user, "test").await;
        key.unwrap().expose().clone()
    }

    /// Adds a user with that password and signs in.
    pub async fn sign_in(&self, name: &str, password: &str) -> Answer {
        let body = json!({"username": name, "password": password});
        self.post("", "/api/v1/auth/login", &body).await
    }

    pub async fn add_user_with_password(&self, name: &str, password: &str) {
        let body = json!({"username": name, "password": password, "role": "user", "account": "home"});
        self.post(&self.keys.admin, "/api/v1/users", &body)
            .await
            .expect(201);
    }

    /// Another key of a user's: its id and its text.
    pub async fn make_key(&self, user: &str) -> (ApiKeyId, String) {
        let user = UserId::new(user).unwrap();
        let clock: SharedClock = self.clock.clone();
        let text = api::issue_key(&self.stores, &clock, &user, "test").await.unwrap();
        let text = text.expose().clone();
        let id = text.split('_').nth(1).unwrap();
        (format!("{}{id}", ApiKeyId::PREFIX).parse().unwrap(), text)
    }

    /// A token of that user's sign-in.
    pub async fn token(&self, name: &str, password: &str) -> String {
        let body = self.sign_in(name, password).await.expect(200).json();
        body["token"].as_str().unwrap().to_owned()
    }

    pub async fn upload(&self, key: &str, name: &str, bytes: &[u8]) -> String {
        let path = format!("/api/v1/files?name={name}");
        let request = self.request(Method::POST, key, &path).body(bytes.to_vec());
        let answer = self.send(request).await.expect(201);
        answer.json()["id"].as_str().unwrap().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn add_user(stores: &Stores, name: &str, account: &str, role: Role) {
    let now = Timestamp::from_millis(1);
    let account = Account {
        id: AccountId::new(account).unwrap(),
        name: account.to_owned(),
        plan: "standard".to_owned(),
        weight: 1,
        log_bytes_max: 1 << 20,
        running_max: None,
        waiting_max: None,
        created_at: now,
    };
    // the second user of an account finds it there
    let _ = stores.identity.create_account(&account).await;
    let user = User {
        id: UserId::new(name).unwrap(),
        account: account.id,
        name: name.to_owned(),
        email: None,
        role,
        password_hash: "none".to_owned(),
        disabled: false,
        created_at: now,
        last_login_at: None,
    };
    stores.identity.create_user(&user).await.unwrap();
}

/// A problem document whole, less what differs from request to request.
#[track_caller]
pub fn problem(answer: &Answer) -> Value {
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{} {}",
        answer.status,
        answer.text()
    );
    let mut body = answer.json();
    let fields = body.as_object_mut().unwrap();
    for name in ["type", "title", "detail", "instance", "code", "request_id"] {
        assert!(
            fields
                .get(name)
                .is_some_and(|value| value.as_str().is_some_and(|text| !text.is_empty())),
            "{name}: {fields:?}"
        );
    }
    assert_eq!(fields["status"], answer.status.as_u16());
    assert_eq!(fields["request_id"], answer.header("x-request-id"));
    fields.remove("request_id");
    fields.remove("instance");
    body
}
