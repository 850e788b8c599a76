//! The main job, from outside: a zip goes up, a command runs in a container, its output is seen while it runs, and the
//! file that it makes comes back.

use anyhow::{Context, Result};
use common::api_types::{InputBody, SubmitJob};
use common::job::StateName;
use common::log::Stream;
use jobworker_e2e::cli::Shell;
use jobworker_e2e::client::{Client, argv};
use jobworker_e2e::cluster::Cluster;
use jobworker_e2e::events::Followed;
use jobworker_e2e::text::{COUNT_SCRIPT, counted, sha256, words, zip};
use jobworker_e2e::wait::LONG;

async fn counting(client: &Client, text: &str) -> Result<SubmitJob> {
    let archive = zip(&[
        ("text.txt", text.as_bytes()),
        ("count.sh", COUNT_SCRIPT.as_bytes()),
    ])?;
    let file = client.upload("input.zip", archive).await?;
    Ok(SubmitJob {
        name: Some("wordcount".into()),
        inputs: vec![InputBody {
            file: file.id,
            path: ".".into(),
            unpack: true,
        }],
        artifacts: vec!["out/*".into()],
        ..argv(&["sh", "count.sh"])
    })
}

#[tokio::test]
async fn output_is_seen_while_the_job_runs_and_its_file_comes_back() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let text = words();
    assert!(text.len() > 30_000, "{}", text.len());

    let job = client.submit(&counting(&client, &text).await?).await?;
    let mut follower = client.follow(job.id).await?;
    let first = loop {
        match follower
            .next()
            .await?
            .context("the stream ended before any output")?
        {
            Followed::Log(chunk) => break chunk,
            Followed::End(end) => anyhow::bail!("it ended before any output was seen: {end:?}"),
            Followed::State(_) | Followed::Attempt(_) => {}
        }
    };
    let seen = client.job(job.id).await?;
    assert!(
        !seen.state.is_terminal(),
        "output came only when the job was {}",
        seen.state
    );
    assert_eq!(first.stream, Stream::Stdout);
    let said = String::from_utf8(first.bytes().context("base64")?)?;
    assert_eq!(said, format!("counting {} bytes\n", text.len()));

    let (mut stderr, mut end) = (Vec::new(), None);
    while let Some(event) = follower.next().await? {
        match event {
            Followed::Log(chunk) if chunk.stream == Stream::Stderr => {
                stderr.extend(chunk.bytes().context("base64")?);
            }
            Followed::End(told) => end = Some(told),
            Followed::Log(_) | Followed::State(_) | Followed::Attempt(_) => {}
        }
    }
    let end = end.context("the stream ended without a word of the job's end")?;
    assert_eq!((end.state, end.exit_code), (StateName::Succeeded, Some(0)));
    assert_eq!(String::from_utf8(stderr)?, "10 words\n");

    let left = client.artifacts(job.id).await?;
    let [artifact] = left.artifacts.as_slice() else {
        anyhow::bail!("expected one artifact, got {left:?}");
    };
    assert_eq!(artifact.path, "out/counts.txt");
    let bytes = client.download(artifact.file).await?;
    assert_eq!(String::from_utf8(bytes.clone())?, counted(&text));
    assert_eq!(artifact.sha256, sha256(&bytes));

    let done = client.ended(job.id, LONG).await?;
    assert_eq!(done.attempts_total, 1);
    let attempt = done.attempts.last().context("it had an attempt")?;
    let timings = attempt.timings.context("an attempt that ended has timings")?;
    assert!(timings.run_ms.is_some_and(|ms| ms >= 4_000), "{timings:?}");
    assert!(attempt.logs_missing.is_none(), "{:?}", attempt.logs_missing);
    cluster.stop().await
}

#[tokio::test]
async fn the_shell_runs_it_in_one_command_and_ends_as_the_job_did() -> Result<()> {
    let cluster = Cluster::start().await?;
    let shell = Shell::of(&cluster.client()?)?;
    let text = words();
    let (input, script) = (
        shell.file("text.txt", text.as_bytes())?,
        shell.file("count.sh", COUNT_SCRIPT.as_bytes())?,
    );
    let out = shell.config().join("results");
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();

    let said = shell
        .run(&[
            "run",
            "--cpu",
            "500m",
            "--memory",
            "32m",
            "--disk",
            "16m",
            "--file",
            &path(&input),
            "--file",
            &path(&script),
            "--artifact",
            "out/*",
            "--out",
            &path(&out),
            "--",
            "sh",
            "count.sh",
        ])
        .await?;
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.out, format!("counting {} bytes\n", text.len()));
    assert!(said.err.contains("10 words\n"), "{said:?}");
    assert_eq!(
        std::fs::read_to_string(out.join("out/counts.txt"))?,
        counted(&text)
    );

    let small = [
        "run", "--quiet", "--cpu", "500m", "--memory", "32m", "--disk", "16m",
    ];
    let failing = [
        &small[..],
        &["--shell", "--", "echo to out; echo to err >&2; exit 7"],
    ]
    .concat();
    let said = shell.run(&failing).await?;
    assert_eq!(
        (said.status, said.out.as_str(), said.err.as_str()),
        (7, "to out\n", "to err\n")
    );

    let missing = [&small[..], &["--", "no-such-command"]].concat();
    let said = shell.run(&missing).await?;
    assert_eq!(said.status, 127, "{said:?}");
    cluster.stop().await
}
