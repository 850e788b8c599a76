//! Programs of ours that are killed, stand still, come back, or come twice.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::api_types::JobView;
use common::ids::JobId;
use common::job::StateName;
use common::time::{Clock, SystemClock};
use rustix::process::Signal;

use super::bounds::{ALL_CONNECTED, NEW_LEADER, STEPS_DOWN, TAKEN_FROM_IT, in_time};
use super::rows::{LEASE, LOCK};
use super::stage::Stage;
use crate::agents::Agent;
use crate::proxy::Weather;
use crate::wait::{LONG, wait_for};

/// Jobs that a leader claims just before it stands still: fewer than the simulated agents have slots.
pub const LATE_CLAIMS: usize = 20;
/// Their names begin so. A claim carries the whole job, and nothing that a leader asks does.
const LATE: &str = "claimed-late";

/// Jobs that an agent is stopped under, and how long they run, in fifths of a second: they end by themselves before
/// their lease and their grace do.
pub const LATE_RUNS: usize = 4;
const LATE_RUN_FIFTHS: u32 = 18;

/// Agents that a fault may hit; the namespace's own is only cut off.
const REAL: [&str; 2] = ["a", "b"];

pub async fn leader_killed(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    let leader = stage.leader().await?;
    stage.fault("the leader is killed");
    stage.scheduler(leader)?.kill()?;
    let killed = SystemClock.mono();
    let other = match another_leads(stage, leader).await {
        Ok(()) => stage.works_again(killed, NEW_LEADER).await,
        none => none,
    };
    stage.scheduler(leader)?.start()?;
    stage.scheduler(leader)?.listens().await?;
    other
}

pub async fn another_leads(stage: &mut Stage, old: usize) -> Result<()> {
    let term = stage.scheduler(old)?.last_term();
    wait_for(LONG, "another leader", async || {
        let terms = stage
            .fleet
            .schedulers
            .iter()
            .map(crate::fleet::Program::last_term);
        match terms.max() {
            Some(last) if last > term => Ok(()),
            last => Err(format!("the last term is {last:?}")),
        }
    })
    .await
}

/// The instant is the worst that there is: its trust in the lock was looked at, its claims are on their way to the
/// database and have not come there. They come when others lead, and have claimed the same jobs.
pub async fn leader_stopped(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_000).await;
    let leader = stage.leader().await?;
    let program = stage.scheduler(leader)?;
    let (resigned, term) = (program.said("the term is over"), program.last_term());
    let way = program.ways()?.mongo.clone();
    let caught = way.caught();
    way.turns(Weather::HoldsAt(LATE.as_bytes()));
    let jobs = stage
        .hands
        .bulk(&format!("{LATE}-{}", stage.round), LATE_CLAIMS)
        .await;
    let held = wait_for(LONG, "claims of the leader on their way", async || {
        if way.caught() > caught {
            Ok(())
        } else {
            Err("none".to_owned())
        }
    })
    .await;
    stage.fault("the leader stands still, with claims on their way");
    stage.scheduler(leader)?.signal(Signal::STOP)?;
    let three = u64::try_from(LOCK.as_millis())? * 3;
    stage.lasts(three, three + 500).await;
    let other = another_leads(stage, leader).await;
    let claimed = match &jobs {
        Ok(jobs) => all_claimed(stage, jobs).await,
        Err(_) => Ok(()),
    };
    stage.fault("its claims arrive");
    let late = way.caught() - caught;
    way.clears();
    stage.lasts(300, 500).await;
    stage.fault("it goes on");
    stage.scheduler(leader)?.signal(Signal::CONT)?;
    let goes_on = SystemClock.mono();
    let jobs = jobs?;
    held?;
    other?;
    claimed?;
    // The leader has given up waiting for the answer, so the rows tell: had one of its claims been taken, its row would
    // be of its term.
    let rows = stage.opened.stores.jobs.get_many(&jobs).await?;
    if rows.iter().all(|job| job.epoch.0 > term) {
        stage.stale_writes += late.min(rows.len());
    }
    let program = stage.scheduler(leader)?;
    wait_for(LONG, "the old leader to resign", async || {
        if program.said("the term is over") > resigned {
            Ok(())
        } else {
            Err("it has not".to_owned())
        }
    })
    .await?;
    in_time("the old leader had stepped down", goes_on, STEPS_DOWN)
}

