//! Real containers on the machine's engine: what a job sees of its cage, and what the agent is told of its end.

use std::sync::Arc;
use std::time::Duration;

use common::ids::{AttemptId, JobId, WorkerId};
use common::job::{Command, JobSpec};
use common::lifecycle::testing::spec;
use common::protocol::Assignment;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use tempfile::TempDir;
use worker_agent::executor::docker::{DockerConfig, DockerExecutor, SpareLimits};
use worker_agent::executor::{
    AdoptRequest, End, Ended, EndedBy, ExecEvent, Executor, PrepareRequest, Running, StartFailure, Status,
    StopWhy,
};

/// Longest that one step may take on a machine where everything runs at once.
const STEP_MAX: Duration = Duration::from_secs(60);

struct Node {
    executor: Arc<DockerExecutor>,
    state: TempDir,
    tasks: Tasks,
}

fn image() -> String {
    std::env::var("JOBWORKER_TEST_IMAGE").unwrap_or_else(|_| "jobworker/busybox:1".to_owned())
}

fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

async fn node(spares: usize) -> Node {
    let state = tempfile::tempdir().unwrap();
    node_at(state, spares).await
}

async fn node_at(state: TempDir, spares: usize) -> Node {
    let tasks = Tasks::new();
    let mut config = DockerConfig::new(WorkerId::new("test").unwrap(), state.path().to_path_buf());
    config.spares = SpareLimits {
        each: spares,
        total: spares,
    };
    let executor = DockerExecutor::start(config, clock(), tasks.clone())
        .await
        .unwrap();
    Node {
        executor,
        state,
        tasks,
    }
}

impl Node {
    /// Ends everything of this node; says what stayed.
    async fn close(self) {
        for owned in self.executor.owned().await.unwrap() {
            self.executor.remove(&owned.container).await.unwrap();
        }
        self.tasks.stop();
        assert!(self.tasks.join(STEP_MAX).await);
        assert_eq!(self.executor.owned().await.unwrap(), []);
    }
}

fn shell(line: &str) -> JobSpec {
    let mut spec = JobSpec {
        command: Command::Shell(line.to_owned()),
        image: image(),
        workdir: None,
        ..spec()
    };
    spec.resources.cpu_millis = 500;
    spec.resources.memory_mib = 64;
    spec.resources.disk_mib = 16;
    spec.limits.grace = Duration::from_millis(200);
    spec
}

fn assignment(spec: JobSpec) -> Arc<Assignment> {
    Arc::new(Assignment {
        job: JobId::random(),
        attempt: AttemptId::random(),
        number: 1,
        account: "acme".parse().unwrap(),
        spec,
        inputs: Vec::new(),
        log_bytes_max: 1 << 20,
    })
}

async fn begin(node: &Node, spec: JobSpec) -> Box<dyn Running> {
    let request = PrepareRequest {
        assignment: assignment(spec),
        slot: 3,
        inputs: Vec::new(),
    };
    let prepared = node.executor.prepare(request).await.unwrap();
    prepared
        .run(clock().mono().after(Duration::from_secs(120)))
        .await
        .unwrap()
}

async fn to_the_end(running: &mut Box<dyn Running>) -> (String, Ended) {
    let mut output = Vec::new();
    loop {
        match tokio::time::timeout(STEP_MAX, running.next())
            .await
            .expect("the job goes on")
        {
            ExecEvent::Started => {}
            ExecEvent::Chunk(chunk) => {
                output.extend_from_slice(&chunk.bytes);
                running.ack(chunk.seq).await;
            }
            ExecEvent::Ended(ended) => return (String::from_utf8_lossy(&output).into_owned(), ended),
        }
    }
}

async fn run(node: &Node, spec: JobSpec) -> (String, Ended) {
    let mut running = begin(node, spec).await;
    let end = to_the_end(&mut running).await;
    running.finish().await;
    end
}

fn status(ended: &Ended) -> Option<(Status, EndedBy, bool)> {
    if let End::Process { status, by, oom } = &ended.end {
        Some((*status, *by, *oom))
    } else {
        None
    }
}

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
        "uid=61003:61003",
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
        slot: 0,
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
        slot: 1,
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
    let Node {
        state,
        tasks,
        executor,
    } = node;
    tasks.stop();
    assert!(tasks.join(STEP_MAX).await);
    drop(executor);
    let node = node_at(state, 0).await;
    let mut running = node
        .executor
        .adopt(AdoptRequest {
            container,
            assignment,
            slot: 1,
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
async fn the_second_job_of_a_size_gets_a_spare_container() {
    let node = node(1).await;
    run(&node, shell("true")).await;
    let deadline = clock().mono().after(STEP_MAX);
    let fast = loop {
        let request = PrepareRequest {
            assignment: assignment(shell("echo hi")),
            slot: 0,
            inputs: Vec::new(),
        };
        let prepared = node.executor.prepare(request).await.unwrap();
        if prepared.facts().create_ms == Some(0) {
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
