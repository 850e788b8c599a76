//! The programs of their own over MongoDB and Redis: whatever of them is killed, stopped or wiped, no acknowledged job
//! is lost and exactly one result is accepted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::api_types::JobView;
use common::ids::{JobId, WorkerId};
use common::job::StateName;
use common::tasks::Tasks;
use jobworker_e2e::chaos::Chaos;
use jobworker_e2e::client::{Client, brief, refusal};
use jobworker_e2e::door::Door;
use jobworker_e2e::fleet::{Fleet, Size};
use jobworker_e2e::sim::{self, Simulated};
use jobworker_e2e::wait::wait_for;
use rustix::process::Signal;

/// Long enough that some live through each fault.
const RUN: Duration = Duration::from_millis(300);
const ALL_WITHIN: Duration = Duration::from_secs(120);
/// Three seconds are promised, and held by the stores' own limits; the rest is a busy machine's.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
const TWO_OF_EACH: Size = Size {
    apis: 2,
    schedulers: 2,
};

/// A fleet with one simulated agent of `slots`, which finds the schedulers through a door.
struct Scene {
    fleet: Fleet,
    client: Client,
    door: Door,
    agent: Simulated,
    tasks: Tasks,
}

impl Scene {
    async fn begin(size: Size, slots: u32) -> Result<Self> {
        let fleet = Fleet::start(size).await?;
        let tasks = Tasks::new();
        let door = Door::open(fleet.schedulers[0].address, &tasks).await?;
        let key = fleet.worker_key(&WorkerId::new("simulated")?)?;
        let agent = Simulated::by_key(key, door.address(), slots, RUN)?;
        let client = fleet.client(0).await?;
        client.worker_ready(sim::POOL).await?;
        Ok(Self {
            fleet,
            client,
            door,
            agent,
            tasks,
        })
    }

    /// Each as a careful client submits it: an unknown answer is asked for again under the same key.
    async fn submit(&self, name: &str, count: usize) -> Result<Vec<JobId>> {
        let mut ids = Vec::new();
        for number in 0..count {
            let (job, key) = (sim::job(), format!("{name}-{number}"));
            let stored = wait_for(ALL_WITHIN, "an acknowledgement", async || {
                self.client
                    .submit_keyed(&job, &key)
                    .await
                    .map_err(|error| format!("{error:#}"))
            });
            ids.push(stored.await?.id);
        }
        Ok(ids)
    }

    /// Every one of them has ended well, with one accepted result and its whole output.
    async fn all_ended_well(&self, ids: &[JobId]) -> Result<Vec<JobView>> {
        let mut ended = Vec::new();
        for id in ids {
            let job = self.client.ended(*id, ALL_WITHIN).await?;
            ensure!(job.state == StateName::Succeeded, "{}", brief(&job));
            let outcomes = job.attempts.iter().filter_map(|attempt| attempt.outcome.as_ref());
            let accepted = outcomes.filter(|outcome| outcome.kind == "exited").count();
            ensure!(accepted == 1, "{accepted} results were accepted: {}", brief(&job));
            ended.push(job);
        }
        if let Some(id) = ids.last() {
            let output = self.client.stdout(*id).await?;
            ensure!(output.as_bytes() == sim::OUTPUT, "{output:?}");
        }
        Ok(ended)
    }

    /// The scheduler that leads, as their logs tell; one that was killed leads no more.
    fn leader(&self) -> Option<usize> {
        let schedulers = self.fleet.schedulers.iter().enumerate();
        schedulers
            .filter(|(_, program)| program.runs())
            .max_by_key(|(_, program)| program.last_term())
            .filter(|(_, program)| program.last_term() > 0)
            .map(|(number, _)| number)
    }

    async fn end(self) -> Result<()> {
        self.agent.stop().await?;
        self.tasks.stop();
        self.fleet.stop().await
    }
}

#[tokio::test]
async fn two_of_each_program_run_a_job_that_any_api_shows() -> Result<()> {
    let scene = Scene::begin(TWO_OF_EACH, 8).await?;
    let ids = scene.submit("plain", 20).await?;
    let ended = scene.all_ended_well(&ids).await?;
    // the other replica signs the same tokens and shows the same rows
    let other = scene.fleet.client(1).await?;
    for job in &ended {
        assert_eq!(&other.job(job.id).await?, job);
    }
    assert_eq!(other.stdout(ids[0]).await?.as_bytes(), sim::OUTPUT);
    scene.end().await
}

