//! What stays behind when something goes wrong halfway: nothing of ours, and everything of others.

use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use common::attempt::NotStartedReason;
use common::ids::FileId;
use common::job::{Command, InputFile, JobSpec};
use futures_util::FutureExt;
use worker_agent::executor::{
    AdoptRequest, ContainerRef, EndedBy, ExecEvent, Executor, LocalInput, PrepareRequest, StartFailure,
    Status, StopWhy,
};

use super::node::{
    LOOK_EVERY, Node, STEP_MAX, assignment, begin, clock, image, node, node_at, node_with, nothing_is_left,
    request, run, shell, status, to_the_end, workspaces,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_an_image_is_a_bounded_tmpfs_and_no_volume() {
    let node = node(0).await;
    let mut spec = JobSpec {
        image: std::env::var("JOBWORKER_RULES_IMAGE").unwrap_or_else(|_| "jobworker/imagerules:1".to_owned()),
        entrypoint: Some(Vec::new()),
        command: Command::Argv(
            [
                "/bin/sh",
                "-c",
                "grep ' /data ' /proc/mounts; dd if=/dev/zero of=/data/big bs=1M count=80 2>&1",
            ]
            .map(str::to_owned)
            .into(),
        ),
        workdir: Some("/workspace".to_owned()),
        ..shell("")
    };
    spec.resources.memory_mib = 256;
    let prepared = node.executor.prepare(request(spec)).await.unwrap();
    let docker = Docker::connect_with_unix_defaults().unwrap();
    let seen = docker
        .inspect_container(&prepared.container().0, None)
        .await
        .unwrap();
    let mounts = seen.mounts.unwrap_or_default();
    let mut running = prepared.run(clock().mono().after(STEP_MAX)).await.unwrap();
    let (output, ended) = to_the_end(&mut running).await;
    running.finish().await;
    nothing_is_left(&node).await;
    node.close().await;
    let kinds: Vec<_> = mounts.iter().map(|mount| mount.typ.as_deref()).collect();
    assert_eq!(
        kinds,
        [Some("bind"), Some("bind")],
        "init and workspace: {mounts:?}"
    );
    for fact in [
        "tmpfs /data tmpfs rw,nosuid,nodev",
        "size=65536k",
        "No space left on device",
    ] {
        assert!(output.contains(fact), "{fact}: {output}");
    }
    assert_eq!(
        status(&ended),
        Some((Status::Code(1), EndedBy::Itself, false)),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_somebody_else_is_left_alone_whatever_its_name() {
    let node = node(0).await;
    let docker = Docker::connect_with_unix_defaults().unwrap();
    let name = format!("jw-test-{:016x}", rand::random::<u64>());
    let options = CreateContainerOptions {
        name: Some(name.clone()),
        ..CreateContainerOptions::default()
    };
    let body = ContainerCreateBody {
        image: Some(image()),
        cmd: Some(vec!["/bin/true".to_owned()]),
        labels: Some([("jobworker.owner".to_owned(), "test/somebody-else".to_owned())].into()),
        ..ContainerCreateBody::default()
    };
    let foreign = docker.create_container(Some(options), body).await.unwrap().id;
    // a second life looks at what the first one left
    let state = std::fs::canonicalize(node.state.path()).unwrap();
    let folder = node.ends().await;
    std::fs::create_dir_all(state.join("workspaces/jw-test-gone/mnt")).unwrap();
    let node = node_at(folder, 0).await;
    let owned = node.executor.owned().await.unwrap();
    let removed = node.executor.remove(&ContainerRef(foreign.clone())).await;
    let still = docker.inspect_container(&foreign, None).await;
    remove_as_somebody_else(&ContainerRef(foreign)).await;
    let left = workspaces(&node);
    node.close().await;
    assert_eq!(owned, []);
    assert!(removed.is_err());
    assert!(still.is_ok());
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_nobody_took_up_is_found_with_its_age_and_goes_whole() {
    let node = node(0).await;
    let before = clock().now();
    let prepared = node.executor.prepare(request(shell("true"))).await.unwrap();
    let container = prepared.container().clone();
    drop(prepared);
    let owned = node.executor.owned().await.unwrap();
    let after = clock().now();
    assert_eq!(owned.len(), 1);
    assert_eq!(owned[0].container, container);
    assert!(owned[0].of_this_life);
    assert!((before..=after).contains(&owned[0].created_at), "{owned:?}");
    let node = node_at(node.ends().await, 0).await;
    let owned = node.executor.owned().await.unwrap();
    assert_eq!((&owned[0].container, owned[0].of_this_life), (&container, false));
    node.executor.remove(&container).await.unwrap();
    nothing_is_left(&node).await;
    // one that is gone is no error
    node.executor.remove(&container).await.unwrap();
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_placed_leaves_no_container() {
    let node = node(0).await;
    let local = node.state.path().join("input");
    std::fs::write(&local, "no archive").unwrap();
    let wanted = InputFile {
        file: FileId::random(),
        path: "in".to_owned(),
        unpack: true,
    };
    let request = PrepareRequest {
        inputs: vec![LocalInput { wanted, local }],
        ..request(shell("true"))
    };
    let failure = node.executor.prepare(request).await.err();
    nothing_is_left(&node).await;
    node.close().await;
    assert!(
        matches!(
            failure,
            Some(StartFailure::NotStarted {
                reason: NotStartedReason::BadInputs,
                ..
            })
        ),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_a_job_that_are_given_up_at_once_lose_nothing() {
    let node = node(0).await;
    let mut running = begin(
        &node,
        shell("i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); done; kill -9 $$"),
    )
    .await;
    let deadline = clock().mono().after(STEP_MAX);
    let mut output = Vec::new();
    let ended = loop {
        // polled once and dropped, as often as it takes
        match running.next().now_or_never() {
            Some(ExecEvent::Ended(ended)) => break ended,
            Some(ExecEvent::Chunk(chunk)) => output.extend_from_slice(&chunk.bytes),
            Some(ExecEvent::Started) => {}
            None => {
                assert!(clock().mono() < deadline, "no end after {} bytes", output.len());
                // tidy: poll
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    running.finish().await;
    nothing_is_left(&node).await;
    node.close().await;
    let expected: String = (0..300).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&output), expected);
    assert_eq!(status(&ended), Some((Status::Signal(9), EndedBy::Itself, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_before_and_while_it_runs_leaves_nothing() {
    let node = node(0).await;
    let prepared = node.executor.prepare(request(shell("sleep 999"))).await.unwrap();
    prepared.destroy().await;
    let mut running = begin(&node, shell("sleep 999")).await;
    running.stop(StopWhy::LeaseLost).await;
    // without a word of its end
    running.finish().await;
    run(&node, shell("true")).await;
    nothing_is_left(&node).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_made_leaves_no_workspace() {
    let node = node_with(tempfile::tempdir().unwrap(), 1, |config| {
        config.policy.runtime = Some("no-such-runtime".to_owned());
    })
    .await;
    let failure = node.executor.prepare(request(shell("true"))).await.err();
    nothing_is_left(&node).await;
    node.close().await;
    assert!(matches!(failure, Some(StartFailure::Infra { .. })), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_looked_at_when_the_engine_first_answers() {
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("engine.sock");
    std::fs::create_dir_all(state.path().join("workspaces/jw-test-gone/mnt")).unwrap();
    let node = node_with(state, 0, |config| config.socket = Some(socket.clone())).await;
    assert!(node.executor.owned().await.is_err());
    assert_eq!(workspaces(&node), ["jw-test-gone"]);
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    assert_eq!(node.executor.owned().await.unwrap(), []);
    assert_eq!(workspaces(&node), Vec::<String>::new());
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_keeps_its_user_from_the_first_container_that_is_made_once_the_engine_is_there() {
    let node = node(0).await;
    let running = begin(&node, shell("sleep 999")).await;
    drop(running);
    let state = node.ends().await;
    let socket = state.path().join("engine.sock");
    let node = node_with(state, 0, |config| config.socket = Some(socket.clone())).await;
    std::os::unix::fs::symlink("/var/run/docker.sock", &socket).unwrap();
    let (user, _) = run(&node, shell("id -u")).await;
    node.close().await;
    assert_eq!(user, "66001\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_removes_of_an_earlier_life_gives_workspace_and_user_back() {
    let node = node(0).await;
    let running = begin(&node, shell("sleep 999")).await;
    let container = running.container().clone();
    drop(running);
    let node = node_at(node.ends().await, 0).await;
    let (beside, _) = run(&node, shell("id -u")).await;
    remove_as_somebody_else(&container).await;
    nothing_is_left(&node).await;
    let (after, _) = run(&node, shell("id -u")).await;
    node.close().await;
    assert_eq!((beside.as_str(), after.as_str()), ("66001\n", "66000\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_of_an_adopted_run_stays_until_the_run_is_over_whoever_removes_its_container() {
    let node = node(0).await;
    let assignment = assignment(shell("echo kept > kept"));
    let inputs = Vec::new();
    let request = PrepareRequest {
        assignment: Arc::clone(&assignment),
        inputs,
    };
    let prepared = node.executor.prepare(request).await.unwrap();
    let container = prepared.container().clone();
    drop(prepared.run(clock().mono().after(STEP_MAX)).await.unwrap());
    let node = node_at(node.ends().await, 0).await;
    let adopted = node.executor.adopt(AdoptRequest {
        assignment,
        container: container.clone(),
        spooled_seq: 0,
    });
    let mut running = adopted.await.unwrap();
    to_the_end(&mut running).await;
    remove_as_somebody_else(&container).await;
    assert_eq!(node.executor.owned().await.unwrap(), []);
    let kept = workspaces(&node);
    running.finish().await;
    nothing_is_left(&node).await;
    node.close().await;
    assert_eq!(kept.len(), 1);
}

async fn remove_as_somebody_else(container: &ContainerRef) {
    let docker = Docker::connect_with_unix_defaults().unwrap();
    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    docker
        .remove_container(&container.0, Some(options))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn spares_of_a_life_that_ended_well_are_gone_with_it() {
    let node = node(2).await;
    run(&node, shell("true")).await;
    // the job's own may be gone already; what is there then is a spare
    let deadline = clock().mono().after(STEP_MAX);
    while workspaces(&node).is_empty() || !node.executor.owned().await.unwrap().is_empty() {
        assert!(
            clock().mono() < deadline,
            "no spare is made: {:?}",
            workspaces(&node)
        );
        // tidy: poll
        tokio::time::sleep(LOOK_EVERY).await;
    }
    node.tasks.stop();
    assert!(node.tasks.join(STEP_MAX).await);
    nothing_is_left(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_something_still_writes_to_is_not_read() {
    let node = node(0).await;
    let place = |node: &Node| {
        let name = workspaces(node).remove(0);
        node.state.path().join("workspaces").join(name).join("mnt/kept")
    };
    let mut running = begin(&node, shell("echo kept > kept")).await;
    let (_, ended) = to_the_end(&mut running).await;
    // on a node without file systems of their own nothing can be frozen
    let can_be_frozen = !node
        .executor
        .describe()
        .await
        .notes
        .contains(&"no_disk_quota".to_owned());
    let writer = std::fs::OpenOptions::new()
        .append(true)
        .open(place(&node))
        .unwrap();
    let collected = running.collect(&["*".to_owned()]).await;
    drop(writer);
    running.finish().await;
    nothing_is_left(&node).await;
    node.close().await;
    assert_eq!(status(&ended), Some((Status::Code(0), EndedBy::Itself, false)));
    assert_eq!(collected.is_err(), can_be_frozen, "{collected:?}");
}
