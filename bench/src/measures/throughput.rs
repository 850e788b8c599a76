//! Many jobs through the control plane: from the first submission to the last result that was accepted. Submission,
//! claims, starts and results overlap, as they do in life.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::tasks::Tasks;

use crate::args::ThroughputArgs;
use crate::client::{Client, job_of};
use crate::process;
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation};
use crate::simulated::{self, Crowd, Tally};
use crate::stats::Stopwatch;

pub const JOBS_PER_SECOND_MIN: f64 = 6_000.0;

/// Without one more accepted result for so long, it hangs.
const STALL: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What one run found.
pub struct Measured {
    pub jobs_per_second: f64,
    seconds: f64,
    submitted: Duration,
    succeeded: u64,
    stale: u64,
    /// Processor time a job in µs: of the control plane, and of clients and agents.
    cpu: (f64, f64),
    peak_mb: f64,
}

/// # Errors
/// A job was lost, refused, or did not succeed.
pub async fn measure(args: &ThroughputArgs) -> anyhow::Result<Measured> {
    let installation = Installation::new()?;
    let server = installation.start(Agent::None).await?;
    let tasks = Tasks::new();
    let crowd = Crowd::finishing(args.agents, args.slots);
    let tally = simulated::start_ready(&server.door()?, &crowd, &server.client, &tasks).await?;

    let cpu_before = (
        process::cpu_seconds(server.pid),
        process::cpu_seconds(std::process::id()),
    );
    let (submitted, seconds) = push_through(&server.client, &tally, args, &tasks).await?;
    let cpu = (
        process::cpu_seconds(server.pid) - cpu_before.0,
        process::cpu_seconds(std::process::id()) - cpu_before.1,
    );
    let wanted = args.jobs as u64;
    let (peak, counts) = (process::rss_peak_mb(server.pid), server.client.counts().await?);
    anyhow::ensure!(
        counts.succeeded == wanted,
        "{wanted} jobs were submitted, the rows say {counts:?}"
    );
    let stale = tally.stale();
    tasks.stop();
    server.stop().await?;

    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let jobs = args.jobs as f64;
    Ok(Measured {
        jobs_per_second: jobs / seconds,
        seconds,
        submitted,
        succeeded: counts.succeeded,
        stale,
        cpu: (cpu.0 / jobs * 1e6, cpu.1 / jobs * 1e6),
        peak_mb: peak,
    })
}

/// Submits all jobs and waits until every result is accepted. Answers when the last submission was acknowledged, and
/// the seconds in all.
///
/// # Errors
/// A job was refused, or no more results come.
pub async fn push_through(
    client: &Client,
    tally: &Tally,
    args: &ThroughputArgs,
    tasks: &Tasks,
) -> anyhow::Result<(Duration, f64)> {
    let watch = Stopwatch::start();
    let left = Arc::new(AtomicUsize::new(args.jobs));
    let (failed, mut failures) = tokio::sync::mpsc::channel(args.submitters.max(1));
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..args.submitters {
        let (client, left, done) = (client.clone(), Arc::clone(&left), Arc::clone(&done));
        let (failed, batch) = (failed.clone(), args.batch);
        tasks.spawn("submitter", async move {
            if let Err(error) = submit(&client, &left, batch).await {
                let _ = failed.send(error).await;
            }
            done.fetch_add(1, Ordering::AcqRel);
        });
    }
    let submitted = wait_for(&watch, tally, 0, || {
        done.load(Ordering::Acquire) == args.submitters
    })
    .await?;
    if let Ok(error) = failures.try_recv() {
        return Err(error);
    }
    let ended = wait_for(&watch, tally, args.jobs as u64, || true).await?;
    Ok((submitted, ended.as_secs_f64()))
}

/// # Errors
/// See [`measure`].
pub async fn run(args: &ThroughputArgs) -> anyhow::Result<Findings> {
    let found = Box::pin(measure(args)).await?;
    Ok(Findings {
        title: "jobs through the control plane, simulated agents",
        counts: counts(args),
        rows: vec![
            Row::at_least(
                "submitted, run, result accepted",
                JOBS_PER_SECOND_MIN,
                found.jobs_per_second,
                " jobs/s",
            ),
            Row::told(
                "first submission to last accepted result",
                format!("{} s", number(found.seconds)),
            ),
            Row::told(
                "last submission acknowledged after",
                format!("{} s", number(found.submitted.as_secs_f64())),
            ),
            Row::told(
                "jobs that the rows show as succeeded",
                found.succeeded.to_string(),
            ),
            Row::told("results refused as stale", found.stale.to_string()),
            Row::told(
                "processor time a job: control plane, clients and agents",
                format!("{}, {} µs", number(found.cpu.0), number(found.cpu.1)),
            ),
            Row::told(
                "peak memory of `jobworker up`",
                format!("{} MB", number(found.peak_mb)),
            ),
        ],
        notes: vec!["Clients and agents share the processors with the control plane.".to_owned()],
    })
}

/// How much of what, by whom.
pub fn counts(args: &ThroughputArgs) -> String {
    format!(
        "{} jobs in requests of {} by {} clients, {} simulated agents of {} slots on real WebSockets, every commit durable",
        args.jobs, args.batch, args.submitters, args.agents, args.slots
    )
}

async fn submit(client: &Client, left: &AtomicUsize, batch: usize) -> anyhow::Result<()> {
    loop {
        let take = |left: usize| (left > 0).then(|| left - left.min(batch));
        let Ok(before) = left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) else {
            return Ok(());
        };
        let count = before.min(batch);
        let ids = client.submit_many(vec![job_of(&["true"]); count]).await?;
        anyhow::ensure!(
            ids.len() == count,
            "{count} jobs were sent, {} acknowledged",
            ids.len()
        );
    }
}

/// Until so many results are accepted and `more` holds.
async fn wait_for(
    watch: &Stopwatch,
    tally: &Tally,
    accepted: u64,
    more: impl Fn() -> bool,
) -> anyhow::Result<Duration> {
    let (mut seen, mut seen_at) = (tally.accepted(), watch.read());
    loop {
        let now = tally.accepted();
        if now >= accepted && more() {
            return Ok(watch.read());
        }
        if now != seen {
            (seen, seen_at) = (now, watch.read());
        }
        anyhow::ensure!(
            watch.read() - seen_at < STALL,
            "no result was accepted for {} s, after {seen}",
            STALL.as_secs()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
