//! `echo hi`: through REST, a real agent and a real container, from the request to the terminal state that the client
//! knows; against `docker run --rm` with the flags of the agent's own containers. The two take turns, so that what
//! else happens on the machine falls on both.

use std::process::Stdio;
use std::time::Duration;

use crate::args::EchoArgs;
use crate::client::job_of;
use crate::docker::Flags;
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation, image};
use crate::stats::{Samples, Stopwatch};

pub const RATIO_MAX: f64 = 1.0;

const ARGV: [&str; 2] = ["echo", "hi"];

/// Between two runs, for both sides alike: people's jobs do not come back to back, and what one run leaves to be done
/// (a container's removal, another one's preparation) must not be charged to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// # Errors
/// A run failed on either side.
pub async fn run(args: &EchoArgs) -> anyhow::Result<Findings> {
    let installation = Installation::new()?;
    let server = installation.start(Agent::Own).await?;
    server.client.wait_for_workers(1).await?;
    let flags = Flags::of_the_agents_containers(&server).await?;
    let (image, job) = (image(), job_of(&ARGV));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 0..args.warm_up + args.pairs {
        tokio::time::sleep(PAUSE).await;
        let watch = Stopwatch::start();
        server.client.run(&job).await?;
        let our_time = watch.millis();
        tokio::time::sleep(PAUSE).await;
        let their_time = flags.run(&image, &ARGV, Stdio::null()).await?.as_secs_f64() * 1_000.0;
        if pair >= args.warm_up {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    server.stop().await?;

    let (ours, theirs) = (Samples::new(ours).summary(), Samples::new(theirs).summary());
    Ok(Findings {
        title: "`echo hi` over REST in a real container, against `docker run --rm`",
        counts: format!(
            "{} pairs after {} to warm up, taking turns, {} ms of rest before each run",
            args.pairs,
            args.warm_up,
            PAUSE.as_millis()
        ),
        rows: vec![
            Row::at_most("ratio of medians", RATIO_MAX, ours.median / theirs.median, ""),
            Row::told("JobWorker, median", format!("{} ms", number(ours.median))),
            Row::told("JobWorker, 90th percentile", format!("{} ms", number(ours.p90))),
            Row::told("`docker run`, median", format!("{} ms", number(theirs.median))),
            Row::told(
                "`docker run`, 90th percentile",
                format!("{} ms", number(theirs.p90)),
            ),
        ],
        notes: vec![format!("`docker run --rm {flags} {image} echo hi`")],
    })
}