/// By whoever leads now.
async fn all_claimed(stage: &Stage, jobs: &[JobId]) -> Result<()> {
    wait_for(
        LONG,
        "the same jobs to be claimed by another leader",
        async || {
            let rows = stage.opened.stores.jobs.get_many(jobs).await;
            let rows = rows.map_err(|error| error.to_string())?;
            let waiting = rows.iter().filter(|job| job.attempts_total == 0).count();
            match waiting {
                0 => Ok(()),
                waiting => Err(format!("{waiting} are not")),
            }
        },
    )
    .await
}

/// Back at once, after a moment, or when everything of it was given to others.
pub async fn agent_killed(stage: &mut Stage) -> Result<()> {
    let name = busy_agent(stage).await?;
    stage.fault(&format!("the agent {name} is killed"));
    let held = held_by(stage, name).await;
    stage.agent(name)?.kill()?;
    let killed = SystemClock.mono();
    let taken = match stage.round % 3 {
        0 => Ok(()),
        1 => {
            stage.lasts(200, 2_500).await;
            Ok(())
        }
        _ => {
            let lease = u64::try_from(LEASE.as_millis())?;
            stage.lasts(lease, lease + 3_000).await;
            stage.taken_from_it(&held, killed, TAKEN_FROM_IT).await
        }
    };
    stage.fault("and comes back");
    stage.agent(name)?.start_again()?;
    taken
}

/// The jobs that an agent runs, as their rows are now; those that cannot be read are left out.
async fn held_by(stage: &mut Stage, name: &str) -> Vec<JobView> {
    let journal = stage.agent(name).and_then(|agent| agent.journal());
    let held = journal.map_or_else(|_| Vec::new(), |journal| journal.held.into_values().collect());
    let mut rows = Vec::new();
    for attempt in held.iter().filter(|held| held.started_at.is_some()) {
        let row = stage.hands.client.job(attempt.assignment.job).await;
        rows.extend(row.ok().filter(|job| job.state == StateName::Running));
    }
    rows
}

/// One that holds an attempt in a container, so that the fault hits something.
pub async fn busy_agent(stage: &mut Stage) -> Result<&'static str> {
    let first = usize::try_from(stage.chaos.number(1))?;
    let busy = |agent: &Agent| agent.journal().is_ok_and(|journal| !journal.held.is_empty());
    let order = [REAL[first], REAL[1 - first]];
    let found = wait_for(
        Duration::from_secs(4),
        "an agent that runs something",
        async || {
            let found = order
                .into_iter()
                .find(|name| stage.agents.get(*name).is_some_and(busy));
            found.ok_or_else(|| "none does".to_owned())
        },
    )
    .await;
    // nothing may be left for it to run: then the fault hits an idle one
    Ok(found.unwrap_or(order[0]))
}

/// It holds jobs that end while it stands still, and goes on when one of them runs elsewhere: its results come at the
/// worst instant, when another attempt is the current one.
pub async fn agent_stopped(stage: &mut Stage) -> Result<()> {
    let mut late = Vec::with_capacity(LATE_RUNS);
    for number in 0..LATE_RUNS {
        let key = format!("ends-late-{}-{number}", stage.round);
        late.push(stage.hands.real(&key, LATE_RUN_FIFTHS).await?);
    }
    let runs_one = |agent: &Agent| {
        agent.journal().is_ok_and(|journal| {
            let mut held = journal.held.values();
            held.any(|held| held.started_at.is_some() && late.contains(&held.assignment.job))
        })
    };
    let name = wait_for(LONG, "an agent that runs a job which will end late", async || {
        let found = REAL
            .into_iter()
            .find(|name| stage.agents.get(*name).is_some_and(runs_one));
        found.ok_or_else(|| "none does".to_owned())
    })
    .await?;
    stage.fault(&format!("the agent {name} stands still"));
    stage.agent(name)?.freeze()?;
    let lease = u64::try_from(LEASE.as_millis())?;
    stage.lasts(lease, lease + 500).await;
    let client = &stage.hands.client;
    let elsewhere = wait_for(LONG, "one of them to run elsewhere", async || {
        for id in &late {
            let job = client.job(*id).await.map_err(|error| format!("{error:#}"))?;
            if job.attempts_total > 1 && job.state == StateName::Running {
                return Ok(());
            }
        }
        Err("none does".to_owned())
    })
    .await;
    stage.fault("and goes on");
    stage.agent(name)?.thaw()?;
    elsewhere?;
    let client = &stage.hands.client;
    // A job has four tries, and there are five rounds and two agents: one of an earlier round may not be hit again.
    wait_for(LONG, "the jobs that end late to have ended", async || {
        for id in &late {
            let job = client.job(*id).await.map_err(|error| format!("{error:#}"))?;
            if !job.state.is_terminal() {
                return Err(format!("{id} is {}", job.state));
            }
        }
        Ok(())
    })
    .await
}

