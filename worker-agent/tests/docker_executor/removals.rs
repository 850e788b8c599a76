//! What cannot be removed at once: it is in nobody's way, keeps its user, and goes as soon as it can.

use std::collections::BTreeSet;

use bollard::Docker;
use common::attempt::NotStartedReason;
use common::job::{Command, JobSpec};
use common::worker::Condition;
use worker_agent::executor::{ContainerRef, Executor, StartFailure};

use super::late::Late;
use super::node::{
    LOOK_EVERY, Node, STEP_MAX, begin, clock, node, node_at, node_with, nothing_is_left, request, run, shell,
    to_the_end, workspaces,
};

/// A file that nobody can remove, and so neither the folder in which it lies.
struct Immovable(std::path::PathBuf);

impl Immovable {
    async fn of(container: &ContainerRef) -> Self {
        let engine = Docker::connect_with_defaults().unwrap();
        let root = engine.info().await.unwrap().docker_root_dir.unwrap();
        let path = std::path::Path::new(&root)
            .join("containers")
            .join(&container.0)
            .join("immovable");
        Self::at(path)
    }

    fn at(path: std::path::PathBuf) -> Self {
        std::fs::write(&path, "").unwrap();
        chattr("+i", &path);
        Self(path)
    }
}

impl Drop for Immovable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(change: &str, path: &std::path::Path) {
    let changed = std::process::Command::new("chattr")
        .arg(change)
        .arg(path)
        .status()
        .unwrap();
    assert!(changed.success(), "chattr {change} {}", path.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_the_engine_refuses_to_remove_are_in_nobodys_way_and_go_as_soon_as_they_can() {
    let node = node(0).await;
    let (mut stuck, mut immovable) = (BTreeSet::new(), Vec::new());
    // as many as are removed at a time
    for _ in 0..2 {
        let mut running = begin(&node, shell("true")).await;
        to_the_end(&mut running).await;
        let container = running.container().clone();
        immovable.push(Immovable::of(&container).await);
        let refused = node.executor.remove(&container).await.unwrap_err();
        assert!(refused.message.contains("immovable"), "{refused:?}");
        running.finish().await;
        stuck.insert(container);
    }
    for _ in 0..3 {
        run(&node, shell("true")).await;
    }
    only_are_left(&node, &stuck).await;
    drop(immovable);
    nothing_is_left(&node).await;
    node.close().await;
}

async fn only_are_left(node: &Node, stuck: &BTreeSet<ContainerRef>) {
    let deadline = clock().mono().after(STEP_MAX);
    loop {
        let owned = node.executor.owned().await.unwrap();
        let left: BTreeSet<_> = owned.into_iter().map(|owned| owned.container).collect();
        if left == *stuck {
            return;
        }
        assert!(clock().mono() < deadline, "left: {left:?}");
        // tidy: poll
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_that_outlives_its_container_goes_as_soon_as_it_can() {
    let node = node(0).await;
    let prepared = node.executor.prepare(request(shell("true"))).await.unwrap();
    let container = prepared.container().clone();
    drop(prepared);
    let workspace = node
        .state
        .path()
        .join("workspaces")
        .join(workspaces(&node).remove(0));
    let immovable = Immovable::at(workspace.join("immovable"));
    let stays = node.executor.remove(&container).await.unwrap_err();
    assert!(stays.message.contains("the workspace stays"), "{stays:?}");
    // the container is gone, so whoever asks again is told that there is nothing to remove
    node.executor.remove(&container).await.unwrap();
    drop(immovable);
    nothing_is_left(&node).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_still_there_has_its_user_alone_also_after_a_restart() {
    let node = node(0).await;
    let mut running = begin(&node, shell("id -u")).await;
    let (user, _) = to_the_end(&mut running).await;
    let container = running.container().clone();
    let immovable = Immovable::of(&container).await;
    running.finish().await;
    let (next, _) = run(&node, shell("id -u")).await;
    let node = node_at(node.ends().await, 0).await;
    let (in_the_next_life, _) = run(&node, shell("id -u")).await;
    assert_eq!(user, "66000\n");
    for other in [&next, &in_the_next_life] {
        assert!(other.starts_with("660") && *other != user, "{other}");
    }
    drop(immovable);
    node.executor.remove(&container).await.unwrap();
    let (again, _) = run(&node, shell("id -u")).await;
    nothing_is_left(&node).await;
    node.close().await;
    assert_eq!(again, user);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_told_to_run_goes_as_soon_as_it_can() {
    let node = node(0).await;
    let too_long = JobSpec {
        command: Command::Argv(vec!["echo".to_owned(), "x".repeat(300 * 1024)]),
        ..shell("")
    };
    for refused in [false, true] {
        let prepared = node.executor.prepare(request(too_long.clone())).await.unwrap();
        let container = prepared.container().clone();
        let immovable = match refused {
            true => Some(Immovable::of(&container).await),
            false => None,
        };
        let failure = prepared.run(clock().mono().after(STEP_MAX)).await.err();
        let left = node.executor.owned().await.unwrap();
        assert!(
            matches!(
                failure,
                Some(StartFailure::NotStarted {
                    reason: NotStartedReason::Other,
                    ..
                })
            ),
            "{failure:?}"
        );
        assert_eq!(left.len(), usize::from(refused), "{left:?}");
        drop(immovable);
        nothing_is_left(&node).await;
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_engine_does_not_list_its_containers_is_not_ready() {
    let state = tempfile::tempdir().unwrap();
    let late = Late::before_the_engine(state.path());
    late.refuse_lists(true);
    let socket = late.socket.clone();
    let node = node_with(state, 0, |config| config.socket = Some(socket)).await;
    let reasons = node.executor.condition().await;
    assert!(
        matches!(&reasons, Condition::Unready { reasons } if reasons[0].contains("the list is lost")),
        "{reasons:?}"
    );
    late.refuse_lists(false);
    assert_eq!(node.executor.condition().await, Condition::Ready);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_remove_what_is_left_on_it_is_not_ready() {
    let state = tempfile::tempdir().unwrap();
    let mut immovable = Vec::new();
    for number in 0..33 {
        let folder = state.path().join(format!("workspaces/jw-test-{number}"));
        std::fs::create_dir_all(&folder).unwrap();
        immovable.push(Immovable::at(folder.join("immovable")));
    }
    let node = node_at(state, 0).await;
    let reasons = node.executor.condition().await;
    assert!(
        matches!(&reasons, Condition::Unready { reasons } if reasons[0].starts_with("33 containers")),
        "{reasons:?}"
    );
    drop(immovable);
    nothing_is_left(&node).await;
    assert_eq!(node.executor.condition().await, Condition::Ready);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_made_after_its_making_was_given_up_goes_too() {
    let state = tempfile::tempdir().unwrap();
    let mut late = Late::before_the_engine(state.path());
    let socket = late.socket.clone();
    let node = node_with(state, 0, |config| config.socket = Some(socket)).await;
    let failure = node.executor.prepare(request(shell("true"))).await.err();
    assert!(matches!(failure, Some(StartFailure::Infra { .. })), "{failure:?}");
    // the engine has said that there is none
    late.asked_to_remove().await;
    let made = late.make().await;
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    nothing_is_left(&node).await;
    node.close().await;
}
