//! Servers of a measurement's own: a database that speaks MongoDB's protocol, and a Redis; in folders of their own, gone
//! with their holder.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use storage::conformance::mongo_server;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::stats::Stopwatch;

/// On a machine that compiles beside.
const READY_WITHIN: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether an acknowledged write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `--sync-on-commit`
    Synced,
    /// The operating system's word is taken for it: what is measured is not about the database.
    Trusting,
}

pub struct Mongo {
    child: Child,
    address: String,
    /// As it was started, without what is this run's own.
    pub command: String,
    _folder: TempDir,
}

impl Mongo {
    /// # Errors
    /// It is not installed, or does not start.
    pub async fn start(durability: Durability) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("jobworker-bench-mongo-")
            .tempdir()?;
        let log = folder.path().join("log");
        let mut options = vec!["--cache-size", "2G", "--log-level", "ERROR"];
        if durability == Durability::Synced {
            options.push("--sync-on-commit");
        }
        let output = File::create(&log)?;
        let mut child = tied(&mongo_server::program())
            .args(["--port", "0", "--storage-path"])
            .arg(folder.path().join("data"))
            .args(&options)
            .stderr(output.try_clone()?)
            .stdout(output)
            .spawn()
            .context("starting a database")?;
        let watch = Stopwatch::start();
        let address = loop {
            let told = std::fs::read_to_string(&log).unwrap_or_default();
            if let Some((_, address)) = told.lines().find_map(|line| line.split_once("listening on ")) {
                break address.trim().to_owned();
            }
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("the database ended with {status}: {told}");
            }
            anyhow::ensure!(watch.read() < READY_WITHIN, "the database does not start: {told}");
            tokio::time::sleep(LOOK_EVERY).await;
        };
        Ok(Self {
            child,
            address,
            command: format!("secantusd-rs {}", options.join(" ")),
            _folder: folder,
        })
    }

    pub fn uri(&self, database: &str) -> String {
        format!("mongodb://{}/{database}", self.address)
    }

    /// Of the process that was started; it may have ended since.
    ///
    /// # Errors
    /// It was waited for already.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the database has ended")
    }
}

/// A program that ends with this one, however this one ends.
pub fn tied(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}
