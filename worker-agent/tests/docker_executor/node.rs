//! An executor on the machine's engine with a state folder of its own, and jobs for it.

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
use worker_agent::executor::{End, Ended, EndedBy, ExecEvent, Executor, PrepareRequest, Running, Status};

/// Longest that one step may take on a machine where everything runs at once.
pub const STEP_MAX: Duration = Duration::from_secs(60);

/// Between two looks at something that is waited for.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

pub struct Node {
    pub executor: Arc<DockerExecutor>,
    pub state: TempDir,
    pub tasks: Tasks,
}

pub fn image() -> String {
    std::env::var("JOBWORKER_TEST_IMAGE").unwrap_or_else(|_| "jobworker/busybox:1".to_owned())
}

pub fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

pub async fn node(spares: usize) -> Node {
    let state = tempfile::tempdir().unwrap();
    node_at(state, spares).await
}

pub async fn node_at(state: TempDir, spares: usize) -> Node {
    node_with(state, spares, |_| {}).await
}

/// With something of its settings changed.
pub async fn node_with(state: TempDir, spares: usize, change: impl FnOnce(&mut DockerConfig)) -> Node {
    let tasks = Tasks::new();
    let mut config = DockerConfig::new(WorkerId::new("test").unwrap(), state.path().to_path_buf());
    config.spares = SpareLimits {
        each: spares,
        total: spares,
    };
    change(&mut config);
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
    /// The agent's life is over; its state folder stays, and whatever runs.
    pub async fn ends(self) -> TempDir {
        self.tasks.stop();
        assert!(self.tasks.join(STEP_MAX).await);
        self.state
    }

    /// Ends everything of this node; says what stayed.
    pub async fn close(self) {
        for owned in self.executor.owned().await.unwrap() {
            self.executor.remove(&owned.container).await.unwrap();
        }
        self.tasks.stop();
        assert!(self.tasks.join(STEP_MAX).await);
        assert_eq!(self.executor.owned().await.unwrap(), []);
    }
}

pub fn shell(line: &str) -> JobSpec {
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

pub fn assignment(spec: JobSpec) -> Arc<Assignment> {
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

pub fn request(spec: JobSpec) -> PrepareRequest {
    PrepareRequest {
        assignment: assignment(spec),
        inputs: Vec::new(),
    }
}

pub fn workspaces(node: &Node) -> Vec<String> {
    std::fs::read_dir(node.state.path().join("workspaces"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub async fn nothing_is_left(node: &Node) {
    let deadline = clock().mono().after(STEP_MAX);
    loop {
        let left = (node.executor.owned().await.unwrap(), workspaces(node));
        if left.0.is_empty() && left.1.is_empty() {
            break;
        }
        assert!(clock().mono() < deadline, "left: {left:?}");
        // tidy: poll
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&*node.state.path().to_string_lossy()),
        "{mounts}"
    );
}

pub async fn begin(node: &Node, spec: JobSpec) -> Box<dyn Running> {
    let prepared = node.executor.prepare(request(spec)).await.unwrap();
    prepared
        .run(clock().mono().after(Duration::from_secs(120)))
        .await
        .unwrap()
}

pub async fn to_the_end(running: &mut Box<dyn Running>) -> (String, Ended) {
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

pub async fn run(node: &Node, spec: JobSpec) -> (String, Ended) {
    let mut running = begin(node, spec).await;
    let end = to_the_end(&mut running).await;
    running.finish().await;
    end
}

pub fn status(ended: &Ended) -> Option<(Status, EndedBy, bool)> {
    if let End::Process { status, by, oom } = &ended.end {
        Some((*status, *by, *oom))
    } else {
        None
    }
}
