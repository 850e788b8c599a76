//! How an attempt ends is told exactly, by a closed list, and what it started is gone afterwards.

use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{JobView, LimitsBody, OutcomeView, ResourcesBody, RetryBody, SubmitJob};
use common::attempt::NotStartedReason;
use common::explain::Reason;
use common::job::StateName;
use common::log::Stream;
use jobworker_e2e::client::{Client, argv, brief, refusal, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::images;
use jobworker_e2e::process::with_mark;
use jobworker_e2e::wait::{LONG, wait_for};

/// Far less than any processor needs to count to 200,000 in a shell, and far more than to start one.
const CPU_MS_OF_COUNTING: u64 = 10;

/// A length of sleep that no other process of this machine sleeps for.
fn odd_sleep() -> String {
    format!("sleep 9{:08}", rand::random::<u32>() % 100_000_000)
}

async fn outcome(client: &Client, job: &SubmitJob) -> Result<(JobView, OutcomeView)> {
    let id = client.submit(job).await?.id;
    let ended = client.ended(id, LONG).await?;
    let outcome = ended.outcome.clone().with_context(|| brief(&ended))?;
    Ok((ended, outcome))
}

/// Waits until a process with this mark runs, or until none does.
async fn processes(mark: &str, running: bool) -> Result<()> {
    let what = format!("`{mark}` to {}", if running { "run" } else { "be gone" });
    wait_for(LONG, &what, async || {
        let found = with_mark(mark);
        if found.is_empty() != running {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

#[tokio::test]
async fn how_a_process_ends_is_told_exactly() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;

    let counts = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; exit 3";
    let (job, told) = outcome(&client, &shell(counts)).await?;
    assert_eq!((job.state, job.exit_code), (StateName::Failed, Some(3)));
    assert_eq!((told.kind.as_str(), told.code), ("exited", Some(3)));
    let usage = job.attempts[0].usage.context("an attempt that ended has usage")?;
    assert!(
        usage.cpu_ms >= CPU_MS_OF_COUNTING,
        "no shell counts so far sooner: {usage:?}"
    );

    let (job, told) = outcome(&client, &shell("kill -SEGV $$")).await?;
    assert_eq!(
        (told.kind.as_str(), told.signal),
        ("signaled", Some(11)),
        "{}",
        brief(&job)
    );

    let (job, told) = outcome(&client, &argv(&["no-such-command"])).await?;
    assert_eq!(told.kind, "not_started", "{}", brief(&job));
    assert_eq!(told.reason, Some(NotStartedReason::NoSuchCommand));

    let (job, told) = outcome(&client, &argv(&["/etc/passwd"])).await?;
    assert_eq!(told.kind, "not_started", "{}", brief(&job));
    assert_eq!(told.reason, Some(NotStartedReason::NotExecutable));

    let absent = SubmitJob {
        image: Some("127.0.0.1:9/none:1".into()),
        retry: RetryBody {
            backoff_ms: Some(10),
            ..RetryBody::default()
        },
        ..shell("true")
    };
    let (job, told) = outcome(&client, &absent).await?;
    assert_eq!(told.kind, "image_unavailable", "{}", brief(&job));
    assert_eq!(
        (job.attempts_total, job.infra_retries, job.user_retries),
        (4, 3, 0)
    );
    assert!(
        told.message.is_some_and(|why| why.contains("127.0.0.1:9/none:1")),
        "{}",
        brief(&job)
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_job_that_takes_more_memory_than_it_asked_for_is_ended_and_told_so() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    // the tail of one endless line is all of it
    let (job, told) = outcome(&client, &argv(&["tail", "-n", "1", "/dev/zero"])).await?;
    assert_eq!(told.kind, "oom_killed", "{}", brief(&job));
    let usage = job.attempts[0].usage.context("an attempt that ended has usage")?;
    assert!(usage.memory_peak_bytes > 8 << 20, "{usage:?}");

    // a child's end by memory is the child's: the job decides what it makes of it
    let child = "tail -n 1 /dev/zero; echo \"child ended with $?\"; exit 5";
    let (job, told) = outcome(&client, &shell(child)).await?;
    assert_eq!(client.stdout(job.id).await?, "child ended with 137\n");
    assert!(
        told.code == Some(5) || told.kind == "oom_killed",
        "{}",
        brief(&job)
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_job_that_runs_too_long_is_ended_with_everything_that_it_started() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let sleep = odd_sleep();
    let stubborn = SubmitJob {
        limits: LimitsBody {
            run_ms: Some(1_500),
            grace_ms: Some(300),
            ..LimitsBody::default()
        },
        ..shell(&format!("trap '' TERM; setsid {sleep} & {sleep}; {sleep}"))
    };
    let (job, told) = outcome(&client, &stubborn).await?;
    assert_eq!(
        (job.state, told.kind.as_str()),
        (StateName::Failed, "run_timeout"),
        "{}",
        brief(&job)
    );
    assert_eq!(with_mark(&sleep), Vec::<String>::new());
    cluster.stop().await
}

#[tokio::test]
async fn an_image_that_does_not_come_is_what_its_job_waits_for_until_the_limit_and_no_longer() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    // a registry that takes connections and never says a word
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let image = format!("{}/never:1", silent.local_addr()?);
    let patient = SubmitJob {
        image: Some(image.clone()),
        ..shell("true")
    };
    let waits = client.submit(&patient).await?.id;
    wait_for(LONG, "the reason", async || {
        let told = client
            .explain(waits)
            .await
            .map_err(|error| format!("{error:#}"))?;
        match told.waiting {
            Some(waiting) if waiting.reason == Reason::ImagePulling => Ok(()),
            _ => Err(told.sentence),
        }
    })
    .await?;
    client.cancel(waits, "it has waited long enough").await?;
    assert_eq!(client.ended(waits, LONG).await?.state, StateName::Cancelled);

    let impatient = SubmitJob {
        image: Some(image.clone()),
        limits: LimitsBody {
            pull_ms: Some(300),
            ..LimitsBody::default()
        },
        retry: RetryBody {
            backoff_ms: Some(10),
            ..RetryBody::default()
        },
        ..shell("true")
    };
    let (job, told) = outcome(&client, &impatient).await?;
    assert_eq!(told.kind, "image_unavailable", "{}", brief(&job));
    let why = told.message.unwrap_or_default();
    assert!(why.contains(&image) && why.contains("300 ms"), "{why}");
    assert_eq!((job.attempts_total, job.infra_retries), (4, 3), "{}", brief(&job));
    cluster.stop().await
}

#[tokio::test]
async fn a_cancel_ends_what_waits_at_once_and_what_runs_when_its_agent_has_confirmed() -> Result<()> {
    let cluster = Cluster::with(Settings {
        slots: 1,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let sleep = odd_sleep();
    let stubborn = SubmitJob {
        limits: LimitsBody {
            grace_ms: Some(1_000),
            ..LimitsBody::default()
        },
        ..shell(&format!(
            "trap 'echo asked' TERM; setsid {sleep} & while true; do {sleep}; done"
        ))
    };
    let runs = client.submit(&stubborn).await?;
    processes(&sleep, true).await?;
    let waits = client.submit(&shell("echo never")).await?;

    let cancelled = client.cancel(waits.id, "not needed").await?;
    assert_eq!(
        cancelled.state,
        StateName::Cancelled,
        "what waits ends with the request"
    );
    assert_eq!(cancelled.attempts_total, 0);
    let again = refusal(client.cancel(waits.id, "again").await)?;
    assert_eq!(again.status, 409);

    let asked = client.cancel(runs.id, "enough").await?;
    assert!(
        asked
            .cancel
            .is_some_and(|cancel| cancel.why.as_deref() == Some("enough"))
    );
    let ended = client.ended(runs.id, LONG).await?;
    assert_eq!(ended.state, StateName::Cancelled, "{}", brief(&ended));
    let told = ended.attempts[0].outcome.as_ref().context("it has ended")?;
    assert_eq!(
        (told.kind.as_str(), told.message.as_deref()),
        ("cancelled", Some("enough"))
    );
    assert_eq!(with_mark(&sleep), Vec::<String>::new());
    assert!(
        client
            .log(waits.id, Stream::Stdout)
            .await
            .map_or(true, |log| log.is_empty())
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_failing_command_is_tried_as_often_as_asked_with_growing_pauses() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let failing = SubmitJob {
        retry: RetryBody {
            max_retries: Some(2),
            backoff_ms: Some(400),
            ..RetryBody::default()
        },
        artifacts: vec!["left".into()],
        ..shell("echo tried; echo kept >left; exit 4")
    };
    let (job, told) = outcome(&client, &failing).await?;
    assert_eq!(told.code, Some(4));
    assert_eq!(
        (job.attempts_total, job.user_retries, job.infra_retries),
        (3, 2, 0),
        "{}",
        brief(&job)
    );
    let pauses: Vec<u128> = job
        .attempts
        .windows(2)
        .map(|pair| {
            let ended = pair[0].ended_at.unwrap_or_default();
            pair[1].assigned_at.since(ended).as_millis()
        })
        .collect();
    // up to a quarter less, so that jobs that failed together come back apart
    assert!(pauses[0] >= 300 && pauses[1] >= 600, "{pauses:?}");
    assert_eq!(
        client.stdout(job.id).await?,
        "tried\n",
        "each attempt has a log of its own"
    );
    assert_eq!(
        client.artifacts(job.id).await?.artifacts.len(),
        1,
        "files are kept after a failure too"
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_job_that_nobody_takes_in_time_fails_as_queue_timeout() -> Result<()> {
    let cluster = Cluster::with(Settings {
        slots: 1,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let sleep = odd_sleep();
    let holds = client.submit(&shell(&sleep)).await?;
    processes(&sleep, true).await?;
    let impatient = SubmitJob {
        limits: LimitsBody {
            queue_ms: Some(500),
            ..LimitsBody::default()
        },
        ..shell("true")
    };
    let (job, told) = outcome(&client, &impatient).await?;
    assert_eq!(
        (job.state, told.kind.as_str()),
        (StateName::Failed, "queue_timeout")
    );
    assert_eq!(job.attempts_total, 0);
    client.cancel(holds.id, "done").await?;
    assert_eq!(client.ended(holds.id, LONG).await?.state, StateName::Cancelled);
    processes(&sleep, false).await?;
    cluster.stop().await
}

#[tokio::test]
async fn an_image_means_what_it_means_to_docker_run() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let image = images::rules()?;
    let in_rules = |job: SubmitJob| SubmitJob {
        image: Some(image.clone()),
        ..job
    };
    let said = async |job: SubmitJob| -> Result<String> {
        let (ended, _) = outcome(&client, &in_rules(job)).await?;
        assert_eq!(ended.state, StateName::Succeeded, "{}", brief(&ended));
        client.stdout(ended.id).await
    };

    assert_eq!(
        said(argv(&[])).await?,
        "entry: dir=/srv/image greeting=hello args=echo from CMD\nfrom CMD\n"
    );
    assert_eq!(
        said(SubmitJob {
            env: [("IMAGE_GREETING".to_owned(), "bye".to_owned())].into(),
            workdir: Some("/tmp".into()),
            ..argv(&["echo", "from the job"])
        })
        .await?,
        "entry: dir=/tmp greeting=bye args=echo from the job\nfrom the job\n"
    );
    assert_eq!(
        said(SubmitJob {
            entrypoint: Some(vec!["/bin/echo".into(), "replaced:".into()]),
            ..argv(&["from the job"])
        })
        .await?,
        "replaced: from the job\n"
    );

    // what the image calls a volume is bounded, empty, and never the host's disk; its USER root is not obeyed
    let volume = SubmitJob {
        resources: ResourcesBody {
            memory_mib: Some(64),
            ..shell("").resources
        },
        entrypoint: Some(Vec::new()),
        ..argv(&[
            "sh",
            "-c",
            "ls -A /data | wc -l; grep -c ' /data tmpfs ' /proc/mounts; id -u | grep -c '^0$'; exit 0",
        ])
    };
    assert_eq!(said(volume).await?, "0\n1\n0\n");
    cluster.stop().await
}
#[tokio::test]
async fn a_container_that_is_stopped_from_outside_is_the_infrastructures_failure_and_tried_again()
-> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let sleep = odd_sleep();
    let once = SubmitJob {
        retry: RetryBody {
            backoff_ms: Some(10),
            ..RetryBody::default()
        },
        ..shell(&format!("exec {sleep}"))
    };
    let job = client.submit(&once).await?;
    let docker = cluster.docker();
    let container = docker.container_with(&sleep, LONG).await?;
    let mut stop = docker.command();
    stop.args(["stop", "--time", "20", &container]);
    let stopping = tokio::task::spawn_blocking(move || jobworker_e2e::scripts::output(&mut stop));
    let tried = client
        .job_when(job.id, Duration::from_secs(90), "its second attempt", |job| {
            job.attempts_total == 2 && job.state == StateName::Running
        })
        .await?;
    let _removed_meanwhile = stopping.await?;
    let first = tried.attempts[0]
        .outcome
        .as_ref()
        .context("the first has ended")?;
    assert_eq!(first.kind, "infra_error", "{}", brief(&tried));
    assert_eq!((tried.infra_retries, tried.user_retries), (1, 0));
    client.cancel(job.id, "seen enough").await?;
    client.ended(job.id, LONG).await?;
    cluster.stop().await
}
