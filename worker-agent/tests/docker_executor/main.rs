//! Real containers on the machine's engine: what a job sees of its cage, and what the agent is told of its end.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails as the test does"
)]

mod late;
mod leftovers;
mod node;
mod removals;

use std::sync::Arc;
use std::time::Duration;

use common::job::{Command, JobSpec};
use worker_agent::executor::{
    AdoptRequest, End, EndedBy, ExecEvent, Executor, PrepareRequest, StartFailure, Status, StopWhy,
};

use self::node::{STEP_MAX, assignment, begin, clock, node, node_at, run, shell, status, to_the_end};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_sees_a_cage_without_holes() {
    let node = node(0).await;
    let (output, ended) = run(
        &node,
        shell(
            "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; echo uid=$(id -u):$(id -g); \
             touch /x 2>&1; cp /bin/busybox /tmp/t && /tmp/t true 2>&1; echo net=$(ls /sys/class/net); \
             echo fds=$(ulimit -n); ls /var/run/docker.sock 2>&1; \
             echo mem=$(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null); \
             echo pids=$(cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null); \
             dd if=/dev/zero of=/workspace/big bs=1M count=64 2>&1; cat /proc/1/environ 2>&1; env; pwd; exit 7",
        ),
    )
    .await;
    node.close().await;
    assert_eq!(
        status(&ended),
        Some((Status::Code(7), EndedBy::Itself, false)),
        "{output}"
    );
    for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            output.contains(&format!("{line}:\t0000000000000000")),
            "{line}: {output}"
        );
    }
    for fact in [
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "uid=66000:66000",
        "/x: Read-only file system",
        "/tmp/t: Permission denied",
        "net=lo\n",
        "fds=1024",
        "docker.sock: No such file",
        "mem=68157440",
        "pids=256",
        "No space left on device",
        "'/proc/1/environ': Permission denied",
        "PWD=/workspace",
    ] {
        assert!(output.contains(fact), "{fact}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_told_as_such() {
    let node = node(0).await;
    let (_, ended) = run(&node, shell("head -c 300m /dev/zero | tail")).await;
    let (_, own) = run(&node, shell("kill -9 $$")).await;
    node.close().await;
    assert!(
        matches!(status(&ended), Some((_, EndedBy::Itself, true))),
        "{ended:?}"
    );
    assert_eq!(
        status(&own),
        Some((Status::Signal(9), EndedBy::Itself, false)),
        "{own:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ignores_the_stop_signal_is_killed_after_its_grace() {
    let node = node(0).await;
    let mut running = begin(&node, shell("trap '' TERM; echo here; sleep 9999 & sleep 9999")).await;
    while !matches!(
        tokio::time::timeout(STEP_MAX, running.next()).await.unwrap(),
        ExecEvent::Chunk(_)
    ) {}
    running.stop(StopWhy::Cancelled).await;
    let (_, ended) = to_the_end(&mut running).await;
    running.finish().await;
    node.close().await;
    assert_eq!(
        status(&ended),
        Some((Status::Signal(9), EndedBy::Stop(StopWhy::Cancelled), false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let node = node(0).await;
    let missing = JobSpec {
        command: Command::Argv(vec!["/no/such".into()]),
        ..shell("")
    };
    let (_, ended) = run(&node, missing).await;
    let nowhere = JobSpec {
        image: "127.0.0.1:1/none:1".into(),
        ..shell("true")
    };
    let request = PrepareRequest {
        assignment: assignment(nowhere),
        inputs: Vec::new(),
    };
    let unavailable = node.executor.prepare(request).await.err();
    node.close().await;
    assert!(matches!(ended.end, End::NotStarted { .. }), "{ended:?}");
    assert!(
        matches!(unavailable, Some(StartFailure::ImageUnavailable { .. })),
        "{unavailable:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_run_is_adopted_and_nothing_of_it_is_lost() {
    let node = node(0).await;
    let spec = shell(
        "echo one; while [ ! -e /workspace/go ]; do sleep 0.05; done; echo two; echo kept > out.txt; exit 3",
    );
    let assignment = assignment(spec);
    let request = PrepareRequest {
        assignment: Arc::clone(&assignment),
        inputs: Vec::new(),
    };
    let prepared = node.executor.prepare(request).await.unwrap();
    let container = prepared.container().clone();
    let mut running = prepared
        .run(clock().mono().after(Duration::from_secs(120)))
        .await
        .unwrap();
    let seq = loop {
        if let ExecEvent::Chunk(chunk) = tokio::time::timeout(STEP_MAX, running.next()).await.unwrap() {
            break chunk.seq;
        }
    };
    drop(running);
    let workspaces = node.state.path().join("workspaces");
    let place = std::fs::read_dir(&workspaces)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(place.join("mnt/go"), "").unwrap();
    // a second life, with the same state folder
    let state = node.ends().await;
    let node = node_at(state, 0).await;
    let mut running = node
        .executor
        .adopt(AdoptRequest {
            container,
            assignment,
            spooled_seq: seq,
        })
        .await
        .unwrap();
    let (output, ended) = to_the_end(&mut running).await;
    let collected = running.collect(&["*.txt".to_owned()]).await.unwrap();
    let kept = std::fs::read_to_string(&collected.files[0].local);
    running.finish().await;
    node.close().await;
    assert_eq!(output, "two\n");
    assert_eq!(status(&ended), Some((Status::Code(3), EndedBy::Itself, false)));
    assert_eq!(kept.unwrap(), "kept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_never_told_to_run_ends_when_it_is_adopted() {
    let node = node(0).await;
    let assignment = assignment(shell("echo never"));
    let request = PrepareRequest {
        assignment: Arc::clone(&assignment),
        inputs: Vec::new(),
    };
    let prepared = node.executor.prepare(request).await.unwrap();
    let container = prepared.container().clone();
    drop(prepared);
    let state = node.ends().await;
    let node = node_at(state, 0).await;
    let mut running = node
        .executor
        .adopt(AdoptRequest {
            container,
            assignment,
            spooled_seq: 0,
        })
        .await
        .unwrap();
    let (output, ended) = to_the_end(&mut running).await;
    running.finish().await;
    node.close().await;
    assert_eq!(output, "");
    assert!(
        matches!(
            ended.end,
            End::Silent {
                engine_restarted: true,
                ..
            }
        ),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_job_of_a_size_gets_a_spare_container() {
    let node = node(1).await;
    run(&node, shell("true")).await;
    let deadline = clock().mono().after(STEP_MAX);
    let fast = loop {
        let request = PrepareRequest {
            assignment: assignment(shell("echo hi")),
            inputs: Vec::new(),
        };
        let before = clock().now();
        let prepared = node.executor.prepare(request).await.unwrap();
        if prepared.facts().create_ms == Some(0) {
            // to the search for orphans it is as new as its giving, however long it waited
            let owned = node.executor.owned().await.unwrap();
            let seen = owned
                .iter()
                .find(|owned| owned.container == *prepared.container());
            assert!(seen.unwrap().created_at >= before, "{owned:?}");
            break prepared;
        }
        prepared.destroy().await;
        assert!(clock().mono() < deadline, "no spare was ever given");
    };
    let mut running = fast
        .run(clock().mono().after(Duration::from_secs(60)))
        .await
        .unwrap();
    let (output, _) = to_the_end(&mut running).await;
    running.finish().await;
    node.close().await;
    assert_eq!(output, "hi\n");
}
