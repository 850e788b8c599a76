//! Twenty times the whole system is killed at a random instant, under load, and comes back on the same folder: nothing
//! that was acknowledged is lost, nothing is accepted twice, and what ran goes on running.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::api_types::{JobView, SubmitJob};
use common::ids::JobId;
use common::job::StateName;
use common::tasks::Tasks;
use common::time::{Clock, SystemClock, Timestamp};
use jobworker_e2e::chaos::Chaos;
use jobworker_e2e::client::{Client, Refused, brief, shell};
use jobworker_e2e::cluster::Cluster;
use jobworker_e2e::door::Door;
use jobworker_e2e::sim::{self, Simulated};
use jobworker_e2e::wait::wait_for;

const KILLS: usize = 20;
/// Nine of ten jobs run in no container: they load the control plane, which is what is killed.
const JOBS_A_KILL: usize = 10;
const LEAST: Duration = Duration::from_millis(20);
const MOST: Duration = Duration::from_millis(1_500);
/// Of the jobs themselves: long enough that some live through a kill.
const RUN_MOST_MS: u64 = 2_500;
const SIMULATED_RUN: Duration = Duration::from_millis(700);
const ALL_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn twenty_kills_lose_no_acknowledged_job_and_accept_no_result_twice() -> Result<()> {
    let mut chaos = Chaos::begin("kill and restart");
    let mut cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let tasks = Tasks::new();
    let door = Door::open(cluster.workers_address()?, &tasks).await?;
    let agent = Simulated::start(&cluster, door.address(), 32, SIMULATED_RUN)?;
    client.worker_ready(sim::POOL).await?;

    let mut acknowledged = BTreeMap::new();
    let mut kills = Vec::new();
    for round in 0..KILLS {
        let jobs: Vec<SubmitJob> = (0..JOBS_A_KILL)
            .map(|place| job(round * JOBS_A_KILL + place, place == 0, &mut chaos))
            .collect();
        let submitting = submit_until_acknowledged(&client, jobs);
        let killing = async {
            chaos.some_time(LEAST, MOST).await;
            kills.push(SystemClock.now());
            cluster.kill()?;
            cluster.start_again().await?;
            door.lead_to(cluster.workers_address()?);
            anyhow::Ok(())
        };
        let (ids, killed) = tokio::join!(submitting, killing);
        killed.with_context(|| format!("in round {round}"))?;
        acknowledged.extend(ids.with_context(|| format!("in round {round}"))?);
    }
    assert_eq!(acknowledged.len(), KILLS * JOBS_A_KILL);

    let ended = all_ended(&client).await?;
    every_acknowledged_job_ended_well(&acknowledged, &ended);
    for job in ended.values() {
        exactly_one_result_was_accepted(job);
    }
    let real: Vec<&JobView> = ended.values().filter(|job| !is_simulated(job)).collect();
    assert_eq!(real.len(), KILLS);
    for job in &real {
        what_had_started_was_taken_up(job);
        its_output_and_file_are_of_the_accepted_attempt(&client, job).await?;
    }
    let adopted = real
        .iter()
        .filter(|job| lived_through_a_kill(job, &kills))
        .count();
    assert!(adopted > 0, "no container was taken up again: {kills:?}");
    println!("{adopted} of {} containers lived through a kill", real.len());

    // what has ended never changes, also not by one more start
    cluster.kill()?;
    cluster.start_again().await?;
    door.lead_to(cluster.workers_address()?);
    client.worker_ready("default").await?;
    client.worker_ready(sim::POOL).await?;
    assert_eq!(by_id(client.jobs().await?), ended);
    agent.stop().await?;
    tasks.stop();
    cluster.stop().await
}

fn job(number: usize, in_container: bool, chaos: &mut Chaos) -> SubmitJob {
    let key = format!("kill-{number}");
    let body = if in_container {
        let millis = chaos.number(RUN_MOST_MS);
        let seconds = format!("{}.{:03}", millis / 1_000, millis % 1_000);
        SubmitJob {
            artifacts: vec!["left".into()],
            ..shell(&format!(
                "echo begin {key}; sleep {seconds}; echo end {key} | tee left"
            ))
        }
    } else {
        sim::job()
    };
    SubmitJob {
        name: Some(key),
        ..body
    }
}

