//! The client's verbs against the real API and the real store, in this process, without a scheduler or a worker.

#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::config::StoreConfig;
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{Epoch, Lease};
use common::lifecycle::JobEvent;
use common::log::{LogChunk, Stream};
use common::secret::Secret;
use common::service::{Applied, Jobs};
use common::store::Stores;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};

/// An API on a free port, with a folder of its own for everything.
struct Server {
    folder: tempfile::TempDir,
    address: String,
    password: String,
    stores: Stores,
    clock: SharedClock,
    tasks: Tasks,
}

impl Server {
    async fn start() -> Self {
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

    async fn signed_in() -> Self {
        let server = Self::start().await;
        let password = server.password.clone();
        let login = server.shell_with(&["login", "--password-stdin"], &password).await;
        assert!(login.status.success(), "{login:?}");
        server
    }

    async fn shell(&self, arguments: &[&str]) -> Output {
        self.shell_with(arguments, "").await
    }

    /// Runs the program as a user would, with nothing of this user's own settings.
    async fn shell_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobworker"));
        command
            .args(arguments)
            .env_clear()
            .env("JOBWORKER_CONFIG", self.folder.path().join("config"))
            .env("JOBWORKER_SERVER", &self.address)
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
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
    async fn start_job(&self, job: JobId) -> AttemptId {
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

    async fn log(&self, attempt: AttemptId, stream: Stream, seq: u64, text: &'static str) {
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

    async fn finish_job(&self, job: JobId, attempt: AttemptId, outcome: Outcome) {
        let report = AttemptReport::bare(outcome);
        let finished = JobEvent::Finished {
            attempt,
            report: Box::new(report),
            logs_missing: common::log::MissingLogs::default(),
        };
        self.apply(job, finished).await;
    }

    async fn submitted(&self) -> JobId {
        let submitted = self.shell(&["submit", "--", "echo", "hi"]).await;
        assert!(submitted.status.success(), "{submitted:?}");
        stdout(&submitted).trim().parse().unwrap()
    }

    async fn stop(self) {
        self.tasks.stop();
        assert!(
            self.tasks.join(Duration::from_secs(30)).await,
            "the API did not end"
        );
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_wrong_password_signs_nobody_in_and_the_right_one_is_kept_privately() {
    let server = Server::start().await;
    let wrong = server
        .shell_with(&["login", "--password-stdin"], "wrong-password")
        .await;
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(!server.folder.path().join("config/credentials.json").exists());

    let before = server.shell(&["list"]).await;
    assert_eq!(before.status.code(), Some(1));
    assert!(stderr(&before).contains("jobworker login"), "{before:?}");

    let right = server
        .shell_with(&["login", "--password-stdin"], &server.password)
        .await;
    assert!(right.status.success(), "{right:?}");
    assert_eq!(mode(&server.folder.path().join("config/credentials.json")), 0o600);
    assert!(server.shell(&["list"]).await.status.success());

    assert!(server.shell(&["logout"]).await.status.success());
    assert_eq!(server.shell(&["list"]).await.status.code(), Some(1));
    server.stop().await;
}

#[tokio::test]
async fn what_is_submitted_is_listed_shown_and_cancelled() {
    let server = Server::signed_in().await;
    let flags = [
        "submit", "--name", "nightly", "--label", "team=a", "--memory", "1g", "--", "make", "all",
    ];
    let submitted = server.shell(&flags).await;
    assert!(submitted.status.success(), "{submitted:?}");
    let id = stdout(&submitted).trim().to_owned();

    let list = server
        .shell(&["list", "--state", "queued", "--label", "team=a"])
        .await;
    assert!(
        stdout(&list).contains(&id) && stdout(&list).contains("make all"),
        "{list:?}"
    );
    let none = server.shell(&["list", "--label", "team=b"]).await;
    assert!(none.status.success() && stdout(&none).is_empty(), "{none:?}");

    let page = stdout(&server.shell(&["get", &id]).await);
    assert!(
        page.contains("nightly") && page.contains("1024 MiB") && page.contains("queued"),
        "{page}"
    );
    assert!(page.contains("No worker is registered"), "{page}");

    let json = server.shell(&["get", "--json", &id]).await;
    let job: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(job["spec"]["command"], serde_json::json!(["make", "all"]));

    let cancelled = server.shell(&["cancel", "--why", "not needed", &id]).await;
    assert!(stdout(&cancelled).contains("cancelled"), "{cancelled:?}");
    let again = server.shell(&["cancel", &id]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    server.stop().await;
}

#[tokio::test]
async fn many_jobs_come_from_one_list_and_a_wrong_field_is_named() {
    let server = Server::signed_in().await;
    let many = r#"[{"command": ["echo", "1"]}, {"command": "echo 2"}]"#;
    let submitted = server.shell_with(&["submit", "--spec", "-"], many).await;
    assert_eq!(stdout(&submitted).lines().count(), 2, "{submitted:?}");

    let wrong = server
        .shell_with(&["submit", "--spec", "-"], r#"{"command": "x", "timeot": 1}"#)
        .await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("timeot"), "{wrong:?}");

    let refused = server
        .shell(&["submit", "--workdir", "relative", "--", "x"])
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("workdir"), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn output_comes_out_of_the_stream_it_went_into_stored_or_followed() {
    let server = Server::signed_in().await;
    let job = server.submitted().await;
    let attempt = server.start_job(job).await;
    server.log(attempt, Stream::Stdout, 0, "one\n").await;
    server.log(attempt, Stream::Stderr, 0, "oops\n").await;

    let id = job.to_string();
    let stored = server.shell(&["logs", &id]).await;
    assert_eq!(
        (stdout(&stored).as_str(), stderr(&stored).as_str()),
        ("one\n", "oops\n")
    );

    let follow = ["logs", "-f", &id];
    let following = server.shell(&follow);
    let rest = async {
        server.log(attempt, Stream::Stdout, 1, "two\u{1b}[2J\n").await;
        server.finish_job(job, attempt, Outcome::Exited { code: 0 }).await;
    };
    let (followed, ()) = tokio::join!(following, rest);
    assert_eq!(
        stdout(&followed),
        "one\ntwo\u{1b}[2J\n",
        "into a pipe the bytes go unchanged"
    );
    assert_eq!(stderr(&followed), "oops\n");

    let tail = server
        .shell(&["logs", "--stream", "stdout", "--tail", "1", &id])
        .await;
    assert_eq!(stdout(&tail), "two\u{1b}[2J\n");
    let page = stdout(&server.shell(&["get", &id]).await);
    assert!(
        page.contains("succeeded") && page.contains("exited with status 0"),
        "{page}"
    );
    server.stop().await;
}

#[tokio::test]
async fn run_ends_as_its_job_did() {
    let server = Server::signed_in().await;
    let run = ["run", "--quiet", "--name", "mine", "--", "sh", "-c", "exit 3"];
    let running = server.shell(&run);
    let worker = async {
        let job = server.first_queued().await;
        let attempt = server.start_job(job).await;
        server.log(attempt, Stream::Stdout, 0, "last words\n").await;
        server.finish_job(job, attempt, Outcome::Exited { code: 3 }).await;
    };
    let (ran, ()) = tokio::join!(running, worker);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert_eq!(stdout(&ran), "last words\n");
    assert_eq!(stderr(&ran), "");
    server.stop().await;
}

impl Server {
    /// The first job that waits; looks until there is one.
    async fn first_queued(&self) -> JobId {
        let look = async {
            loop {
                let queued = self.stores.jobs.queued(None, 1).await.unwrap();
                if let Some(job) = queued.first() {
                    return job.id;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), look)
            .await
            .expect("no job was queued within 60 s")
    }
}

#[tokio::test]
async fn a_file_and_a_folder_go_up_and_come_back_as_they_were() {
    let server = Server::signed_in().await;
    let here = server.folder.path();
    std::fs::write(here.join("data.bin"), vec![0xabu8; 300_000]).unwrap();
    std::fs::create_dir(here.join("project")).unwrap();
    std::fs::write(here.join("project/a.txt"), "a").unwrap();

    let uploaded = server.shell(&["files", "upload", "data.bin", "project"]).await;
    assert!(uploaded.status.success(), "{uploaded:?}");
    let ids: Vec<String> = stdout(&uploaded).lines().map(str::to_owned).collect();
    let back = server
        .shell(&["files", "download", &ids[0], "--to", "back.bin"])
        .await;
    assert!(back.status.success(), "{back:?}");
    assert_eq!(
        std::fs::read(here.join("back.bin")).unwrap(),
        vec![0xabu8; 300_000]
    );
    let again = server
        .shell(&["files", "download", &ids[0], "--to", "back.bin"])
        .await;
    assert!(stderr(&again).contains("--force"), "{again:?}");

    let list = stdout(&server.shell(&["files", "list"]).await);
    assert!(
        list.contains("data.bin") && list.contains("project.tar.gz"),
        "{list}"
    );
    assert!(server.shell(&["files", "delete", &ids[1]]).await.status.success());
    let gone = server.shell(&["files", "download", &ids[1], "--to", "-"]).await;
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    server.stop().await;
}

#[tokio::test]
async fn nobody_at_the_address_is_told_with_the_address() {
    let server = Server::signed_in().await;
    let nobody = server.shell(&["list", "--server", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    let told = stderr(&nobody);
    assert!(
        told.contains("http://127.0.0.1:1") && told.contains("jobworker up"),
        "{told}"
    );
    let run = server
        .shell(&["run", "--server", "http://127.0.0.1:1", "--", "true"])
        .await;
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    server.stop().await;
}
