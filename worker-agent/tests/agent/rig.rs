//! An agent to take apart, and a gateway that says what the test says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::attempt::{AttemptReport, Outcome};
use common::ids::{AccountId, AttemptId, FileId, JobId, SessionId, WorkerId};
use common::job::{Command, JobSpec, Limits, Resources};
use common::log::{LogChunk, Stream};
use common::protocol::token::FleetSecrets;
use common::protocol::{
    Assignment, FromWorker, HeldAttempt, InputSource, ResultVerdict, ToWorker, Verdict, VerdictFor,
    WorkerSettings, binary,
};
use common::retry::RetryPolicy;
use common::secret::Secret;
use common::tasks::Tasks;
use common::time::{ManualClock, Timestamp};
use worker_agent::config::{Config, OnStop, ServerUrl};
use worker_agent::disk::Disk;
use worker_agent::executor::fake::{FakeContainer, FakeExecutor};
use worker_agent::link::channel::{ChannelServer, ServerEnd, channel};
use worker_agent::transfer::{FileServer, Stored, TransferError};
use worker_agent::{AgentError, Seams};

/// Generous: reached only by an agent that hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub const SETTINGS: WorkerSettings = WorkerSettings {
    heartbeat: Duration::from_millis(50),
    lost_after: Duration::from_secs(300),
    kill_grace: Duration::from_secs(10),
    ping: Duration::from_secs(10),
    pong_deadline: Duration::from_secs(10),
};

/// T - G.
pub const LEASE: Duration = Duration::from_secs(290);

pub struct Rig {
    pub executor: FakeExecutor,
    pub clock: Arc<ManualClock>,
    pub files: Arc<FakeFiles>,
    pub config: Config,
    server: ChannelServer,
    tasks: Tasks,
    agent: tokio::task::JoinHandle<Result<(), AgentError>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secrets = FleetSecrets::new(vec![("k".into(), Secret::new(vec![7; 32]))]).unwrap();
        let key = secrets.worker_key(&WorkerId::new("node-1").unwrap(), 1);
        let server = ServerUrl::parse("ws://127.0.0.1:1", false).unwrap();
        let mut config = Config::new(key, server, folder.path().join("state"));
        config.link.backoff_max = Duration::from_millis(20);
        change(&mut config);
        let executor = FakeExecutor::default();
        let clock = Arc::new(ManualClock::new(NOW));
        let files = Arc::new(FakeFiles::default());
        let (server, tasks, agent) = launch(&config, &executor, &clock, &files);
        Self {
            executor,
            clock,
            files,
            config,
            server,
            tasks,
            agent,
            _folder: folder,
        }
    }

    /// Asks the agent to stop and waits for it.
    pub async fn stop(&mut self) {
        self.tasks.stop();
        let ended = within("the agent's end", &mut self.agent).await;
        ended.unwrap().unwrap();
    }

    /// The same node, another process.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.restart_stopped();
    }

    /// Starts the agent again that was stopped.
    pub fn restart_stopped(&mut self) {
        (self.server, self.tasks, self.agent) =
            launch(&self.config, &self.executor, &self.clock, &self.files);
    }

    /// Another agent on the same folder.
    pub async fn second_agent(&self) -> Result<(), AgentError> {
        let (_server, _tasks, agent) = launch(&self.config, &self.executor, &self.clock, &self.files);
        within("the second agent", agent).await.unwrap()
    }

    /// The agent's next connection, before anything is said.
    pub async fn accept(&mut self) -> Gateway {
        let end = within("a connection", self.server.accept()).await.unwrap();
        Gateway {
            end,
            chunks: Vec::new(),
        }
    }

    /// A connection with a new session.
    pub async fn connect(&mut self) -> (Gateway, SessionId) {
        let mut gateway = self.accept().await;
        let (known, _) = gateway.hello().await;
        assert_eq!(known, None);
        let session = SessionId::random();
        gateway.welcome(session, false, vec![]).await;
        (gateway, session)
    }

    /// The next connection, on which the session goes on and everything listed is kept.
    pub async fn resume(&mut self, session: SessionId) -> Gateway {
        let mut gateway = self.accept().await;
        let (known, held) = gateway.hello().await;
        assert_eq!(known, Some(session));
        let verdicts = held
            .iter()
            .map(|held| VerdictFor {
                attempt: held.attempt,
                verdict: Verdict::Keep,
            })
            .collect();
        gateway.welcome(session, true, verdicts).await;
        gateway
    }

    pub async fn container_until(
        &self,
        what: &str,
        attempt: AttemptId,
        mut holds: impl FnMut(&FakeContainer) -> bool,
    ) -> FakeContainer {
        let waited = self
            .executor
            .wait_until(|executor| executor.of(attempt).is_some_and(|found| holds(&found)));
        if tokio::time::timeout(DEADLINE, waited).await.is_err() {
            panic!(
                "waited for {what}; the container is {:?}",
                self.executor.of(attempt)
            );
        }
        self.executor.of(attempt).unwrap()
    }

    pub fn attempt_folder(&self, attempt: AttemptId) -> std::path::PathBuf {
        self.config
            .state_folder
            .join("attempts")
            .join(attempt.to_string())
    }
}

