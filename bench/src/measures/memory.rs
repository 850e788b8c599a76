//! Memory of `jobworker up` at rest and with many jobs waiting, and how long it takes to start with them and to finish
//! the first.

use std::time::Duration;

use common::tasks::Tasks;

use crate::args::MemoryArgs;
use crate::process;
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation};
use crate::simulated::{self, Crowd};
use crate::stats::Stopwatch;

pub const IDLE_MB_MAX: f64 = 40.0;
pub const WAITING_MB_MAX: f64 = 200.0;
pub const START_S_MAX: f64 = 5.0;

/// What a start allocates for a moment has gone by then.
const SETTLE: Duration = Duration::from_secs(5);
/// Far below what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const GIVEN_UP: Duration = Duration::from_secs(60);

/// # Errors
/// A job was lost.
pub async fn run(args: &MemoryArgs) -> anyhow::Result<Findings> {
    let idle = {
        let installation = Installation::new()?;
        let server = installation.start(Agent::Own).await?;
        server.client.wait_for_workers(1).await?;
        tokio::time::sleep(SETTLE).await;
        let idle = process::rss_mb(server.pid);
        server.stop().await?;
        idle
    };
    let installation = Installation::new()?;
    let server = installation.start(Agent::None).await?;
    let empty_start = server.ready_in;
    server.client.submit_count(args.jobs).await?;
    tokio::time::sleep(SETTLE).await;
    let (waiting, peak) = (process::rss_mb(server.pid), process::rss_peak_mb(server.pid));
    server.stop().await?;

    let server = installation.start(Agent::None).await?;
    let started = server.ready_in;
    let counts = server.client.counts().await?;
    anyhow::ensure!(
        counts.queued == args.jobs as u64,
        "{} jobs were submitted, after the start there are {counts:?}",
        args.jobs
    );
    tokio::time::sleep(SETTLE).await;
    let again = process::rss_mb(server.pid);
    server.stop().await?;
    let first = first_result(&installation).await?;

    let jobs = args.jobs;
    Ok(Findings {
        title: "memory of `jobworker up`, and its start",
        counts: format!("at rest with its own agent; then {jobs} jobs waiting, without an agent"),
        rows: vec![
            Row::at_most("resident at rest", IDLE_MB_MAX, idle, " MB"),
            Row::at_most(
                format!("resident with {jobs} jobs waiting"),
                WAITING_MB_MAX,
                waiting,
                " MB",
            ),
            Row::at_most("the same after a start with them", WAITING_MB_MAX, again, " MB"),
            Row::at_most(
                "start to ready with them",
                START_S_MAX,
                started.as_secs_f64(),
                " s",
            ),
            Row::at_most(
                "start to the first accepted result of them",
                START_S_MAX,
                first.as_secs_f64(),
                " s",
            ),
            Row::told(
                "start to ready, empty",
                format!("{} s", number(empty_start.as_secs_f64())),
            ),
            Row::told("peak while they were submitted", format!("{} MB", number(peak))),
        ],
        notes: vec![
            "MB are 10^6 bytes; resident memory counts the pages of the program itself.".to_owned(),
            "First accepted result: of a start of its own, with one simulated agent that connects when it is ready and a \
             client has signed in."
                .to_owned(),
        ],
    })
}

/// From the start of the process. That it is ready says that it answers, not that its queue is there.
async fn first_result(installation: &Installation) -> anyhow::Result<Duration> {
    let tasks = Tasks::new();
    let watch = Stopwatch::start();
    let server = installation.start(Agent::None).await?;
    let tally = simulated::start(&server.door()?, &Crowd::finishing(1, 1), &tasks)?;
    while tally.accepted() == 0 {
        anyhow::ensure!(watch.read() < GIVEN_UP, "no result was accepted");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let first = watch.read();
    tasks.stop();
    server.stop().await?;
    Ok(first)
}
