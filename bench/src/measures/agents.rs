//! Thousands of simulated agents on one scheduler with the times of real installations: what it takes of memory and
//! processor while nothing happens but heartbeats, and how soon all are back after it was killed and started again.

use std::sync::Arc;
use std::time::Duration;

use common::tasks::Tasks;

use crate::args::AgentsArgs;
use crate::fleet::Fleet;
use crate::process;
use crate::report::{Findings, Row, number};
use crate::servers::Durability;
use crate::simulated::{self, Act, Crowd, Tally};
use crate::stats::Stopwatch;

/// With no attempt running, and with some each.
const MEGABYTES_MAX: [f64; 2] = [400.0, 600.0];
const CORES_MAX: [f64; 2] = [0.25, 0.5];
const BACK_S_MAX: f64 = 30.0;

/// What begins has gone by then: several heartbeats, and several of the leader's full looks.
const SETTLE: Duration = Duration::from_secs(20);
const COME_WITHIN: Duration = Duration::from_secs(300);
const BACK_WITHIN: Duration = Duration::from_secs(300);
/// Each attempt is three writes of its row, and the database makes some thousands in a second.
const RUN_WITHIN: Duration = Duration::from_secs(1_800);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A count reads every key of its state.
const COUNT_EVERY: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(5);

struct Rest {
    megabytes: f64,
    cores: f64,
}

/// # Errors
/// Not all connect, or not all attempts start.
pub async fn run(args: &AgentsArgs) -> anyhow::Result<Findings> {
    let mut fleet = Fleet::start(1, Durability::Trusting).await?;
    fleet.leader().await?;
    let tasks = Tasks::new();
    let crowd = Crowd {
        name: "crowd",
        agents: args.agents,
        slots: args.attempts.max(1),
        act: Act::Hold,
        comes_back: true,
    };
    let began = Stopwatch::start();
    let tally = simulated::start(&fleet.door(), &crowd, &tasks)?;
    all_connected(&tally, args.agents, COME_WITHIN).await?;
    eprintln!("all connected after {} s", number(began.read().as_secs_f64()));
    let idle = rest(&fleet, &tally, args.seconds).await?;
    let back_idle = restart(&mut fleet, &tally, args.agents).await?;

    let attempts = args.agents * args.attempts as usize;
    all_run(&fleet, attempts).await?;
    let busy = rest(&fleet, &tally, args.seconds).await?;
    let back_busy = restart(&mut fleet, &tally, args.agents).await?;
    tokio::time::sleep(SETTLE).await;
    let running = fleet.client.counts().await?.running;
    let lost = tally.sessions_anew() + fleet.schedulers[0].said("a worker's session is lost") as u64;
    tasks.stop();
    Ok(findings(
        args,
        &fleet,
        &tally,
        &[idle, busy],
        &[back_idle, back_busy],
        (lost, running),
    ))
}

fn findings(
    args: &AgentsArgs,
    fleet: &Fleet,
    tally: &Arc<Tally>,
    rest: &[Rest; 2],
    back: &[f64; 2],
    (lost, running): (u64, u64),
) -> Findings {
    let whats = [
        "no attempt running".to_owned(),
        format!("{} attempts each", args.attempts),
    ];
    let mut rows = Vec::new();
    for (part, what) in whats.iter().enumerate() {
        rows.push(Row::at_most(
            format!("{what}: memory of the scheduler"),
            MEGABYTES_MAX[part],
            rest[part].megabytes,
            " MB",
        ));
        rows.push(Row::at_most(
            format!("{what}: processor of the scheduler"),
            CORES_MAX[part],
            rest[part].cores,
            " of a core",
        ));
        rows.push(Row::at_most(
            format!("{what}: all reconnected after a kill and a start"),
            BACK_S_MAX,
            back[part],
            " s",
        ));
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of sessions")]
    let lost = lost as f64;
    rows.push(Row::at_most(
        "sessions declared lost or begun anew",
        0.0,
        lost,
        "",
    ));
    rows.push(Row::told("attempts running at the end", running.to_string()));
    rows.push(Row::told("attempts told to stop", tally.stopped().to_string()));
    rows.push(Row::told(
        "heartbeats, and those acknowledged late",
        format!("{}, {}", tally.beats(), tally.late_beats()),
    ));
    Findings {
        title: "separate programs: thousands of agents on one scheduler",
        counts: format!(
            "{} simulated agents on real WebSockets, one scheduler, heartbeats each 5 s; memory and processor over {} s",
            args.agents, args.seconds
        ),
        rows,
        notes: vec![
            "Agents come back with the real agent's pauses: doubling from 100 ms to 10 s, half of each by chance. Each \
             heartbeat tells another load."
                .to_owned(),
            format!("Database: `{}`", fleet.mongo.command),
        ],
    }
}

async fn all_connected(tally: &Tally, agents: usize, within: Duration) -> anyhow::Result<f64> {
    let (watch, mut told) = (Stopwatch::start(), Duration::ZERO);
    while tally.connected() < agents {
        let connected = tally.connected();
        anyhow::ensure!(
            watch.read() < within,
            "{connected} of {agents} agents are connected"
        );
        if watch.read() >= told + TELL_EVERY {
            told = watch.read();
            eprintln!(
                "{connected} of {agents} agents connected after {} s",
                told.as_secs()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(watch.read().as_secs_f64())
}

/// Submits so many jobs, which the agents hold, until all of them run.
async fn all_run(fleet: &Fleet, attempts: usize) -> anyhow::Result<()> {
    let watch = Stopwatch::start();
    fleet.client.fill(attempts).await?;
    loop {
        let running = usize::try_from(fleet.client.counts().await?.running)?;
        eprintln!(
            "{running} of {attempts} attempts run after {} s",
            watch.read().as_secs()
        );
        if running == attempts {
            return Ok(());
        }
        anyhow::ensure!(watch.read() < RUN_WITHIN, "{running} of {attempts} attempts run");
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Memory at the end and processor over the time, once all is quiet.
async fn rest(fleet: &Fleet, tally: &Tally, seconds: u64) -> anyhow::Result<Rest> {
    tokio::time::sleep(SETTLE).await;
    let pid = fleet.schedulers[0].pid()?;
    let (cpu, late, watch) = (process::cpu_seconds(pid), tally.late_beats(), Stopwatch::start());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let cores = (process::cpu_seconds(pid) - cpu) / watch.read().as_secs_f64();
    let megabytes = process::rss_mb(pid);
    eprintln!(
        "{} MB, {} of a core, {} late heartbeats, peak {} MB",
        number(megabytes),
        number(cores),
        tally.late_beats() - late,
        number(process::rss_peak_mb(pid))
    );
    Ok(Rest { megabytes, cores })
}

/// From the start of the killed scheduler until all are connected again.
async fn restart(fleet: &mut Fleet, tally: &Tally, agents: usize) -> anyhow::Result<f64> {
    fleet.schedulers[0].kill().await?;
    let watch = Stopwatch::start();
    while tally.connected() > 0 {
        anyhow::ensure!(watch.read() < BACK_WITHIN, "connections outlive their gateway");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let watch = Stopwatch::start();
    fleet.schedulers[0].start().await?;
    all_connected(tally, agents, BACK_WITHIN).await?;
    let back = watch.read().as_secs_f64();
    eprintln!("all back after {} s", number(back));
    Ok(back)
}