/// As a careful client does it: an unknown answer is asked for again under the same key.
async fn submit_until_acknowledged(client: &Client, jobs: Vec<SubmitJob>) -> Result<Vec<(String, JobId)>> {
    let mut ids = Vec::new();
    for job in jobs {
        let key = job.name.clone().context("every job has its key as name")?;
        let stored = wait_for(ALL_WITHIN, "an acknowledgement", async || {
            match client.submit_keyed(&job, &key).await {
                Ok(stored) => Ok(Ok(stored)),
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) if refused.status < 500 => Ok(Err(error)),
                    Some(_) | None => Err(format!("{error:#}")),
                },
            }
        });
        let stored = stored.await??;
        ids.push((key, stored.id));
    }
    Ok(ids)
}

async fn all_ended(client: &Client) -> Result<BTreeMap<JobId, JobView>> {
    let jobs = wait_for(ALL_WITHIN, "every job to end", async || {
        let jobs = client.jobs().await.map_err(|error| format!("{error:#}"))?;
        let left: Vec<String> = jobs
            .iter()
            .filter(|job| !job.state.is_terminal())
            .map(brief)
            .collect();
        if left.is_empty() {
            Ok(jobs)
        } else {
            Err(format!("{left:#?}"))
        }
    });
    Ok(by_id(jobs.await?))
}

fn by_id(jobs: Vec<JobView>) -> BTreeMap<JobId, JobView> {
    jobs.into_iter().map(|job| (job.id, job)).collect()
}

fn every_acknowledged_job_ended_well(
    acknowledged: &BTreeMap<String, JobId>,
    ended: &BTreeMap<JobId, JobView>,
) {
    assert_eq!(
        ended.len(),
        acknowledged.len(),
        "a key makes one job, and no job comes from nowhere"
    );
    for (key, id) in acknowledged {
        assert!(
            ended.contains_key(id),
            "{key} was acknowledged as {id} and is lost"
        );
        let job = &ended[id];
        assert_eq!(job.name.as_ref(), Some(key));
        assert_eq!(job.state, StateName::Succeeded, "{}", brief(job));
    }
}

fn exactly_one_result_was_accepted(job: &JobView) {
    let kinds = || {
        job.attempts
            .iter()
            .map(|attempt| attempt.outcome.as_ref().map(|told| told.kind.as_str()))
    };
    assert_eq!(
        kinds().filter(|kind| *kind == Some("exited")).count(),
        1,
        "{}",
        brief(job)
    );
    assert!(
        kinds().all(|kind| matches!(kind, Some("exited" | "worker_lost" | "infra_error"))),
        "{}",
        brief(job)
    );
    let numbers: Vec<u32> = job.attempts.iter().map(|attempt| attempt.number).collect();
    let expected: Vec<u32> = (1..=job.attempts_total).collect();
    assert_eq!(numbers, expected, "{}", brief(job));
}

/// A container outlives the program that is killed, and each start comes well within its lease.
fn what_had_started_was_taken_up(job: &JobView) {
    for attempt in &job.attempts {
        let outcome = attempt.outcome.as_ref().map(|told| told.kind.as_str());
        assert!(
            attempt.started_at.is_none() || outcome == Some("exited"),
            "attempt {} ran and was not taken up again: {}",
            attempt.number,
            brief(job)
        );
    }
}

async fn its_output_and_file_are_of_the_accepted_attempt(client: &Client, job: &JobView) -> Result<()> {
    let key = job.name.as_deref().context("every job has its key as name")?;
    assert_eq!(
        client.stdout(job.id).await?,
        format!("begin {key}\nend {key}\n"),
        "{}",
        brief(job)
    );
    let left = client.artifacts(job.id).await?.artifacts;
    let [artifact] = left.as_slice() else {
        bail!("expected one file of {key}, got {left:?}");
    };
    assert_eq!(
        client.download(artifact.file).await?,
        format!("end {key}\n").into_bytes()
    );
    Ok(())
}

fn is_simulated(job: &JobView) -> bool {
    job.spec
        .pool
        .as_ref()
        .is_some_and(|pool| pool.as_str() == sim::POOL)
}

fn lived_through_a_kill(job: &JobView, kills: &[Timestamp]) -> bool {
    let [attempt] = job.attempts.as_slice() else {
        return false;
    };
    let (Some(started), Some(ended)) = (attempt.started_at, attempt.ended_at) else {
        return false;
    };
    kills.iter().any(|kill| started < *kill && *kill < ended)
}
