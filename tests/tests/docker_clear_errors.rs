//! What goes wrong is said where it was asked, in a sentence, and nothing that was acknowledged suffers by it.

use std::path::Path;

use anyhow::{Context, Result};
use common::api_types::{InputBody, SubmitJob, paths};
use common::attempt::NotStartedReason;
use common::job::StateName;
use jobworker_e2e::client::{brief, refusal, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::disk::SmallDisk;
use jobworker_e2e::text::zip;
use jobworker_e2e::wait::{LONG, wait_for};
use serde_json::{Value, json};

#[tokio::test]
async fn a_wrong_password_and_a_wrong_field_are_named() -> Result<()> {
    let cluster = Cluster::without_waiting(Settings {
        agent: false,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;

    let refused = refusal(client.sign_in("admin", "not the password").await)?;
    assert_eq!(refused.status, 401);
    let problem = refused.problem.context("an error is a problem document")?;
    assert_eq!(problem.status, 401);
    assert!(
        !problem.request_id.is_empty() && !problem.detail.is_empty(),
        "{problem:?}"
    );

    let body = json!({ "command": "true", "timeot": 5 });
    let refused = refusal(client.post::<Value>(paths::JOBS, &body).await)?;
    assert!(matches!(refused.status, 400 | 422), "{refused}");
    assert!(refused.text.contains("timeot"), "{refused}");

    let body = json!({ "command": "true", "resources": { "memory_mib": 1 }, "workdir": "/proc/self/fd/7" });
    let refused = refusal(client.post::<Value>(paths::JOBS, &body).await)?;
    assert!(matches!(refused.status, 400 | 422), "{refused}");
    let problem = refused.problem.context("an error is a problem document")?;
    let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert!(
        fields.contains(&"resources.memory_mib") && fields.contains(&"workdir"),
        "{problem:?}"
    );
    assert!(client.jobs().await?.is_empty(), "what was refused was not stored");
    cluster.stop().await
}

#[tokio::test]
async fn an_archive_that_would_write_elsewhere_writes_nowhere() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let escaped = format!("jw-escaped-{}", std::process::id());
    let up = "../".repeat(12);
    let archive = zip(&[("good.txt", b"good"), (&format!("{up}tmp/{escaped}"), b"escaped")])?;
    let file = client.upload("evil.zip", archive).await?;
    let job = client
        .submit(&SubmitJob {
            inputs: vec![InputBody {
                file: file.id,
                path: ".".into(),
                unpack: true,
            }],
            ..shell("echo ran")
        })
        .await?;
    let ended = client.ended(job.id, LONG).await?;
    let told = ended.outcome.as_ref().with_context(|| brief(&ended))?;
    assert_eq!(
        (ended.state, told.kind.as_str()),
        (StateName::Failed, "not_started"),
        "{}",
        brief(&ended)
    );
    assert_eq!(told.reason, Some(NotStartedReason::BadInputs));
    assert!(
        told.message.as_ref().is_some_and(|why| why.contains("..")),
        "{told:?}"
    );
    assert_eq!(
        ended.attempts_total, 1,
        "what repeats for certain is not tried again"
    );
    assert!(!Path::new("/tmp").join(&escaped).exists());
    cluster.stop().await
}

#[tokio::test]
async fn without_an_engine_the_worker_says_so_and_jobs_wait() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nowhere = folder.path().join("none.sock");
    let mut cluster = Cluster::without_waiting(Settings {
        docker_host: Some(format!("unix://{}", nowhere.display())),
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let worker = client
        .worker_when("that says what it lacks", |worker| {
            !worker.ready && !worker.reasons.is_empty()
        })
        .await?;
    assert!(
        worker
            .reasons
            .iter()
            .any(|reason| reason.to_lowercase().contains("docker") || reason.contains("engine")),
        "{:?}",
        worker.reasons
    );
    let job = client.submit(&shell("echo never")).await?;
    let noticed = worker.heard_at;
    client
        .worker_when("heard after the job came", |worker| worker.heard_at > noticed)
        .await?;
    let waits = client.job(job.id).await?;
    assert_eq!(
        (waits.state, waits.attempts_total),
        (StateName::Queued, 0),
        "{}",
        brief(&waits)
    );
    // there is no engine that could say whether something is left
    assert!(cluster.terminate().await?.success());
    Ok(())
}

/// Below what an agent wants free, and more than the store takes while the test looks.
const NEARLY_FULL_BYTES: u64 = 32 << 20;

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_heals_without_a_restart() -> Result<()> {
    let disk = SmallDisk::of_mib(512)?;
    let cluster = Cluster::with(Settings {
        state: Some(disk.root().join("state")),
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let mut acknowledged = vec![client.submit(&shell("echo before")).await?.id];
    let before = client.ended(acknowledged[0], LONG).await?;
    assert_eq!(before.state, StateName::Succeeded, "{}", brief(&before));

    let printing = client.submit(&shell(&prints_for_long())).await?.id;
    client
        .job_when(printing, LONG, "it to run", |job| job.started_at.is_some())
        .await?;

    // Nearly full: the agent says so and takes nothing, while its word can still be written down.
    disk.fill_but(NEARLY_FULL_BYTES)?;
    client
        .worker_when("that says that the disk is full", |worker| {
            !worker.ready
                && worker.reasons.iter().any(|reason| {
                    reason.contains("disk") || reason.contains("space") || reason.contains("MiB")
                })
        })
        .await?;

    disk.fill_but(0)?;
    // the store still has a little room of its own in what it has taken already
    let refused = wait_for(LONG, "a submission to be refused", async || {
        let name = "x".repeat(200);
        let large = SubmitJob {
            env: [("PADDING".to_owned(), "x".repeat(30_000))].into(),
            name: Some(name),
            ..shell("echo during")
        };
        match refusal(client.submit(&large).await.map(|job| acknowledged.push(job.id))) {
            Ok(refused) => Ok(refused),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await?;
    assert!(matches!(refused.status, 503 | 507), "{refused}");
    assert!(refused.problem.is_some(), "{refused}");
    disk.free()?;
    client.worker_ready("default").await?;
    let after = wait_for(LONG, "a submission to be taken again", async || {
        client
            .submit(&shell("echo after"))
            .await
            .map_err(|error| format!("{error:#}"))
    })
    .await?;
    acknowledged.push(after.id);
    for id in acknowledged {
        let job = client.ended(id, LONG).await?;
        assert_eq!(job.state, StateName::Succeeded, "{}", brief(&job));
    }
    assert_eq!(client.stdout(after.id).await?, "after\n");

    // What ran meanwhile was tried again where the disk did not take its output, at nobody's cost, and nothing is missing.
    let printed = client.ended(printing, LONG).await?;
    assert_eq!(printed.state, StateName::Succeeded, "{}", brief(&printed));
    let (last, earlier) = printed.attempts.split_last().context("it ran")?;
    assert_eq!(
        last.outcome.as_ref().map(|told| told.kind.as_str()),
        Some("exited")
    );
    println!("{} attempts were lost to the full disk", earlier.len());
    for attempt in earlier {
        let kind = attempt.outcome.as_ref().map(|told| told.kind.as_str());
        assert!(matches!(kind, Some("infra_error" | "worker_lost")), "{attempt:?}");
    }
    let expected: String = (1..=LINES).map(|number| format!("{number:01000}\n")).collect();
    assert!(
        client.stdout(printing).await? == expected,
        "its output is not whole"
    );
    cluster.stop().await
}

/// More than fits into the blocks that the agent's files have already.
const LINES: u32 = 400;

fn prints_for_long() -> String {
    format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); printf '%01000d\\n' $i; sleep 0.05; done")
}