#[expect(clippy::disallowed_methods, reason = "the test waits for it itself")]
fn launch(
    config: &Config,
    executor: &FakeExecutor,
    clock: &Arc<ManualClock>,
    files: &Arc<FakeFiles>,
) -> (
    ChannelServer,
    Tasks,
    tokio::task::JoinHandle<Result<(), AgentError>>,
) {
    let (link, server) = channel();
    let tasks = Tasks::new();
    let seams = Seams {
        executor: Arc::new(executor.clone()),
        link: Arc::new(link),
        files: Arc::clone(files) as Arc<dyn FileServer>,
        disk: Disk::Beside,
        inner: Tasks::new(),
    };
    let agent = tokio::spawn(worker_agent::run_with(
        config.clone(),
        seams,
        Arc::clone(clock) as common::time::SharedClock,
        tasks.clone(),
    ));
    (server, tasks, agent)
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited for {what} in vain"),
    }
}

/// The test's end of one connection.
pub struct Gateway {
    pub end: ServerEnd,
    /// Every chunk that came on this connection.
    pub chunks: Vec<LogChunk>,
}

impl Gateway {
    pub async fn hello(&mut self) -> (Option<SessionId>, Vec<HeldAttempt>) {
        match within("hello", self.end.control.recv()).await {
            Some(FromWorker::Hello {
                session, attempts, ..
            }) => (session, attempts),
            other => panic!("expected hello, found {other:?}"),
        }
    }

    pub async fn welcome(&self, session: SessionId, resumed: bool, verdicts: Vec<VerdictFor>) {
        self.send(ToWorker::Welcome {
            protocol: 1,
            session,
            resumed,
            settings: SETTINGS,
            verdicts,
        })
        .await;
    }

    pub async fn send(&self, message: ToWorker) {
        assert!(self.end.send(message).await, "the agent has left");
    }

    pub async fn assign(&self, assignment: &Assignment) {
        self.send(ToWorker::JobAssign(Box::new(assignment.clone()))).await;
    }

    /// The next message that is no heartbeat.
    pub async fn next(&mut self) -> FromWorker {
        loop {
            match within("a message", self.end.control.recv()).await {
                Some(FromWorker::Heartbeat { .. }) => {}
                Some(other) => return other,
                None => panic!("the agent has left"),
            }
        }
    }

    /// The number of the first heartbeat that says that no work is wanted.
    pub async fn farewell(&mut self) -> u64 {
        loop {
            match within("a farewell", self.end.control.recv()).await {
                Some(FromWorker::Heartbeat {
                    number,
                    draining: true,
                    ..
                }) => return number,
                Some(_) => {}
                None => panic!("the agent has left without a word"),
            }
        }
    }

    pub async fn heartbeat(&mut self) -> (u64, Vec<HeldAttempt>) {
        loop {
            match within("a heartbeat", self.end.control.recv()).await {
                Some(FromWorker::Heartbeat { number, attempts, .. }) => return (number, attempts),
                Some(_) => {}
                None => panic!("the agent has left"),
            }
        }
    }

