//! Many jobs through separate programs over a database that syncs every commit, against what that database can do in the
//! same run: [`ceiling`].

use common::tasks::Tasks;

use super::{ceiling, throughput};
use crate::args::{FleetArgs, ThroughputArgs};
use crate::fleet::Fleet;
use crate::process;
use crate::report::{Findings, Row, number};
use crate::servers::Durability;
use crate::simulated::{self, Crowd};

pub const OF_CEILING_MIN: f64 = 0.5;

/// # Errors
/// A job was lost, refused, or did not succeed.
pub async fn run(args: &FleetArgs) -> anyhow::Result<Findings> {
    let fleet = Fleet::start(1, Durability::Synced).await?;
    let (api, scheduler) = (fleet.api.pid()?, fleet.schedulers[0].pid()?);
    let before = ceiling::measure(&fleet.mongo, args.jobs, "ceiling-before").await?;
    eprintln!("ceiling: {} jobs/s", number(before));
    let tasks = Tasks::new();
    let crowd = Crowd::finishing(args.agents, args.slots);
    let tally = simulated::start_ready(&fleet.door(), &crowd, &fleet.client, &tasks).await?;
    let cpu = || (process::cpu_seconds(api), process::cpu_seconds(scheduler));
    let (cpu_before, load) = (cpu(), load(args));
    let (submitted, seconds) = throughput::push_through(&fleet.client, &tally, &load, &tasks).await?;
    let cpu_after = cpu();
    let counts = fleet.client.counts().await?;
    anyhow::ensure!(
        counts.succeeded == args.jobs as u64,
        "{} jobs were submitted, the rows say {counts:?}",
        args.jobs
    );
    tasks.stop();
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let jobs = args.jobs as f64;
    let through = jobs / seconds;
    eprintln!("through: {} jobs/s", number(through));
    let after = ceiling::measure(&fleet.mongo, args.jobs, "ceiling-after").await?;
    // The better of the two, so that a moment's noise does not flatter.
    let most = before.max(after);
    let cpu_a_job = |before: f64, after: f64| number((after - before) / jobs * 1e6);
    Ok(Findings {
        title: "separate programs: jobs through them, against what their database can do",
        counts: throughput::counts(&load),
        rows: vec![
            Row::at_least("against the ceiling", OF_CEILING_MIN, through / most, ""),
            Row::told(
                "submitted, run, result accepted",
                format!("{} jobs/s", number(through)),
            ),
            Row::told(
                "ceiling, before and after",
                format!("{}, {} jobs/s", number(before), number(after)),
            ),
            Row::told(
                "last submission acknowledged after",
                format!("{} s of {} s", number(submitted.as_secs_f64()), number(seconds)),
            ),
            Row::told(
                "processor time a job: api, scheduler",
                format!(
                    "{}, {} µs",
                    cpu_a_job(cpu_before.0, cpu_after.0),
                    cpu_a_job(cpu_before.1, cpu_after.1)
                ),
            ),
            Row::told("results refused as stale", tally.stale().to_string()),
        ],
        notes: vec![
            format!(
                "The ceiling: as many jobs on the same server and by the same driver, {} groups of {} at a time, one \
                 insert and three guarded updates a job and nothing else; the better of two counts.",
                ceiling::HANDS,
                ceiling::GROUP
            ),
            format!("Database: `{}`", fleet.mongo.command),
        ],
    })
}

const fn load(args: &FleetArgs) -> ThroughputArgs {
    ThroughputArgs {
        jobs: args.jobs,
        agents: args.agents,
        slots: args.slots,
        submitters: args.submitters,
        batch: args.batch,
    }
}
