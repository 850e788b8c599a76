//! Agents die, stand still, come back, and the control plane under them too: real programs, real containers, scaled
//! leases. What happened is recorded by four witnesses and held to the laws of `jobworker_e2e::history`.

use std::time::Duration;

use anyhow::Result;
use common::api_types::JobView;
use common::job::StateName;
use jobworker_e2e::history::Invariant::{I1, I2, I3, I4, I4b, I5, I6, I7, I8, I11, I14};
use jobworker_e2e::history::{History, Invariant, Key, Recorder};
use jobworker_e2e::scene::Scene;

/// What holds whatever happens. No real overlap is forgiven.
const ALWAYS: [Invariant; 8] = [I1, I2, I3, I4, I4b(Duration::ZERO), I7, I11, I14];
/// Generous, for a machine that is busy; a quiet one needs a tenth.
const STUCK: Invariant = I5 {
    all: Duration::from_secs(100),
    canary: Duration::from_secs(60),
};
/// The bound on what a lost worker costs: T, two sweeps, the pause before the retry, and a generous rest for making a
/// container on a busy machine.
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(6 + 1 + 1 + 20);

/// In nanoseconds: for so long after the control plane went away every container still has its lease, which is T - G
/// from the sending of a heartbeat that was acknowledged, and so at the most a few heartbeats old.
const SURELY_LEASED: u64 = 3_500_000_000;

#[tokio::test]
async fn a_killed_agent_that_comes_back_goes_on_with_its_containers() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 4).await?;
    scene.submit_simulated(20).await?;
    let keys = scene.submit_some("lives", 4, 30).await?;
    scene.running(&keys).await?;
    for _ in 0..3 {
        scene.fault("the agent is killed");
        scene.agent("a")?.kill()?;
        scene.agent("a")?.start_again()?;
        scene.nobody_is_orphaned().await?;
    }
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK, I6 { seen: 0 }])?;
    each_ran_once(&scene.recorder.history(), &keys);
    scene.close().await
}

#[tokio::test]
async fn a_job_whose_agent_is_killed_for_good_ends_there_before_it_begins_elsewhere() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 3).await?;
    scene.submit_simulated(20).await?;
    let lost = scene.submit_some("lost", 3, 40).await?;
    scene.running(&lost).await?;
    scene.start_agent("b", 4).await?;
    let kept = scene.submit_some("kept", 3, 20).await?;
    scene.running(&kept).await?;

    scene.fault("the agent a is killed for good");
    let killed_at = Recorder::now();
    scene.agent("a")?.kill()?;
    scene.nobody_is_orphaned().await?;
    scene.heal().await?;
    scene.settle().await?;
    scene.nobody_is_orphaned().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK])?;

    let history = scene.recorder.history();
    each_ran_once(&history, &kept);
    for key in &lost {
        let runs = history.runs_of(key);
        assert_eq!(runs.len(), 2, "{runs:?}");
        let waited = Duration::from_nanos(runs[1].began - killed_at);
        assert!(
            waited <= ELSEWHERE_WITHIN,
            "{key} began elsewhere after {waited:?}"
        );
        println!(
            "{key}: ended by itself after {:?}, began elsewhere after {waited:?}",
            runs[0].ended.map(|ended| Duration::from_nanos(ended - killed_at))
        );
    }
    // when it comes back what it left at the engine goes, and what it has to tell is refused
    scene.agent("a")?.start_again()?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[I6 { seen: lost.len() }])?;
    scene.close().await
}

#[tokio::test]
async fn an_agent_that_stood_still_for_too_long_finds_its_results_refused_and_drops_them() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 4).await?;
    scene.submit_simulated(20).await?;
    // of some the container ends the job, others end well while nobody listens
    let mut lost = scene.submit_some("long", 2, 60).await?;
    lost.extend(scene.submit_some("short", 2, 8).await?);
    scene.running(&lost).await?;

    scene.fault("the agent a stands still");
    scene.agent("a")?.freeze()?;
    scene.start_agent("b", 4).await?;
    scene.no_process_of(&lost).await?;
    scene
        .until("each of them to run elsewhere", |history, _| {
            let twice = |key: &&Key| history.runs_of(key).len() == 2;
            match lost.iter().filter(twice).count() {
                4 => Ok(()),
                count => Err(format!("{count} do")),
            }
        })
        .await?;
    scene.nobody_is_orphaned().await?;
    scene.fault("the agent a goes on");
    scene.agent("a")?.thaw()?;
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK, I6 { seen: lost.len() }])?;
    scene.close().await
}

#[tokio::test]
async fn an_agent_that_stood_still_for_less_than_its_lease_loses_nothing() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 4).await?;
    scene.submit_simulated(20).await?;
    let keys = scene.submit_some("patient", 4, 25).await?;
    scene.running(&keys).await?;
    scene.fault("the agent stands still");
    scene.agent("a")?.freeze()?;
    // long enough to be out of contact, for which nobody is lost
    scene.out_of_contact("a", Duration::from_millis(2_500)).await?;
    scene.agent("a")?.thaw()?;
    scene.nobody_is_orphaned().await?;
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK, I6 { seen: 0 }])?;
    assert_eq!(scene.recorder.history().refused(), vec![]);
    each_ran_once(&scene.recorder.history(), &keys);
    scene.close().await
}

