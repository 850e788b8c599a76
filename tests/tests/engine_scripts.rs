//! `scripts/engine` starts, restarts and ends an engine of its own, without touching the machine's.

use std::process::Command;

use jobworker_e2e::scripts::{PrivateEngine, docker, image, output, run, script};

#[test]
fn an_engine_that_was_killed_starts_again_and_keeps_its_images() {
    let engine = PrivateEngine::start().expect("a private engine starts");
    let socket = engine.socket();
    let name = image("JOBWORKER_IMAGE").expect("the image has a name");
    run(script("ensure-image").env("DOCKER_HOST", format!("unix://{socket}"))).expect("the images are made");

    let pid = engine.pid().expect("dockerd wrote its number");
    run(Command::new("kill").args(["-KILL", &pid.to_string()])).expect("dockerd is killed");
    // `start` looks whether the number in the file is still alive, so it may come at once.
    engine
        .tell("start")
        .expect("it starts again in spite of what the killed one left");

    let echo =
        run(docker(Some(&socket)).args(["run", "--rm", "--network", "none", &name, "echo", "still here"]));
    assert_eq!(echo.expect("a container runs"), "still here\n");
}

#[test]
fn a_private_engine_takes_nothing_from_the_machines_own() {
    let bridges =
        || run(Command::new("ip").args(["-brief", "link", "show", "type", "bridge"])).expect("ip answers");
    let names = |text: String| {
        text.lines()
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let before = names(bridges());

    let engine = PrivateEngine::start().expect("a private engine starts");
    assert_eq!(
        names(bridges()),
        before,
        "the bridges of the machine are as they were"
    );
    let containers =
        run(docker(Some(&engine.socket())).args(["ps", "--all", "--quiet"])).expect("it answers");
    assert_eq!(containers, "", "it sees none of the machine's containers");

    engine.tell("stop").expect("it stops");
    assert!(engine.tell("status").is_err(), "nobody answers any more");
    assert_eq!(
        names(bridges()),
        before,
        "the bridges of the machine are as they were"
    );
}

#[test]
fn a_stop_without_a_start_ends_nothing_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let answer = output(script("engine").arg("stop").arg(folder.path())).expect("the script runs");
    assert!(answer.status.success());
    assert!(String::from_utf8_lossy(&answer.stderr).contains("nothing to stop"));
}

#[test]
fn an_engine_that_does_not_answer_at_docker_host_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = format!("unix://{}/none.sock", folder.path().display());
    let answer = output(script("ensure-docker").env("DOCKER_HOST", &nowhere)).expect("the script runs");
    let said = String::from_utf8_lossy(&answer.stderr);
    assert!(!answer.status.success());
    assert!(
        said.contains(&nowhere) && said.contains("expected:") && said.contains("do next:"),
        "{said}"
    );
}
