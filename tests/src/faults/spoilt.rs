//! Rows that no program of ours can read or change, of every kind and in every state that the leader looks for, in the
//! middle of good ones.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{Epoch, Job, JobState, Lease, Revision, StateName};
use common::lifecycle::{JobEvent, step};
use common::time::{Clock, SystemClock, Timestamp};
use storage::conformance::spoilt::{self, Spoilt};

use super::processes::leader_killed;
use super::stage::Stage;
use crate::wait::{LONG, wait_for};

/// Of each kind in each state, at each injection.
const UNREADABLE: usize = 30;
/// More: after a few injections the leader meets whole batches of them before any good row.
const UNCHANGEABLE: usize = 150;
/// Good ones between them, in each state.
const GOOD: usize = 5;
/// For how long rows are due before they are written. The good ones come last.
const DUE_SINCE: Duration = Duration::from_secs(3_600);
/// Lines in a second and a scheduler that are not too many.
const LINES_A_SECOND: u64 = 100;
/// What the store says of such rows.
const TOLD: [&str; 2] = ["rows that cannot be read", "refuses to change rows"];

/// In what state a row is written.
#[derive(Debug, Clone, Copy)]
enum Written {
    Queued,
    /// Its time has come.
    Due,
    /// In a session that nobody knows, since an older term: to be taken over, and to expire.
    Held,
}

/// Writes them, lets another leader take over, every second time over an empty queue; each good one has to end well.
pub async fn rows_spoilt(stage: &mut Stage) -> Result<()> {
    let (hands, round) = (stage.hands.clone(), stage.round);
    let model = hands.simulated(&format!("model-{round}")).await?;
    let jobs = stage.opened.stores.jobs.clone();
    let model = jobs.get(model).await?.context("an acknowledged job is there")?;
    let (lines, begun) = (lines(stage), SystemClock.mono());
    let mut rows = Vec::new();
    for state in [Written::Queued, Written::Due, Written::Held] {
        for kind in Spoilt::ALL {
            let count = if kind.is_unreadable() {
                UNREADABLE
            } else {
                UNCHANGEABLE
            };
            rows.extend((0..count).map(|_| (row(&model, state, false), Some(kind))));
        }
        rows.extend((0..GOOD).map(|_| (row(&model, state, true), None)));
    }
    stage.fault(&format!(
        "{} rows are written that nobody can read or change",
        rows.len()
    ));
    spoilt::write(&stage.fleet.mongo.uri("jobworker"), &rows).await;
    leader_killed(stage).await?;
    if !round.is_multiple_of(2) {
        stage.fault("and Redis is wiped");
        stage.fleet.redis.flush_all().await;
    }
    let good: Vec<JobId> = rows
        .iter()
        .filter(|(_, spoilt)| spoilt.is_none())
        .map(|(job, _)| job.id)
        .collect();
    wait_for(
        LONG,
        "the good rows among the spoilt ones to end well",
        async || {
            let found = jobs.get_many(&good).await.map_err(|error| error.to_string())?;
            let left = found
                .iter()
                .filter(|job| job.state.name() != StateName::Succeeded);
            let left: Vec<String> = left
                .map(|job| format!("{} is {}", job.id, job.state.name()))
                .collect();
            match left.len() {
                0 => Ok(()),
                count => Err(format!("{count} have not: {}", left.join(", "))),
            }
        },
    )
    .await?;
    told(stage, lines, SystemClock.mono().since(begun))
}

/// A row like the model's. Nobody sees it in a list: it is none of the jobs that the history tells of.
fn row(model: &Job, state: Written, good: bool) -> Job {
    let now = SystemClock.now();
    let mut job = Job::submitted(
        JobId::generate(now),
        model.account.clone(),
        model.submitted_by.clone(),
        (*model.spec).clone(),
        now,
    );
    job.hidden = true;
    match state {
        Written::Queued => {}
        Written::Due => {
            let since = if good { Duration::ZERO } else { DUE_SINCE };
            let since = i64::try_from(since.as_millis()).unwrap_or(0);
            job.state = JobState::Scheduled {
                at: Timestamp::from_millis(now.as_millis() - since),
            };
        }
        Written::Held => {
            let lease = Lease {
                worker: WorkerId::new("nobody").expect("a good name"),
                session: SessionId::random(),
            };
            let claim = JobEvent::Claimed {
                attempt: AttemptId::random(),
                lease,
                epoch: Epoch(0),
            };
            job = step(&job, claim, now).expect("a queued job can be claimed").job;
            job.revision = Revision(2);
        }
    }
    job
}

fn lines(stage: &Stage) -> u64 {
    let schedulers = stage.fleet.schedulers.iter();
    schedulers
        .map(|program| program.log().lines().count() as u64)
        .sum()
}

/// That there are such rows is told, and not in a flood.
fn told(stage: &Stage, before: u64, took: Duration) -> Result<()> {
    for told in TOLD {
        let schedulers = stage.fleet.schedulers.iter();
        let said: usize = schedulers.map(|program| program.said(told)).sum();
        ensure!(said > 0, "no scheduler says `{told}`");
    }
    let (new, seconds) = (lines(stage).saturating_sub(before), took.as_secs() + 1);
    let most = LINES_A_SECOND * seconds * stage.fleet.schedulers.len() as u64;
    ensure!(new <= most, "the schedulers wrote {new} lines in {seconds} s");
    Ok(())
}