    pub async fn heartbeat_or_panic_on_result(&mut self) -> (u64, Vec<HeldAttempt>) {
        match within("a heartbeat", self.end.control.recv()).await {
            Some(FromWorker::Heartbeat { number, attempts, .. }) => (number, attempts),
            other => panic!("expected a heartbeat, found {other:?}"),
        }
    }

    /// Reads heartbeats until one lists nothing.
    pub async fn until_nothing_is_held(&mut self) {
        while !self.heartbeat().await.1.is_empty() {}
    }

    pub async fn verdict(&self, number: u64, attempt: AttemptId, verdict: Verdict) {
        self.send(ToWorker::HeartbeatAck {
            number,
            verdicts: vec![VerdictFor { attempt, verdict }],
        })
        .await;
    }

    pub async fn started(&mut self, attempt: AttemptId) {
        match self.next().await {
            FromWorker::Started { attempt: found, .. } if found == attempt => {}
            other => panic!("expected started, found {other:?}"),
        }
    }

    pub async fn chunk(&mut self) -> LogChunk {
        let frame = within("a chunk", self.end.logs.recv()).await.unwrap();
        let (_, chunk) = binary::decode(&frame).unwrap();
        self.chunks.push(chunk.clone());
        chunk
    }

    pub async fn ack_log(&self, assignment: &Assignment, stream: Stream, seq: u64) {
        self.send(ToWorker::LogAck {
            job: assignment.job,
            attempt: assignment.attempt,
            stream,
            seq,
            stale: false,
        })
        .await;
    }

    /// Skips what else is said until the result comes.
    pub async fn result(&mut self, attempt: AttemptId) -> AttemptReport {
        loop {
            if let FromWorker::Result {
                attempt: found,
                report,
                ..
            } = self.next().await
                && found == attempt
            {
                return *report;
            }
        }
    }

    pub async fn outcome(&mut self, attempt: AttemptId) -> Outcome {
        self.result(attempt).await.outcome
    }

    pub async fn ack_result(&self, assignment: &Assignment, verdict: ResultVerdict) {
        self.send(ToWorker::ResultAck {
            job: assignment.job,
            attempt: assignment.attempt,
            verdict,
        })
        .await;
    }
}

pub fn assignment() -> Assignment {
    Assignment {
        job: JobId::random(),
        attempt: AttemptId::random(),
        number: 1,
        account: AccountId::new("acme").unwrap(),
        spec: JobSpec {
            name: None,
            command: Command::Shell("true".into()),
            entrypoint: None,
            image: "alpine".into(),
            env: BTreeMap::new(),
            workdir: None,
            inputs: vec![],
            artifacts: vec![],
            resources: Resources::default(),
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            pool: Default::default(),
            worker_labels: BTreeMap::new(),
            priority: Default::default(),
            not_before: None,
            labels: BTreeMap::new(),
        },
        inputs: vec![],
        log_bytes_max: 1024 * 1024,
    }
}

pub const fn drain_within(within: Duration) -> OnStop {
    OnStop::Drain { within }
}

/// Files in memory.
#[derive(Debug, Default)]
pub struct FakeFiles {
    pub stored: Mutex<BTreeMap<FileId, (String, Vec<u8>)>>,
}

#[async_trait]
impl FileServer for FakeFiles {
    async fn fetch(
        &self,
        _attempt: AttemptId,
        source: &InputSource,
        _to: &Path,
    ) -> Result<(), TransferError> {
        Err(TransferError::Refused {
            status: 404,
            message: format!("no {}", source.file),
        })
    }

    async fn store(
        &self,
        _attempt: AttemptId,
        file: FileId,
        path: &str,
        from: &Path,
    ) -> Result<Stored, TransferError> {
        if path == "refused" {
            return Err(TransferError::Refused {
                status: 413,
                message: "too large".into(),
            });
        }
        let body = std::fs::read(from).map_err(|error| TransferError::Failed(Box::new(error)))?;
        let bytes = body.len() as u64;
        self.stored.lock().unwrap().insert(file, (path.to_owned(), body));
        Ok(Stored {
            bytes,
            sha256: "0".repeat(64),
        })
    }
}