#[tokio::test]
async fn a_leader_that_is_killed_loses_nothing_and_another_goes_on() -> Result<()> {
    let mut chaos = Chaos::begin("leader killed");
    let mut scene = Scene::begin(TWO_OF_EACH, 16).await?;
    let mut ids = Vec::new();
    for round in 0..5 {
        let leader = wait_for(ALL_WITHIN, "a leader", async || {
            scene.leader().ok_or_else(|| "nobody leads".to_owned())
        })
        .await?;
        ids.extend(scene.submit(&format!("before-{round}"), 20).await?);
        chaos
            .some_time(Duration::from_millis(10), Duration::from_millis(400))
            .await;
        let other = 1 - leader;
        scene.door.lead_to(scene.fleet.schedulers[other].address);
        scene.fleet.schedulers[leader].kill()?;
        ids.extend(scene.submit(&format!("after-{round}"), 20).await?);
        let last = *ids.last().context("jobs were submitted")?;
        // nobody but a new leader can have given it out
        scene.client.ended(last, ALL_WITHIN).await?;
        scene.fleet.schedulers[leader].start()?;
        scene.fleet.schedulers[leader].listens().await?;
    }
    scene.all_ended_well(&ids).await?;
    scene.end().await
}

#[tokio::test]
async fn a_leader_that_stood_still_changes_nothing_and_resigns_by_itself() -> Result<()> {
    let scene = Scene::begin(TWO_OF_EACH, 16).await?;
    let leader = scene.leader().context("nobody leads")?;
    let other = 1 - leader;
    scene.door.lead_to(scene.fleet.schedulers[other].address);
    let before = scene.submit("before", 20).await?;
    scene.fleet.schedulers[leader].signal(Signal::STOP)?;
    let terms = scene.fleet.schedulers[other].last_term();
    wait_for(ALL_WITHIN, "the other to lead", async || {
        let now = scene.fleet.schedulers[other].last_term();
        if now > terms {
            Ok(())
        } else {
            Err(format!("its last term is {now}"))
        }
    })
    .await?;
    let meanwhile = scene.submit("meanwhile", 20).await?;
    scene.all_ended_well(&meanwhile).await?;
    scene.fleet.schedulers[leader].signal(Signal::CONT)?;
    wait_for(ALL_WITHIN, "the old leader to resign", async || {
        match scene.fleet.schedulers[leader].said("the term is over") {
            0 => Err("it has not".to_owned()),
            _ => Ok(()),
        }
    })
    .await?;
    let after = scene.submit("after", 20).await?;
    for ids in [before, after] {
        scene.all_ended_well(&ids).await?;
    }
    scene.end().await
}

#[tokio::test]
async fn a_redis_that_is_wiped_killed_and_empty_again_loses_no_waiting_job() -> Result<()> {
    let mut scene = Scene::begin(TWO_OF_EACH, 8).await?;
    let mut ids = Vec::new();
    for round in 0..3 {
        ids.extend(scene.submit(&format!("wiped-{round}"), 60).await?);
        scene.fleet.redis.flush_all().await;
    }
    ids.extend(scene.submit("killed", 60).await?);
    scene.fleet.redis.kill();
    // the rows take it; the queue is told later
    ids.extend(scene.submit("away", 20).await?);
    scene.fleet.redis.start_again().await;
    ids.extend(scene.submit("back", 20).await?);
    scene.all_ended_well(&ids).await?;
    scene.end().await
}

#[tokio::test]
async fn a_database_that_stands_still_is_told_to_readers_and_writers_and_all_comes_back_by_itself()
-> Result<()> {
    let scene = Scene::begin(TWO_OF_EACH, 16).await?;
    let ids = scene.submit("before", 5).await?;
    scene.all_ended_well(&ids).await?;
    let (client, id, job) = (&scene.client, ids[0], sim::job());
    scene.fleet.mongo.pause().await;
    let asked = async {
        let all = tokio::join!(
            client.submit(&job),
            client.job(id),
            client.jobs(),
            client.stdout(id),
            client.cancel(id, "a test"),
            client.workers(),
        );
        anyhow::Ok([
            refusal(all.0)?,
            refusal(all.1)?,
            refusal(all.2)?,
            refusal(all.3)?,
            refusal(all.4)?,
            refusal(all.5)?,
        ])
    };
    let refused = tokio::time::timeout(TOLD_WITHIN, asked).await;
    scene.fleet.mongo.resume();
    for refused in refused.context("somebody is not answered while the database stands still")?? {
        ensure!(refused.status == 503, "{refused:?}");
        ensure!(refused.retry_after.is_some(), "{refused:?}");
    }
    let ids = scene.submit("after", 5).await?;
    scene.all_ended_well(&ids).await?;
    scene.end().await
}

#[tokio::test]
async fn a_database_that_is_killed_is_told_at_once_and_loses_nothing_acknowledged() -> Result<()> {
    let mut scene = Scene::begin(TWO_OF_EACH, 16).await?;
    let mut ids = Vec::new();
    for round in 0..3 {
        ids.extend(scene.submit(&format!("before-{round}"), 20).await?);
        scene.fleet.mongo.kill();
        let refused = refusal(scene.client.submit(&sim::job()).await)?;
        ensure!(refused.status == 503, "{refused:?}");
        ensure!(refused.retry_after.is_some(), "{refused:?}");
        scene.fleet.mongo.start_again().await;
        ids.extend(scene.submit(&format!("after-{round}"), 20).await?);
    }
    scene.all_ended_well(&ids).await?;
    scene.end().await
}
