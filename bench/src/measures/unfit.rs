//! Whether jobs that no worker fits delay one that fits: the time from its submission to its arrival at an agent, with a
//! hundred thousand of them waiting and with none, on two systems side by side that take turns, so that what else
//! happens on the machine falls on both.

use anyhow::Context;
use common::api_types::{ResourcesBody, SubmitJob};
use common::identity::Role;
use common::tasks::Tasks;

use crate::args::UnfitArgs;
use crate::client::{BULK_MAX, job_of};
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation, Server};
use crate::simulated::{self, Crowd, Tally};
use crate::stats::{Samples, Summary};

pub const DELAY_MS_MAX: f64 = 10.0;

/// Past how many classes an account may have, so that some of the crowd waits in mixed ones too.
const LABELS: usize = 500;
/// Slots of the agent: more than are taken at a time.
const SLOTS: u32 = 8;
/// The account of those that wait. Whoever fills an account's classes delays that account alone.
const ACCOUNT: &str = "crowd";
const PASSWORD: &str = "long enough for a bench";

struct System {
    _installation: Installation,
    server: Server,
    tally: std::sync::Arc<Tally>,
    /// Milliseconds.
    starts: Vec<f64>,
}

/// # Errors
/// A job was refused, or did not succeed.
pub async fn run(args: &UnfitArgs) -> anyhow::Result<Findings> {
    let tasks = Tasks::new();
    let mut alone = System::start(0, &tasks).await?;
    let mut beside = System::start(args.jobs, &tasks).await?;
    for _ in 0..args.warm_up {
        alone.look().await?;
        beside.look().await?;
    }
    alone.starts.clear();
    beside.starts.clear();
    for _ in 0..args.samples {
        alone.look().await?;
        beside.look().await?;
    }
    let left = beside.server.client.counts().await?.queued;
    anyhow::ensure!(left == args.jobs as u64, "{left} of {} jobs wait", args.jobs);
    tasks.stop();
    let (alone, beside) = (alone.end().await?, beside.end().await?);
    let pair = |alone: f64, beside: f64| format!("{}, {} ms", number(alone), number(beside));
    Ok(Findings {
        title: "a job that fits, beside jobs that no worker fits: submission to its arrival at an agent",
        counts: format!(
            "{} jobs waiting in another account, of {LABELS} labels and 1,000 sizes, against none; {} jobs each after {} \
             to warm up, one by one; one simulated agent each; every commit durable",
            args.jobs, args.samples, args.warm_up
        ),
        rows: vec![
            Row::at_most(
                "difference of medians",
                DELAY_MS_MAX,
                beside.median - alone.median,
                " ms",
            ),
            Row::told(
                "none waiting, so many waiting: medians",
                pair(alone.median, beside.median),
            ),
            Row::told("the same, 90th percentiles", pair(alone.p90, beside.p90)),
            Row::told("the same, 99th percentiles", pair(alone.p99, beside.p99)),
            Row::told("the same, largest", pair(alone.max, beside.max)),
        ],
        notes: vec!["Two `jobworker up` side by side take turns, job by job.".to_owned()],
    })
}

impl System {
    /// The crowd comes before any worker does: none of it would be taken afterwards.
    async fn start(crowd: usize, tasks: &Tasks) -> anyhow::Result<Self> {
        let installation = Installation::new()?;
        let server = installation.start(Agent::None).await?;
        if crowd > 0 {
            let client = server
                .client
                .sign_in_beside(ACCOUNT, PASSWORD, Role::User)
                .await?;
            let mut left = crowd;
            while left > 0 {
                let count = left.min(BULK_MAX);
                client
                    .submit_many((left - count..left).map(unfit).collect())
                    .await?;
                left -= count;
            }
        }
        let agents = Crowd::finishing(1, SLOTS);
        let tally = simulated::start_ready(&server.door()?, &agents, &server.client, tasks).await?;
        Ok(Self {
            _installation: installation,
            server,
            tally,
            starts: Vec::new(),
        })
    }

    /// One job that fits.
    async fn look(&mut self) -> anyhow::Result<()> {
        self.tally.watch();
        let begun = self.tally.now();
        let job = self.server.client.run(&job_of(&["true"])).await?;
        let came = self.tally.assigned_at(&[job]).context("it came to no agent")?;
        self.starts
            .push(came.saturating_sub(begun).as_secs_f64() * 1_000.0);
        Ok(())
    }

    async fn end(self) -> anyhow::Result<Summary> {
        self.server.stop().await?;
        Ok(Samples::new(self.starts).summary())
    }
}

/// A job that the agent could not run, of another class than its neighbours.
fn unfit(number: usize) -> SubmitJob {
    let size = u32::try_from(number % 1_000).unwrap_or(0);
    let mut job = job_of(&["true"]);
    job.worker_labels = [(ACCOUNT.to_owned(), (number % LABELS).to_string())].into();
    job.resources = ResourcesBody {
        cpu_millis: Some(100 + 7 * size),
        memory_mib: Some(64 + 60 * size),
        disk_mib: None,
    };
    job
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_neighbours_are_alike_and_each_asks_for_a_label_that_nobody_has() {
        for number in 0..2_000 {
            let (one, other) = (unfit(number), unfit(number + 1));
            assert!(!one.worker_labels.is_empty());
            assert_ne!(
                (one.worker_labels, one.resources),
                (other.worker_labels, other.resources)
            );
        }
    }
}