pub async fn agent_twin(stage: &mut Stage) -> Result<()> {
    let name = busy_agent(stage).await?;
    stage.fault(&format!("another machine comes as {name}"));
    let turned_away = |log: &str| log.matches("4409").count();
    let before = turned_away(&stage.agent(name)?.log());
    let mut twin = stage.twin(name, &format!("twin-{}", stage.round))?;
    let older = stage.agent(name)?;
    // Whoever has the later session keeps the name.
    wait_for(LONG, "one of them to be told why it is turned away", async || {
        if turned_away(&older.log()) > before || turned_away(&twin.log()) > 0 {
            Ok(())
        } else {
            Err("neither was".to_owned())
        }
    })
    .await?;
    stage.lasts(0, 3_000).await;
    stage.fault("that machine is destroyed, with its containers");
    twin.kill()?;
    twin.docker().remove_all();
    twin.forget();
    Ok(())
}

pub async fn control_plane_away(stage: &mut Stage) -> Result<()> {
    stage.lasts(500, 1_500).await;
    stage.fault("every API and every scheduler is killed");
    for program in programs(stage) {
        program.kill()?;
    }
    let lease = u64::try_from(LEASE.as_millis())?;
    stage.lasts(3 * lease, 3 * lease + 500).await;
    come_back(stage).await
}

pub async fn everything_restarted(stage: &mut Stage) -> Result<()> {
    stage.lasts(200, 1_500).await;
    stage.fault("everything is killed at once, the servers too");
    for program in programs(stage) {
        program.kill()?;
    }
    stage.fleet.redis.kill();
    stage.fleet.mongo.kill();
    stage.fleet.redis.start_again().await;
    stage.fleet.mongo.start_again().await;
    let before = greeted(stage);
    come_back(stage).await?;
    let (wanted, back) = (stage.links.len(), SystemClock.mono());
    wait_for(LONG, "every agent to be connected again", async || {
        match greeted(stage) - before {
            again if again >= wanted => Ok(()),
            again => Err(format!("{again} of {wanted} are")),
        }
    })
    .await?;
    in_time("every agent was connected", back, ALL_CONNECTED)?;
    let schedulers = stage.fleet.schedulers.iter();
    let lost: usize = schedulers
        .map(|program| program.said("a worker's session is lost"))
        .sum();
    ensure!(lost == 0, "{lost} agents were taken for lost that came back");
    Ok(())
}

/// How often an agent was greeted, by the schedulers' logs.
fn greeted(stage: &Stage) -> usize {
    let schedulers = stage.fleet.schedulers.iter();
    schedulers
        .map(|program| program.said("a worker is connected"))
        .sum()
}

fn programs(stage: &mut Stage) -> impl Iterator<Item = &mut crate::fleet::Program> {
    stage.fleet.apis.iter_mut().chain(&mut stage.fleet.schedulers)
}

async fn come_back(stage: &mut Stage) -> Result<()> {
    stage.fault("and comes back");
    for program in programs(stage) {
        program.start()?;
    }
    for program in programs(stage) {
        program.listens().await?;
    }
    Ok(())
}
