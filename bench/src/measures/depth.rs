//! Whether a long queue makes anything slower: the time from a freed slot to the next start, and of a submission, with few
//! jobs waiting and with many, on the same system.

use std::time::Duration;

use anyhow::Context as _;
use common::identity::Role;
use common::tasks::Tasks;

use crate::args::DepthArgs;
use crate::client::{Client, job_of};
use crate::fleet::Fleet;
use crate::process;
use crate::report::{Findings, Row, number};
use crate::servers::Durability;
use crate::simulated::{self, Crowd};
use crate::stats::{Samples, Stopwatch, Summary};

pub const RATIO_MAX: f64 = 1.25;

const GIVEN_UP: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The database is at rest that took no more than this share of a core at so many looks in a row: between two batches
/// of what it works off it is quiet for a moment too.
const REST_LOOK: Duration = Duration::from_secs(2);
const REST_LOOKS: u32 = 3;
const REST_SHARE_MAX: f64 = 0.1;
/// The account and the user that have the other half of the many.
const OTHERS: &str = "others";
/// Of each kind before those that count.
const WARM_UP: usize = 20;

struct Measured {
    start: Summary,
    submit: Summary,
}

/// # Errors
/// A job was refused, or no more start.
pub async fn run(args: &DepthArgs) -> anyhow::Result<Findings> {
    let fleet = Fleet::start(1, Durability::Synced).await?;
    fleet.leader().await?;
    anyhow::ensure!(
        args.few > WARM_UP + args.samples,
        "more jobs have to wait than are started: ask for fewer samples"
    );
    fill(&fleet.client, args.few).await?;
    let few = measure(&fleet, args, "few", args.few).await?;
    // One account alone may not have so many.
    let password = format!("{:032x}", rand::random::<u128>());
    let others = fleet.client.sign_in_beside(OTHERS, &password, Role::User);
    others.await?.fill(args.many / 2).await?;
    fill(&fleet.client, args.many).await?;
    let many = measure(&fleet, args, "many", args.many).await?;
    let pair = |few: f64, many: f64| format!("{}, {} ms", number(few), number(many));
    Ok(Findings {
        title: "separate programs: a start and a submission, by how many jobs wait",
        counts: format!(
            "{} jobs waiting, half of them another account's, against {}; {} starts and {} submissions each, one by one, \
             the database at rest before; one simulated agent with one slot; every commit durable",
            args.many, args.few, args.samples, args.samples
        ),
        rows: vec![
            Row::at_most(
                "freed slot to next start, ratio of medians",
                RATIO_MAX,
                many.start.median / few.start.median,
                "",
            ),
            Row::at_most(
                "submission, ratio of medians",
                RATIO_MAX,
                many.submit.median / few.submit.median,
                "",
            ),
            Row::told(
                "freed slot to next start, medians",
                pair(few.start.median, many.start.median),
            ),
            Row::told("the same, 90th percentiles", pair(few.start.p90, many.start.p90)),
            Row::told("the same, 99th percentiles", pair(few.start.p99, many.start.p99)),
            Row::told("submission, medians", pair(few.submit.median, many.submit.median)),
            Row::told(
                "the same, 90th percentiles",
                pair(few.submit.p90, many.submit.p90),
            ),
            Row::told(
                "the same, 99th percentiles",
                pair(few.submit.p99, many.submit.p99),
            ),
        ],
        notes: vec![
            "Freed slot to next start: at the agent, from the sending of a result to the next assignment."
                .to_owned(),
            format!("Database: `{}`", fleet.mongo.command),
        ],
    })
}

async fn measure(
    fleet: &Fleet,
    args: &DepthArgs,
    name: &'static str,
    waiting: usize,
) -> anyhow::Result<Measured> {
    let client = &fleet.client;
    eprintln!("{waiting} jobs wait");
    rest(fleet).await?;
    // One after the other eats as many as it measures; submissions put as many back.
    let start = starts(fleet, name, args.samples).await?;
    let mut submits = Vec::with_capacity(args.samples);
    for turn in 0..WARM_UP + args.samples {
        let watch = Stopwatch::start();
        let submitted = client.submit(&job_of(&["true"])).await;
        submitted.with_context(|| format!("submission {turn}; {}", fleet.last_lines()))?;
        if turn >= WARM_UP {
            submits.push(watch.millis());
        }
    }
    Ok(Measured {
        start: Samples::new(start).summary(),
        submit: Samples::new(submits).summary(),
    })
}

/// Until so many wait in all.
async fn fill(client: &Client, waiting: usize) -> anyhow::Result<()> {
    let there = usize::try_from(client.counts().await?.queued)?;
    client.fill(waiting.saturating_sub(there)).await
}

/// Until the database has worked off what the filling has left behind: beside it processors do not fall asleep, and
/// answers would come sooner than on the quiet system that they are compared with.
async fn rest(fleet: &Fleet) -> anyhow::Result<()> {
    let pid = fleet.mongo.pid()?;
    let watch = Stopwatch::start();
    let (mut before, mut quiet) = (process::cpu_seconds(pid), 0);
    while quiet < REST_LOOKS {
        tokio::time::sleep(REST_LOOK).await;
        let now = process::cpu_seconds(pid);
        // one that has ended takes nothing, and is not at rest
        anyhow::ensure!(now > 0.0, "the database has ended");
        let rests = now - before <= REST_LOOK.as_secs_f64() * REST_SHARE_MAX;
        quiet = if rests { quiet + 1 } else { 0 };
        anyhow::ensure!(watch.read() < GIVEN_UP, "the database does not come to rest");
        before = now;
    }
    Ok(())
}

/// Each time by another worker: what the one before holds at its end takes its only slot until its session is lost.
async fn starts(fleet: &Fleet, name: &'static str, samples: usize) -> anyhow::Result<Vec<f64>> {
    let tasks = Tasks::new();
    let crowd = Crowd {
        name,
        ..Crowd::finishing(1, 1)
    };
    let tally = simulated::start(&fleet.door(), &crowd, &tasks)?;
    let watch = Stopwatch::start();
    while tally.freed() < WARM_UP + samples {
        anyhow::ensure!(
            watch.read() < GIVEN_UP,
            "{} jobs started and no more",
            tally.freed()
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tasks.stop();
    let mut waits = tally.take_freed();
    waits.truncate(WARM_UP + samples);
    Ok(waits.split_off(WARM_UP))
}
