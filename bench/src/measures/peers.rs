//! The same number of jobs through the same machine's fastest queue of a neighbouring kind: BullMQ on Redis, in the
//! same run. It keeps nothing on disk and runs a function in its own process; ours commits every step durably and
//! speaks with agents over WebSockets. So this compares prices, not goods.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::throughput;
use crate::args::{PeersArgs, ThroughputArgs};
use crate::report::{Findings, Row, number};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// For Redis to take its first connection.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// For the other side's whole run: some ten times what was seen.
const RUN_WITHIN: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
}

/// # Errors
/// A job was lost, or what stands beside it is not here: then the sentence says what is missing.
pub async fn run(args: &PeersArgs) -> anyhow::Result<Findings> {
    let ours_args = ThroughputArgs {
        jobs: args.jobs,
        ..ThroughputArgs::default()
    };
    let place = tempfile::tempdir()?;
    install(place.path()).await?;
    let theirs = bullmq(place.path(), args.jobs).await?;
    let ours = Box::pin(throughput::measure(&ours_args)).await?.jobs_per_second;
    Ok(Findings {
        title: "adding and processing, beside BullMQ on Redis",
        counts: throughput::counts(&ours_args),
        rows: vec![
            Row::told("JobWorker against BullMQ", number(ours / theirs)),
            Row::told("JobWorker, durable", format!("{} jobs/s", number(ours))),
            Row::told(
                "BullMQ, Redis without persistence",
                format!("{} jobs/s", number(theirs)),
            ),
        ],
        notes: vec![
            "BullMQ: 4 adders of 1,000 jobs at once, 4 workers of 250 at a time in one process, one Redis."
                .to_owned(),
        ],
    })
}

async fn install(place: &Path) -> anyhow::Result<()> {
    for file in ["package.json", "bullmq.mjs"] {
        std::fs::copy(Path::new(PEERS).join(file), place.join(file))?;
    }
    let status = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--silent",
        ])
        .current_dir(place)
        .status()
        .await
        .context("npm is not here: install Node.js, then call this again")?;
    anyhow::ensure!(status.success(), "npm could not install BullMQ: {status}");
    Ok(())
}

async fn bullmq(place: &Path, jobs: usize) -> anyhow::Result<f64> {
    let (_redis, port) = redis(place).await?;
    let run = Command::new("node")
        .arg("bullmq.mjs")
        .args([port.to_string(), jobs.to_string()])
        .current_dir(place)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_WITHIN, run)
        .await
        .with_context(|| format!("BullMQ took more than {} s", RUN_WITHIN.as_secs()))?
        .context("node is not here: install Node.js, then call this again")?;
    anyhow::ensure!(output.status.success(), "BullMQ's run failed: {}", output.status);
    let answer: Answer = serde_json::from_slice(&output.stdout).context("what BullMQ's run printed")?;
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let jobs = jobs as f64;
    Ok(jobs / answer.seconds)
}

/// A Redis of its own on a free port, without persistence; ends with the handle.
async fn redis(place: &Path) -> anyhow::Result<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let folder: PathBuf = place.to_owned();
    let child = Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--port",
        ])
        .arg(port.to_string())
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("redis-server is not here: `apt-get install redis-server`, then call this again")?;
    let up = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(READY_WITHIN, up)
        .await
        .context("redis-server does not answer")?;
    Ok((child, port))
}