#[tokio::test]
async fn results_of_jobs_that_end_while_the_control_plane_is_away_are_delivered_when_it_is_back() -> Result<()>
{
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 3).await?;
    scene.start_agent("b", 3).await?;
    for round in 0..2 {
        scene.submit_simulated_as(&format!("round-{round}"), 20).await?;
        let keys = scene.submit_some(&format!("ends-alone-{round}"), 6, 12).await?;
        scene.begun(&keys).await?;
        let killed_at = Recorder::now();
        scene.kill_control_plane()?;
        scene.no_process_of(&keys).await?;
        let runs = scene.recorder.history().runs();
        let alone = runs.iter().filter(|run| run.ended > Some(killed_at)).count();
        assert!(alone > 0, "none ended while nobody listened");
        println!("{alone} jobs ended while the control plane was away");
        scene.start_control_plane().await?;
        scene.nobody_is_orphaned().await?;
        scene
            .until("their results", |_, jobs| {
                let of_these = |job: &&JobView| job.name.as_ref().is_some_and(|name| keys.contains(name));
                let left = jobs
                    .iter()
                    .filter(of_these)
                    .filter(|job| job.state != StateName::Succeeded);
                match left.count() {
                    0 => Ok(()),
                    count => Err(format!("{count} are not there")),
                }
            })
            .await?;
        // a machine so busy that a job outlives its lease is right to run it again
        let history = scene.recorder.history();
        let by_themselves = |key: &&Key| {
            let first = history.runs_of(key).first().and_then(|run| run.ended);
            first.is_some_and(|ended| ended < killed_at + SURELY_LEASED)
        };
        let in_time: Vec<Key> = keys.iter().filter(by_themselves).cloned().collect();
        each_ran_once(&history, &in_time);
    }
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK, I6 { seen: 0 }])?;
    scene.close().await
}

#[tokio::test]
async fn a_cancel_of_a_job_whose_agent_is_away_is_carried_out_when_it_is_back() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 4).await?;
    let keys = scene.submit_some("unwanted", 2, 300).await?;
    let ended = scene.submit_some("ended", 1, 0).await?;
    scene.running(&keys).await?;
    scene
        .until("one to end", |_, jobs| {
            let done = |job: &&JobView| job.name.as_ref() == Some(&ended[0]);
            match jobs.iter().find(done) {
                Some(job) if job.state == StateName::Succeeded => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
    scene.fault("the agent is killed");
    scene.agent("a")?.kill()?;
    for key in &keys {
        scene.cancel(key).await?;
    }
    assert!(scene.cancel(&ended[0]).await.is_err(), "it had ended");
    scene.agent("a")?.start_again()?;
    scene.nobody_is_orphaned().await?;
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK, I8(Duration::from_secs(20))])?;
    scene.close().await
}

#[tokio::test]
async fn of_two_agents_with_one_name_the_newest_speaks_and_the_other_is_turned_away() -> Result<()> {
    let mut scene = Scene::open().await?;
    scene.start_agent("a", 2).await?;
    scene.submit_simulated(10).await?;
    let keys = scene.submit_some("torn", 2, 40).await?;
    scene.running(&keys).await?;

    scene.fault("another machine comes with the same key");
    scene.start_twin("twin", "a", 2)?;
    // the older one's session is renewed no more, so what it ran is tried again by the newer
    scene
        .until("both to run at the newer", |history, _| {
            let twice = |key: &&Key| history.runs_of(key).len() == 2;
            match keys.iter().filter(twice).count() {
                2 => Ok(()),
                count => Err(format!("{count} do")),
            }
        })
        .await?;
    assert!(
        scene.agent("a")?.log().contains("4409"),
        "the older one was told why"
    );
    let inside = scene.inside().await?;
    let of_both: Vec<_> = inside
        .sessions
        .iter()
        .filter(|session| Some(&session.worker) == scene.worker("a").ok())
        .collect();
    assert_eq!(of_both.len(), 1, "never two sessions that live: {of_both:?}");

    // once the newer one has gone, the older one is heard again
    scene.destroy("twin")?;
    scene.heal().await?;
    scene.settle().await?;
    scene.check(&ALWAYS)?;
    scene.check(&[STUCK])?;
    scene.close().await
}

/// One attempt, one container, from its first process to its last.
fn each_ran_once(history: &History, keys: &[Key]) {
    for key in keys {
        let runs = history.runs_of(key);
        assert_eq!(runs.len(), 1, "{key}: {runs:?}");
        let rows = history.rows();
        let row = rows.values().find(|row| row.key == *key);
        assert_eq!(row.map(|row| row.attempts_total), Some(1), "{row:?}");
    }
}
