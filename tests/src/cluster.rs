//! The whole system as a user starts it: the real `jobworker up` on ports of its own, with everything that it keeps in
//! a folder of its own.
//!
//! Nothing outlives the test: the process is killed by its number, its containers are removed by its own mark, its
//! mounts are let go. Unless [`Cluster::stop`] was reached, the last lines of its log are printed.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::client::Client;
use crate::docker::Docker;
use crate::images;
use crate::process::{Running, program};
use crate::wait::{LONG, wait_for};

const LOG_LINES_SHOWN: usize = 60;

/// How a system is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most containers at a time.
    pub slots: u32,
    pub image: Option<String>,
    /// The engine's address; without, the machine's own.
    pub docker_host: Option<String>,
    /// The state folder; without, one that goes with the cluster.
    pub state: Option<PathBuf>,
    pub agent: bool,
    /// The times of leases as users have them, for what has to outlast the short ones of tests.
    pub real_times: bool,
    /// Further arguments of `up`.
    pub arguments: Vec<String>,
    /// Addresses of MongoDB and Redis, where it is not to keep everything in its folder.
    pub servers: Option<(String, String)>,
    /// Further variables of its environment.
    pub environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            slots: 2,
            image: None,
            docker_host: None,
            state: None,
            agent: true,
            real_times: false,
            arguments: Vec::new(),
            servers: None,
            environment: Vec::new(),
        }
    }
}

/// What `up` says of itself once it is ready.
#[derive(Debug, Clone, Deserialize)]
pub struct Ready {
    pub api: String,
    pub workers: String,
    pub pid: u32,
}

#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    folder: TempDir,
    process: Option<Running>,
    client: Option<Client>,
    ready: Option<Ready>,
    stopped: bool,
}

impl Cluster {
    /// A fresh system with one agent, ready for jobs.
    ///
    /// # Errors
    /// When it does not become ready; with what it said.
    pub async fn start() -> Result<Self> {
        Self::with(Settings::default()).await
    }

    /// # Errors
    /// When it does not become ready; with what it said.
    pub async fn with(settings: Settings) -> Result<Self> {
        let agent = settings.agent;
        let cluster = Self::without_waiting(settings).await?;
        if agent {
            cluster.client()?.worker_ready("default").await?;
        }
        Ok(cluster)
    }

