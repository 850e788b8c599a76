//! The shell and `up` without a single container: what they say when something is wrong, and the shape of what they
//! print.

use std::net::TcpListener;

use anyhow::{Context, Result};
use common::api_types::{JobList, JobView};
use common::job::StateName;
use jobworker_e2e::cli::{Shell, finish};
use jobworker_e2e::client::shell;
use jobworker_e2e::cluster::{Cluster, Settings};

async fn no_agent() -> Result<Cluster> {
    Cluster::without_waiting(Settings {
        agent: false,
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() -> Result<()> {
    // a port that was free a moment ago, and that nobody listens on
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = format!("http://{free}");
    let said = Shell::new()?
        .run(&["--server", &server, "--token", "x", "list"])
        .await?;
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains(&free.to_string()) && said.err.contains("jobworker up"),
        "{said:?}"
    );
    assert_eq!(said.out, "");

    let said = Shell::new()?
        .run(&["--server", &server, "--token", "x", "run", "--", "true"])
        .await?;
    assert_eq!(said.status, 125, "never taken for the job's own status: {said:?}");
    let said = Shell::new()?.run(&["--server", "nonsense", "list"]).await?;
    assert_eq!(said.status, 2, "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_second_up_is_told_that_the_folder_or_the_port_is_taken() -> Result<()> {
    let cluster = no_agent().await?;
    let shell = Shell::new()?;
    let state = cluster.state().to_string_lossy().into_owned();
    let up = ["up", "--no-agent", "--worker-listen", "127.0.0.1:0"];

    let same_folder = [&up[..], &["--listen", "127.0.0.1:0", "--state", &state]].concat();
    let said = shell.run(&same_folder).await?;
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("--state"), "{said:?}");

    let address = cluster.ready()?.api.replace("http://", "");
    let address = address.trim_end_matches('/');
    let other = shell.config().join("other").to_string_lossy().into_owned();
    let same_port = [&up[..], &["--listen", address, "--state", &other]].concat();
    let said = shell.run(&same_port).await?;
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains(address) && said.err.contains("--listen"),
        "{said:?}"
    );

    // the first was not disturbed
    assert!(cluster.client()?.jobs().await?.is_empty());
    cluster.stop().await
}

#[tokio::test]
async fn every_verb_has_help_that_ends_well() -> Result<()> {
    let shell = Shell::new()?;
    let said = shell.run(&["--help"]).await?;
    assert_eq!(said.status, 0);
    for verb in [
        "up",
        "login",
        "logout",
        "run",
        "submit",
        "get",
        "why",
        "logs",
        "cancel",
        "list",
        "workers",
        "files",
        "artifacts",
    ] {
        assert!(
            said.out.lines().any(|line| line.trim_start().starts_with(verb)),
            "{verb}: {}",
            said.out
        );
        let help = shell.run(&[verb, "--help"]).await?;
        assert_eq!(help.status, 0, "{help:?}");
        assert!(help.out.contains("Usage:"), "{help:?}");
    }
    let said = shell.run(&["no-such-verb"]).await?;
    assert_eq!((said.status, said.out.as_str()), (2, ""));
    Ok(())
}

#[tokio::test]
async fn a_person_signs_in_submits_lists_cancels_and_signs_out() -> Result<()> {
    let cluster = no_agent().await?;
    let shell = Shell::new()?;
    let server = cluster.ready()?.api.clone();
    let server = if server.starts_with("http") {
        server
    } else {
        format!("http://{server}")
    };

    let said = shell.run(&["--server", &server, "list"]).await?;
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("jobworker login"), "{said:?}");

    let login = |password: &std::path::Path| -> Result<_> {
        let mut command = shell.command(&[
            "login",
            "--server",
            &server,
            "--user",
            "admin",
            "--password-stdin",
        ])?;
        command.stdin(std::fs::File::open(password)?);
        Ok(command)
    };
    let wrong = shell.file("wrong", b"not the password\n")?;
    let said = finish(login(&wrong)?).await?;
    assert_eq!(said.status, 1, "{said:?}");
    let said = finish(login(&cluster.password_file())?).await?;
    assert_eq!(said.status, 0, "{said:?}");

    // from here on no address and no token are named
    let said = shell
        .run(&["submit", "--name", "first", "--", "echo", "hi"])
        .await?;
    assert_eq!(said.status, 0, "{said:?}");
    let id = said.out.trim().to_owned();
    assert!(id.starts_with("job_"), "{said:?}");

    let said = shell.run(&["get", "--json", &id]).await?;
    let job: JobView = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
    assert_eq!(
        (job.id.to_string(), job.name.as_deref()),
        (id.clone(), Some("first"))
    );
    let said = shell.run(&["list", "--json"]).await?;
    let list: JobList = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
    assert_eq!(list.jobs.len(), 1);
    let said = shell.run(&["list"]).await?;
    assert!(
        said.out.contains(&id) && said.out.contains("first") && said.out.contains("queued"),
        "{said:?}"
    );
    let said = shell.run(&["list", "--state", "running"]).await?;
    assert!(!said.out.contains(&id), "{said:?}");

    let said = shell.run(&["cancel", &id]).await?;
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(
        cluster.client()?.job(id.parse()?).await?.state,
        StateName::Cancelled
    );
    let said = shell.run(&["cancel", &id]).await?;
    assert_eq!(said.status, 1, "{said:?}");

    let said = shell.run(&["logout"]).await?;
    assert_eq!(said.status, 0, "{said:?}");
    let said = shell.run(&["--server", &server, "list"]).await?;
    assert_eq!(said.status, 1, "{said:?}");
    cluster.stop().await
}

#[tokio::test]
async fn files_go_up_and_come_back_as_they_were() -> Result<()> {
    let cluster = no_agent().await?;
    let person = Shell::of(&cluster.client()?)?;
    let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let path = person.file("data.bin", &content)?;
    let path = path.to_string_lossy();
    let said = person.run(&["files", "upload", &path]).await?;
    assert_eq!(said.status, 0, "{said:?}");
    let id = said.out.trim().to_owned();
    let back = person.config().join("back.bin");
    let to = back.to_string_lossy();
    let said = person.run(&["files", "download", &id, "--to", &to]).await?;
    assert_eq!(said.status, 0, "{said:?}");
    assert!(std::fs::read(&back)? == content, "the bytes differ");
    let said = person.run(&["files", "download", &id, "--to", &to]).await?;
    assert_eq!(said.status, 1, "a file that is there is not replaced: {said:?}");
    let said = person.run(&["files", "delete", &id]).await?;
    assert_eq!(said.status, 0, "{said:?}");
    let said = person.run(&["files", "download", &id, "--to", "-"]).await?;
    assert_eq!(said.status, 1, "{said:?}");
    cluster.stop().await
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_stop_and_after_a_kill() -> Result<()> {
    let mut cluster = no_agent().await?;
    let client = cluster.client()?;
    let mut ids = Vec::new();
    for round in 0..3 {
        ids.push(client.submit(&shell("true")).await?.id);
        if round % 2 == 0 {
            cluster.kill()?;
        } else {
            assert!(cluster.terminate().await?.success());
        }
        cluster.start_again().await?;
    }
    for id in ids {
        assert_eq!(client.job(id).await?.state, StateName::Queued);
    }
    cluster.stop().await
}
