//! An API with a store of its own, and the program that is run against it.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::config::StoreConfig;
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{CancelRequest, Epoch, Job, Lease};
use common::lifecycle::JobEvent;
use common::log::{LogChunk, MissingLogs, Stream};
use common::secret::Secret;
use common::service::{Applied, Jobs};
use common::store::Stores;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};

/// Whatever is waited for comes within this, or the test says what it saw last.
const PATIENCE: Duration = Duration::from_secs(60);

/// An API on a free port, with a folder of its own for everything.
pub struct Server {
    pub folder: tempfile::TempDir,
    address: String,
    pub password: String,
    stores: Stores,
    clock: SharedClock,
    tasks: Tasks,
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let store = StoreConfig::Embedded {
            folder: folder.path().join("store"),
        };
        let stores = storage::open(&store, clock.clone()).await.unwrap();
        let password = api::bootstrap_admin(&stores, &clock).await.unwrap().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tasks = Tasks::new();
        let config = api::Config::new(Secret::new(vec![7; 32]), "busybox");
        let address = api::serve(config, stores.clone(), clock.clone(), listener, &tasks).unwrap();
        Self {
            address: format!("http://{address}"),
            password: password.expose().clone(),
            folder,
            stores,
            clock,
            tasks,
        }
    }

    pub async fn signed_in() -> Self {
        let server = Self::start().await;
        let password = server.password.clone();
        let login = server.shell_with(&["login", "--password-stdin"], &password).await;
        assert!(login.status.success(), "{login:?}");
        server
    }

    pub async fn shell(&self, arguments: &[&str]) -> Output {
        self.shell_with(arguments, "").await
    }

    /// The program as a user would run it, with nothing of this user's own settings.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobworker"));
        command
            .args(arguments)
            .env_clear()
            .env("JOBWORKER_CONFIG", self.folder.path().join("config"))
            .env("JOBWORKER_SERVER", &self.address)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the program and goes on beside it.
    pub fn start_shell(&self, arguments: &[&str]) -> Shell {
        let mut command = tokio::process::Command::from(self.command(arguments));
        let mut child = command.stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        Shell {
            stdout: Heard::new(child.stdout.take().unwrap()),
            stderr: Heard::new(child.stderr.take().unwrap()),
            child,
        }
    }

    /// Runs the program to its end, with this on its standard input.
    pub async fn shell_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped());
        let input = input.to_owned();
        let run = move || {
            use std::io::Write;
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // a verb that reads nothing may have ended by now
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().unwrap()
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn apply(&self, job: JobId, event: JobEvent) {
        let applied = Jobs::new(self.stores.clone(), self.clock.clone())
            .apply(job, event)
            .await
            .unwrap();
        assert!(matches!(applied, Applied::Done(_)), "{applied:?}");
    }

    /// Plays scheduler and worker: gives the job to a worker and says that it runs.
    pub async fn start_job(&self, job: JobId) -> AttemptId {
        let attempt = AttemptId::random();
        let lease = Lease {
            worker: WorkerId::new("node").unwrap(),
            session: SessionId::random(),
        };
        let claimed = JobEvent::Claimed {
            attempt,
            lease,
            epoch: Epoch(1),
        };
        self.apply(job, claimed).await;
        self.apply(job, JobEvent::Started { attempt }).await;
        attempt
    }

    pub async fn log(&self, attempt: AttemptId, stream: Stream, seq: u64, text: &'static str) {
        let chunk = LogChunk {
            attempt,
            stream,
            seq,
            bytes: bytes::Bytes::from_static(text.as_bytes()),
        };
        self.stores
            .logs
            .append(vec![chunk], self.clock.now())
            .await
            .unwrap();
        self.stores.hints.send(common::store::Topic::Log(attempt));
    }

    pub async fn finish_job(&self, job: JobId, attempt: AttemptId, outcome: Outcome) {
        let report = AttemptReport::bare(outcome);
        self.report(job, attempt, report, MissingLogs::default()).await;
    }

    /// Plays the worker's last report, of whose output the store lacks this.
    pub async fn report(
        &self,
        job: JobId,
        attempt: AttemptId,
        report: AttemptReport,
        logs_missing: MissingLogs,
    ) {
        let finished = JobEvent::Finished {
            attempt,
            report: Box::new(report),
            logs_missing,
        };
        self.apply(job, finished).await;
    }

    /// The first job that waits; looks until there is one.
    pub async fn first_queued(&self) -> JobId {
        let look = async {
            loop {
                let queued = self.stores.jobs.queued(None, 1).await.unwrap();
                if let Some(job) = queued.first() {
                    return job.id;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, look)
            .await
            .expect("no job was queued in time")
    }

    /// The row of a job.
    pub async fn row(&self, job: JobId) -> Job {
        self.stores.jobs.get(job).await.unwrap().unwrap()
    }

    /// The cancel that was asked for; looks until there is one.
    pub async fn asked_cancel(&self, job: JobId) -> CancelRequest {
        let look = async {
            loop {
                if let Some(request) = self.row(job).await.cancel {
                    return request;
                }
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(request) => request,
            Err(_) => panic!("no cancel was asked for in time: {:?}", self.row(job).await.state),
        }
    }

    pub async fn submitted(&self) -> JobId {
        let submitted = self.shell(&["submit", "--", "echo", "hi"]).await;
        assert!(submitted.status.success(), "{submitted:?}");
        stdout(&submitted).trim().parse().unwrap()
    }

    pub async fn stop(self) {
        self.tasks.stop();
        assert!(
            self.tasks.join(Duration::from_secs(30)).await,
            "the API did not end"
        );
    }
}

/// The program while it runs; killed when a test ends before it.
pub struct Shell {
    pub stdout: Heard<ChildStdout>,
    pub stderr: Heard<ChildStderr>,
    child: Child,
}

impl Shell {
    /// Ctrl-C.
    pub fn interrupt(&self) {
        let number = self.child.id().expect("it has not ended");
        let pid = Pid::from_raw(i32::try_from(number).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    /// Waits for its end, and hears all it says until then.
    pub async fn exit_code(&mut self) -> Option<i32> {
        let end = async {
            self.stdout.drain().await;
            self.stderr.drain().await;
            self.child.wait().await.unwrap().code()
        };
        match tokio::time::timeout(PATIENCE, end).await {
            Ok(code) => code,
            Err(_) => panic!(
                "it did not end in time, and said {:?} and {:?}",
                self.stdout.so_far, self.stderr.so_far
            ),
        }
    }
}

/// One output of a program that runs.
pub struct Heard<R> {
    lines: Lines<BufReader<R>>,
    /// What was read of it, by line.
    pub so_far: Vec<String>,
}

impl<R: AsyncRead + Unpin> Heard<R> {
    fn new(output: R) -> Self {
        Self {
            lines: BufReader::new(output).lines(),
            so_far: Vec::new(),
        }
    }

    /// Reads up to the next line that holds these words.
    pub async fn until(&mut self, words: &str) {
        let look = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                let found = line.contains(words);
                self.so_far.push(line);
                if found {
                    return true;
                }
            }
            false
        };
        let found = tokio::time::timeout(PATIENCE, look).await;
        assert_eq!(found, Ok(true), "`{words}` did not come after {:?}", self.so_far);
    }

    async fn drain(&mut self) {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            self.so_far.push(line);
        }
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
