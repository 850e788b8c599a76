//! The client's verbs against the real API and the real store, in this process, without a scheduler or a worker.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails should say where"
)]

mod interrupts;
mod json;
mod missing;
mod support;

use std::path::Path;

use common::attempt::Outcome;
use common::log::Stream;

use crate::support::{Server, stderr, stdout};

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_wrong_password_signs_nobody_in_and_the_right_one_is_kept_privately() {
    let server = Server::start().await;
    let wrong = server
        .shell_with(&["login", "--password-stdin"], "wrong-password")
        .await;
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    assert!(!server.folder.path().join("config/credentials.json").exists());

    let before = server.shell(&["list"]).await;
    assert_eq!(before.status.code(), Some(1));
    assert!(stderr(&before).contains("jobworker login"), "{before:?}");

    let right = server
        .shell_with(&["login", "--password-stdin"], &server.password)
        .await;
    assert!(right.status.success(), "{right:?}");
    assert_eq!(mode(&server.folder.path().join("config/credentials.json")), 0o600);
    assert!(server.shell(&["list"]).await.status.success());

    assert!(server.shell(&["logout"]).await.status.success());
    assert_eq!(server.shell(&["list"]).await.status.code(), Some(1));
    server.stop().await;
}

#[tokio::test]
async fn what_is_submitted_is_listed_shown_and_cancelled() {
    let server = Server::signed_in().await;
    let flags = [
        "submit", "--name", "nightly", "--label", "team=a", "--memory", "1g", "--", "make", "all",
    ];
    let submitted = server.shell(&flags).await;
    assert!(submitted.status.success(), "{submitted:?}");
    let id = stdout(&submitted).trim().to_owned();

    let list = server
        .shell(&["list", "--state", "queued", "--label", "team=a"])
        .await;
    assert!(
        stdout(&list).contains(&id) && stdout(&list).contains("make all"),
        "{list:?}"
    );
    let none = server.shell(&["list", "--label", "team=b"]).await;
    assert!(none.status.success() && stdout(&none).is_empty(), "{none:?}");

    let page = stdout(&server.shell(&["get", &id]).await);
    assert!(
        page.contains("nightly") && page.contains("1024 MiB") && page.contains("queued"),
        "{page}"
    );
    assert!(page.contains("No worker is registered"), "{page}");

    let json = server.shell(&["get", "--json", &id]).await;
    let job: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(job["spec"]["command"], serde_json::json!(["make", "all"]));

    let cancelled = server.shell(&["cancel", "--why", "not needed", &id]).await;
    assert!(stdout(&cancelled).contains("cancelled"), "{cancelled:?}");
    let again = server.shell(&["cancel", &id]).await;
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    server.stop().await;
}

#[tokio::test]
async fn many_jobs_come_from_one_list_and_a_wrong_field_is_named() {
    let server = Server::signed_in().await;
    let many = r#"[{"command": ["echo", "1"]}, {"command": "echo 2"}]"#;
    let submitted = server.shell_with(&["submit", "--spec", "-"], many).await;
    assert_eq!(stdout(&submitted).lines().count(), 2, "{submitted:?}");

    let wrong = server
        .shell_with(&["submit", "--spec", "-"], r#"{"command": "x", "timeot": 1}"#)
        .await;
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("timeot"), "{wrong:?}");

    let refused = server
        .shell(&["submit", "--workdir", "relative", "--", "x"])
        .await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("workdir"), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn output_comes_out_of_the_stream_it_went_into_stored_or_followed() {
    let server = Server::signed_in().await;
    let job = server.submitted().await;
    let attempt = server.start_job(job).await;
    server.log(attempt, Stream::Stdout, 0, "one\n").await;
    server.log(attempt, Stream::Stderr, 0, "oops\n").await;

    let id = job.to_string();
    let stored = server.shell(&["logs", &id]).await;
    assert_eq!(
        (stdout(&stored).as_str(), stderr(&stored).as_str()),
        ("one\n", "oops\n")
    );

    let follow = ["logs", "-f", &id];
    let following = server.shell(&follow);
    let rest = async {
        server.log(attempt, Stream::Stdout, 1, "two\u{1b}[2J\n").await;
        server.finish_job(job, attempt, Outcome::Exited { code: 0 }).await;
    };
    let (followed, ()) = tokio::join!(following, rest);
    assert_eq!(
        stdout(&followed),
        "one\ntwo\u{1b}[2J\n",
        "into a pipe the bytes go unchanged"
    );
    assert_eq!(stderr(&followed), "oops\n");

    let tail = server
        .shell(&["logs", "--stream", "stdout", "--tail", "1", &id])
        .await;
    assert_eq!(stdout(&tail), "two\u{1b}[2J\n");
    let page = stdout(&server.shell(&["get", &id]).await);
    assert!(
        page.contains("succeeded") && page.contains("exited with status 0"),
        "{page}"
    );
    server.stop().await;
}

#[tokio::test]
async fn run_ends_as_its_job_did() {
    let server = Server::signed_in().await;
    let run = ["run", "--quiet", "--name", "mine", "--", "sh", "-c", "exit 3"];
    let running = server.shell(&run);
    let worker = async {
        let job = server.first_queued().await;
        let attempt = server.start_job(job).await;
        server.log(attempt, Stream::Stdout, 0, "last words\n").await;
        server.finish_job(job, attempt, Outcome::Exited { code: 3 }).await;
    };
    let (ran, ()) = tokio::join!(running, worker);
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert_eq!(stdout(&ran), "last words\n");
    assert_eq!(stderr(&ran), "");
    server.stop().await;
}

#[tokio::test]
async fn a_file_and_a_folder_go_up_and_come_back_as_they_were() {
    let server = Server::signed_in().await;
    let here = server.folder.path();
    std::fs::write(here.join("data.bin"), vec![0xabu8; 300_000]).unwrap();
    std::fs::create_dir(here.join("project")).unwrap();
    std::fs::write(here.join("project/a.txt"), "a").unwrap();

    let uploaded = server.shell(&["files", "upload", "data.bin", "project"]).await;
    assert!(uploaded.status.success(), "{uploaded:?}");
    let ids: Vec<String> = stdout(&uploaded).lines().map(str::to_owned).collect();
    let back = server
        .shell(&["files", "download", &ids[0], "--to", "back.bin"])
        .await;
    assert!(back.status.success(), "{back:?}");
    assert_eq!(
        std::fs::read(here.join("back.bin")).unwrap(),
        vec![0xabu8; 300_000]
    );
    let again = server
        .shell(&["files", "download", &ids[0], "--to", "back.bin"])
        .await;
    assert!(stderr(&again).contains("--force"), "{again:?}");

    let list = stdout(&server.shell(&["files", "list"]).await);
    assert!(
        list.contains("data.bin") && list.contains("project.tar.gz"),
        "{list}"
    );
    assert!(server.shell(&["files", "delete", &ids[1]]).await.status.success());
    let gone = server.shell(&["files", "download", &ids[1], "--to", "-"]).await;
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    server.stop().await;
}

#[tokio::test]
async fn nobody_at_the_address_is_told_with_the_address() {
    let server = Server::signed_in().await;
    let nobody = server.shell(&["list", "--server", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    let told = stderr(&nobody);
    assert!(
        told.contains("http://127.0.0.1:1") && told.contains("jobworker up"),
        "{told}"
    );
    let run = server
        .shell(&["run", "--server", "http://127.0.0.1:1", "--", "true"])
        .await;
    assert_eq!(run.status.code(), Some(125), "{run:?}");
    server.stop().await;
}
