//! `jobworker up` as a user starts it, in a folder of its own that goes with it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::protocol::token::FleetSecrets;
use common::secret::Secret;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::process;
use crate::simulated::Door;
use crate::stats::Stopwatch;

/// A start with 100,000 jobs on a busy machine, ten times over.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// `--stop-jobs` gives them their grace (10 s).
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// How often is looked whether it is ready: far below what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The image of jobs: a setting of the scripts, which also make it.
const IMAGE_DEFAULT: &str = "jobworker/busybox:1";

/// The image of the jobs that are measured.
pub fn image() -> String {
    std::env::var("JOBWORKER_IMAGE").unwrap_or_else(|_| IMAGE_DEFAULT.to_owned())
}

/// Who runs the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// The one of `jobworker up`, with real containers.
    Own,
    /// None; simulated ones may come.
    None,
}

/// The state of an installation; a server may be started on it again and again.
pub struct Installation {
    folder: TempDir,
}

pub struct Server {
    child: Child,
    pub pid: u32,
    pub client: Client,
    /// Where agents connect.
    workers: String,
    pub token: String,
    /// From the start of the process until it said that it is ready.
    pub ready_in: Duration,
    secrets: PathBuf,
}

#[derive(Deserialize)]
struct Ready {
    api: String,
    workers: String,
}

impl Installation {
    /// # Errors
    /// No temporary folder.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("jobworker-bench-")
            .tempdir()
            .context("making a folder")?;
        Ok(Self { folder })
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it and signs in.
    ///
    /// # Errors
    /// It did not become ready; the end of its log is told.
    pub async fn start(&self, agent: Agent) -> anyhow::Result<Server> {
        let at = |name: &str| self.folder.path().join(name);
        let (ready, log) = (at("ready.json"), at("up.log"));
        let _ = std::fs::remove_file(&ready);
        let mut command = Command::new(process::sibling("jobworker")?);
        command
            .args([
                "up",
                "--listen",
                "127.0.0.1:0",
                "--worker-listen",
                "127.0.0.1:0",
                "--stop-jobs",
            ])
            .args(["--no-rate-limits", "--image", &image()])
            .arg("--state")
            .arg(self.state())
            .arg("--password-file")
            .arg(at("password"))
            .arg("--ready-file")
            .arg(&ready)
            .env("XDG_CONFIG_HOME", at("config"))
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?)
            .kill_on_drop(true);
        if agent == Agent::None {
            command.arg("--no-agent");
        }
        let watch = Stopwatch::start();
        let mut child = command.spawn().context("starting `jobworker up`")?;
        let found = wait_ready(&mut child, &ready, &watch).await;
        let ready_in = watch.read();
        let found = found.with_context(|| format!("its log ends:\n{}", process::tail(&log)))?;
        let password = std::fs::read_to_string(at("password")).context("reading the first password")?;
        let (client, token) = Client::sign_in(&found.api, password.trim()).await?;
        Ok(Server {
            pid: child.id().context("it has ended")?,
            child,
            client,
            token,
            workers: found.workers,
            ready_in,
            secrets: self.state().join("secrets.json"),
        })
    }
}

async fn wait_ready(child: &mut Child, ready: &Path, watch: &Stopwatch) -> anyhow::Result<Ready> {
    while watch.read() < READY_WITHIN {
        if let Some(found) = std::fs::read(ready)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
        {
            return Ok(found);
        }
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("`jobworker up` ended with {status}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    anyhow::bail!("`jobworker up` was not ready after {} s", READY_WITHIN.as_secs())
}

impl Server {
    /// Where agents connect, with keys as an operator would make them from the fleet's secret.
    ///
    /// # Errors
    /// The installation's secrets cannot be read.
    pub fn door(&self) -> anyhow::Result<Door> {
        #[derive(Deserialize)]
        struct Stored {
            fleet_secret: String,
        }
        let text = std::fs::read(&self.secrets).context("reading the secrets")?;
        let stored: Stored = serde_json::from_slice(&text)?;
        let secret = data_encoding::HEXLOWER.decode(stored.fleet_secret.as_bytes())?;
        let fleet = FleetSecrets::new(vec![("k1".to_owned(), Secret::new(secret))])?;
        let authority = self.workers.split("://").last().unwrap_or(&self.workers);
        Ok(Door {
            addresses: [authority.trim_end_matches('/').to_owned()].into(),
            fleet: Arc::new(fleet),
        })
    }

    /// Ends it as Ctrl-C does, and waits.
    ///
    /// # Errors
    /// It did not end in time, or not well.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("not a process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = tokio::time::timeout(STOPPED_WITHIN, self.child.wait())
            .await
            .context("`jobworker up` did not end")??;
        anyhow::ensure!(
            status.success() || status.code() == Some(130) || status.code() == Some(143),
            "`jobworker up` ended with {status}"
        );
        Ok(())
    }
}
