//! An executor without containers: each run prints what it is told to and ends well, at once or after a while.
//!
//! For benchmarks, which measure everything around the container, and for trying an installation out on a machine
//! without an engine. It never runs a command.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::attempt::Usage;
use common::log::Stream;
use common::time::Mono;
use common::worker::Condition;
use tokio::sync::Notify;

use super::{
    AdoptFailure, AdoptRequest, Chunk, Collected, ContainerRef, Description, End, Ended, EndedBy, ExecEvent,
    Executor, ExecutorError, OwnedContainer, PrepareRequest, Prepared, PreparedFacts, Running, StartFailure,
    Status, StopWhy,
};

/// What each run does.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// From the start to the exit.
    pub runs_for: Duration,
    /// Written to stdout, each its own chunk.
    pub output: Vec<Bytes>,
    pub exit_code: i32,
}

#[derive(Debug, Default)]
pub struct SimulatedExecutor {
    script: Script,
    made: AtomicU64,
}

impl SimulatedExecutor {
    pub const fn new(script: Script) -> Self {
        Self {
            script,
            made: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl Executor for SimulatedExecutor {
    async fn describe(&self) -> Description {
        Description {
            os: std::env::consts::OS.into(),
            architecture: std::env::consts::ARCH.into(),
            notes: vec!["simulated".into()],
        }
    }

    async fn condition(&self) -> Condition {
        Condition::Ready
    }

    async fn prepare(&self, _request: PrepareRequest) -> Result<Box<dyn Prepared>, StartFailure> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(SimulatedPrepared {
            container: ContainerRef(format!("simulated-{number}")),
            script: self.script.clone(),
        }))
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<Box<dyn Running>, AdoptFailure> {
        // A simulated run dies with its agent.
        Err(AdoptFailure::Gone {
            attempt: request.assignment.attempt,
        })
    }

    async fn owned(&self) -> Result<Vec<OwnedContainer>, ExecutorError> {
        Ok(Vec::new())
    }

    async fn remove(&self, _container: &ContainerRef) -> Result<(), ExecutorError> {
        Ok(())
    }
}

struct SimulatedPrepared {
    container: ContainerRef,
    script: Script,
}

#[async_trait]
impl Prepared for SimulatedPrepared {
    fn container(&self) -> &ContainerRef {
        &self.container
    }

    fn facts(&self) -> PreparedFacts {
        PreparedFacts::default()
    }

    async fn run(self: Box<Self>, _deadline: Mono) -> Result<Box<dyn Running>, StartFailure> {
        Ok(Box::new(SimulatedRunning::new(self.container, self.script)))
    }

    async fn destroy(self: Box<Self>) {}
}

struct SimulatedRunning {
    container: ContainerRef,
    events: VecDeque<ExecEvent>,
    ends_at: tokio::time::Instant,
    script: Script,
    seq: u64,
    stopped: Mutex<Option<StopWhy>>,
    stop: Notify,
}

impl SimulatedRunning {
    fn new(container: ContainerRef, script: Script) -> Self {
        let mut events = VecDeque::from([ExecEvent::Started]);
        let mut seq = 0;
        for bytes in &script.output {
            events.push_back(ExecEvent::Chunk(Chunk {
                seq: seq + 1,
                stream: Stream::Stdout,
                stream_seq: seq,
                bytes: bytes.clone(),
            }));
            seq += 1;
        }
        Self {
            container,
            events,
            ends_at: tokio::time::Instant::now() + script.runs_for,
            script,
            seq,
            stopped: Mutex::new(None),
            stop: Notify::new(),
        }
    }

    fn stopped(&self) -> Option<StopWhy> {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Running for SimulatedRunning {
    fn container(&self) -> &ContainerRef {
        &self.container
    }

    async fn next(&mut self) -> ExecEvent {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        if self.stopped().is_none() && !self.script.runs_for.is_zero() {
            tokio::select! {
                () = tokio::time::sleep_until(self.ends_at) => {}
                () = self.stop.notified() => {}
            }
        }
        let (status, by) = match self.stopped() {
            Some(why) => (Status::Signal(15), EndedBy::Stop(why)),
            None => (Status::Code(self.script.exit_code), EndedBy::Itself),
        };
        ExecEvent::Ended(Ended {
            seq: Some(self.seq + 1),
            end: End::Process {
                status,
                by,
                oom: false,
            },
            usage: Usage::default(),
            run_ms: Some(u64::try_from(self.script.runs_for.as_millis()).unwrap_or(u64::MAX)),
        })
    }

    async fn ack(&mut self, _seq: u64) {}

    async fn set_deadline(&mut self, _deadline: Mono) {}

    async fn stop(&mut self, why: StopWhy) {
        self.stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
        self.stop.notify_one();
    }

    async fn collect(&mut self, _globs: &[String]) -> Result<Collected, ExecutorError> {
        Ok(Collected::default())
    }

    async fn finish(self: Box<Self>) {}
}