    /// As [`Cluster::with`], but nobody waits for the agent.
    ///
    /// # Errors
    /// When the API does not become ready.
    pub async fn without_waiting(settings: Settings) -> Result<Self> {
        // The agent looks for it beside the program, and says so only when a job comes.
        if settings.agent {
            program("jobworker-init")?;
        }
        let mut cluster = Self {
            folder: tempfile::Builder::new().prefix("jw-e2e-").tempdir()?,
            settings,
            process: None,
            client: None,
            ready: None,
            stopped: false,
        };
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Starts it on the same state folder, after a kill or a stop. Clients of before find it again.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("it runs already");
        }
        let ready_file = self.folder.path().join("ready.json");
        if ready_file.exists() {
            std::fs::remove_file(&ready_file)?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("up.log"))?;
        let mut command = self.command()?;
        command.arg("--ready-file").arg(&ready_file);
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(Running::start(&mut command)?);
        self.stopped = false;
        let ready = self.wait_until_ready(&ready_file).await?;
        let base = match ready.api.strip_prefix("http") {
            Some(_) => ready.api.clone(),
            None => format!("http://{}", ready.api),
        };
        match &self.client {
            Some(client) => client.moved_to(&base),
            None => self.client = Some(Client::new(&base)?.sign_in("admin", &self.password()?).await?),
        }
        self.ready = Some(ready);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let settings = &self.settings;
        let image = match &settings.image {
            Some(image) => image.clone(),
            None => images::base()?,
        };
        let mut command = Command::new(program("jobworker")?);
        for name in [
            "JOBWORKER_SERVER",
            "JOBWORKER_TOKEN",
            "JOBWORKER_STATE",
            "DEFAULT_IMAGE",
            // meant for the tests of the stores
            "MONGODB_URI",
            "REDIS_URL",
        ] {
            command.env_remove(name);
        }
        if let Some((mongodb, redis)) = &settings.servers {
            command.env("MONGODB_URI", mongodb).env("REDIS_URL", redis);
        }
        command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        if let Some(host) = &settings.docker_host {
            command.env("DOCKER_HOST", host);
        }
        command.args(["up", "--listen", "127.0.0.1:0"]);
        if !settings.real_times {
            command.arg("--scaled-times");
        }
        command.args(["--worker-listen", "127.0.0.1:0", "--image", &image]);
        command.args(["--slots", &settings.slots.to_string()]);
        command.arg("--state").arg(self.state());
        command.arg("--password-file").arg(self.password_file());
        if !settings.agent {
            command.arg("--no-agent");
        }
        command.args(&settings.arguments);
        Ok(command)
    }

    async fn wait_until_ready(&mut self, file: &Path) -> Result<Ready> {
        let process = self.process.as_mut().context("it was started")?;
        let ready = wait_for(LONG, "`jobworker up` to be ready", async || {
            match process.ended() {
                Ok(None) => {}
                // there is nothing left to wait for; the caller tells the two apart
                Ok(Some(status)) => return Ok(Err(status)),
                Err(error) => return Err(error.to_string()),
            }
            let text = std::fs::read(file).map_err(|error| error.to_string())?;
            serde_json::from_slice(&text)
                .map(Ok)
                .map_err(|error| error.to_string())
        });
        ready
            .await?
            .map_err(|status: ExitStatus| anyhow::anyhow!("`jobworker up` ended with {status}"))
    }

    /// Signed in as the administrator.
    ///
    /// # Errors
    /// When it was never ready.
    pub fn client(&self) -> Result<Client> {
        self.client.clone().context("it was never ready")
    }

    /// # Errors
    /// When it was never ready.
    pub fn ready(&self) -> Result<&Ready> {
        self.ready.as_ref().context("it was never ready")
    }

    /// Where workers connect.
    ///
    /// # Errors
    /// When it was never ready.
    pub fn workers_address(&self) -> Result<SocketAddr> {
        let text = &self.ready()?.workers;
        let bare = text.rsplit("//").next().unwrap_or(text).trim_end_matches('/');
        bare.parse().with_context(|| format!("`{text}` is no address"))
    }

    pub fn state(&self) -> PathBuf {
        match &self.settings.state {
            Some(state) => state.clone(),
            None => self.folder.path().join("state"),
        }
    }

    /// A folder of this cluster's, for what a test wants to write.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }

    /// # Errors
    /// When there is none.
    pub fn password(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.password_file()).context("no password was written")?;
        Ok(text.trim_end().to_owned())
    }

    /// The engine that its agent uses, and what is this cluster's there.
    pub fn docker(&self) -> Docker {
        Docker::of(self.settings.docker_host.clone(), &self.state())
    }

    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it does not run")?.pid())
    }

    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("it does not run")?.signal(signal)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill()
    }

    /// SIGTERM, and the status that it ends with.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("it does not run")?;
        process.stop(Duration::from_secs(40)).await
    }

    /// The end of a test that has passed: stops the system and holds it to a clean end, with no container left.
    ///
    /// # Errors
    /// When it does not end by itself, with success; or which containers it left.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.terminate().await?;
        if !status.success() {
            bail!("`jobworker up` ended with {status} after a SIGTERM");
        }
        if self.settings.agent {
            self.docker().none_left(LONG).await?;
        }
        self.stopped = true;
        Ok(())
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("up.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // first the process, so that it starts nothing new
        self.process = None;
        self.docker().remove_all();
        crate::disk::unmount_below(&self.state());
        if !self.stopped {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            println!("---- the last lines of {}", self.folder.path().display());
            for line in &lines[from..] {
                println!("{line}");
            }
        }
    }
}
