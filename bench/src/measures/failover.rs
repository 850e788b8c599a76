//! The leading scheduler is killed at random instants; measured is how long it takes until a job that was submitted after
//! the kill is assigned to an agent, by the replica that follows.

use std::time::Duration;

use anyhow::Context;
use common::config::LeaseTimes;
use common::ids::JobId;
use common::tasks::Tasks;
use rand::{RngExt, SeedableRng};

use crate::args::FailoverArgs;
use crate::client::job_of;
use crate::fleet::Fleet;
use crate::report::{Findings, Row, number};
use crate::servers::Durability;
use crate::simulated::{self, Act, Crowd, Tally};
use crate::stats::{Samples, Stopwatch};

/// What is allowed on top of the life of the leader's lock.
const ON_TOP: Duration = Duration::from_secs(2);
/// After which it counts as never.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// Between two submissions after a kill; a start is seen this much too late at the most.
const SUBMIT_EVERY: Duration = Duration::from_millis(20);
/// The instant of a kill lies within this: a whole life of the lock, whose renewals it shall not keep step with.
const INSTANT_WITHIN: Duration = LeaseTimes::REAL.lock_ttl;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// # Errors
/// Work is not given out again, or a job was lost.
pub async fn run(args: &FailoverArgs) -> anyhow::Result<Findings> {
    let mut fleet = Fleet::start(2, Durability::Synced).await?;
    let tasks = Tasks::new();
    let crowd = Crowd {
        name: "simulated",
        agents: 4,
        slots: 50,
        act: Act::Finish,
        comes_back: true,
    };
    let tally = simulated::start_ready(&fleet.door(), &crowd, &fleet.client, &tasks).await?;
    let mut chance = rand::rngs::StdRng::seed_from_u64(args.seed);
    let (mut times, mut submitted) = (Vec::new(), 0);
    for kill in 1..=args.kills {
        let leader = fleet.leader().await?;
        let instant = INSTANT_WITHIN.mul_f64(chance.random::<f64>());
        tokio::time::sleep(instant).await;
        fleet.schedulers[leader].kill().await?;
        let (took, jobs) = until_given_out(&fleet, &tally).await?;
        eprintln!("kill {kill} of {}: {} s", args.kills, number(took.as_secs_f64()));
        times.push(took.as_secs_f64());
        submitted += jobs;
        fleet.schedulers[leader].start().await?;
    }
    all_succeeded(&fleet, submitted).await?;
    tasks.stop();
    let limit = (LeaseTimes::REAL.lock_ttl + ON_TOP).as_secs_f64();
    let times = Samples::new(times).summary();
    Ok(Findings {
        title: "separate programs: the leading scheduler killed, until work is given out again",
        counts: format!(
            "{} kills (SIGKILL) at random instants (seed {}), two schedulers, 4 simulated agents that come back by \
             themselves, every commit durable",
            args.kills, args.seed
        ),
        rows: vec![
            Row::at_most("the longest (the lock's life is 5 s)", limit, times.max, " s"),
            Row::told("median", format!("{} s", number(times.median))),
            Row::told(
                "jobs submitted without a leader, all of which succeeded",
                submitted.to_string(),
            ),
        ],
        notes: vec![
            "Measured from the kill to the assignment, at an agent, of a job submitted after the kill."
                .to_owned(),
            format!("Database: `{}`", fleet.mongo.command),
        ],
    })
}

/// Submits until one of these jobs is assigned. Answers when that was, and how many jobs there were.
async fn until_given_out(fleet: &Fleet, tally: &Tally) -> anyhow::Result<(Duration, u64)> {
    let killed = tally.now();
    tally.watch();
    let mut jobs: Vec<JobId> = Vec::new();
    loop {
        if let Some(at) = tally.assigned_at(&jobs) {
            return Ok((at.saturating_sub(killed), jobs.len() as u64));
        }
        anyhow::ensure!(
            tally.now() - killed < GIVEN_UP,
            "no job was given out for {} s after a kill",
            GIVEN_UP.as_secs()
        );
        let job = fleet.client.submit(&job_of(&["true"])).await;
        jobs.push(job.context("submitting without a leader")?);
        tokio::time::sleep(SUBMIT_EVERY).await;
    }
}

async fn all_succeeded(fleet: &Fleet, submitted: u64) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    loop {
        let counts = fleet.client.counts().await?;
        if counts.succeeded == submitted {
            return Ok(());
        }
        anyhow::ensure!(
            watch.read() < GIVEN_UP,
            "{submitted} jobs were submitted, the rows say {counts:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
