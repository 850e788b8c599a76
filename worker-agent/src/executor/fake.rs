//! An executor whose containers do what a test tells them: for tests of the agent and of whoever talks to it.
//!
//! Containers live in the [`FakeExecutor`] and not in what the agent holds, so an agent that is dropped and started
//! anew adopts them, with everything replayed that was not acknowledged, as with the real init.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use common::attempt::{RefusedArtifact, Usage};
use common::ids::AttemptId;
use common::log::Stream;
use common::time::{Mono, Timestamp};
use common::worker::Condition;
use tokio::sync::watch;

use super::{
    AdoptFailure, AdoptRequest, Chunk, Collected, CollectedFile, ContainerRef, Description, End, Ended,
    EndedBy, ExecEvent, Executor, ExecutorError, OwnedContainer, PrepareRequest, Prepared, PreparedFacts,
    Running, StartFailure, Status, StopWhy,
};

/// What is said of a run that is refused.
pub const RUN_REFUSED: &str = "told to begin none";

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct FakeExecutor {
    world: Arc<World>,
}

#[derive(Debug, Default)]
struct World {
    state: Mutex<State>,
    /// Counts changes, so that waiting for one cannot miss it.
    changes: Changes,
}

#[derive(Debug)]
struct Changes(watch::Sender<u64>);

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<ContainerRef, FakeContainer>,
    made: u64,
    refusal: Option<StartFailure>,
    held_back: bool,
    look_panics: bool,
    run_lost: bool,
    run_refused: bool,
    removals_refused: u32,
    files: Vec<(String, PathBuf)>,
}

/// What a container was told, and what it has to tell.
#[derive(Debug, Clone)]
pub struct FakeContainer {
    pub attempt: Option<AttemptId>,
    pub created_at: Timestamp,
    pub of_this_life: bool,
    /// How often `run` was sent: never more than once.
    pub runs: u32,
    pub deadlines: Vec<Mono>,
    pub stops: Vec<StopWhy>,
    pub acked: u64,
    pub finished: bool,
    pub removed: bool,
    /// Ends the run as soon as it is asked to stop.
    obeys: bool,
    started: bool,
    events: Vec<ExecEvent>,
    seq: u64,
    stream_seq: [u64; 2],
}

impl FakeContainer {
    fn new(attempt: Option<AttemptId>, created_at: Timestamp) -> Self {
        Self {
            attempt,
            created_at,
            of_this_life: true,
            runs: 0,
            deadlines: Vec::new(),
            stops: Vec::new(),
            acked: 0,
            finished: false,
            removed: false,
            obeys: true,
            started: false,
            events: Vec::new(),
            seq: 0,
            stream_seq: [0; 2],
        }
    }

    fn end(&mut self, end: End) {
        self.seq += 1;
        self.events.push(ExecEvent::Ended(Ended {
            seq: Some(self.seq),
            end,
            usage: Usage::default(),
            run_ms: Some(1),
        }));
    }

    fn has_ended(&self) -> bool {
        matches!(self.events.last(), Some(ExecEvent::Ended(_)))
    }
}

impl FakeExecutor {
    /// Every `prepare` from now on fails so, or no more.
    pub fn refuse(&self, failure: Option<StartFailure>) {
        self.change(|state| state.refusal = failure);
    }

    /// The next look at the node's condition panics.
    pub fn panic_at_the_next_look(&self) {
        self.change(|state| state.look_panics = true);
    }

    /// No container is begun from now on, or each one again; the node says so.
    pub fn refuse_run(&self, refused: bool) {
        self.change(|state| state.run_refused = refused);
    }

    /// As many of the next removals fail.
    pub fn refuse_removals(&self, count: u32) {
        self.change(|state| state.removals_refused = count);
    }

    /// As if the agent had died before it finished the run.
    pub fn unfinish(&self, attempt: AttemptId) {
        self.change_container(attempt, |container| {
            (container.finished, container.of_this_life) = (false, false);
        });
    }

    /// `prepare` waits from now on, or goes on.
    pub fn hold_back(&self, held_back: bool) {
        self.change(|state| state.held_back = held_back);
    }

    /// `run` reaches no container from now on, as if the agent died before it said so.
    pub fn lose_run(&self) {
        self.change(|state| state.run_lost = true);
    }

    /// What each collected workspace has: its path below `/workspace`, and where it lies.
    pub fn leave_file(&self, path: &str, local: PathBuf) {
        self.change(|state| state.files.push((path.to_owned(), local)));
    }

    /// The job prints.
    pub fn print(&self, attempt: AttemptId, stream: Stream, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.change_container(attempt, |container| {
            container.seq += 1;
            let stream_seq = container.stream_seq[stream.index()];
            container.stream_seq[stream.index()] += 1;
            container.events.push(ExecEvent::Chunk(Chunk {
                seq: container.seq,
                stream,
                stream_seq,
                bytes,
            }));
        });
    }

    pub fn exit(&self, attempt: AttemptId, code: i32) {
        self.end(
            attempt,
            End::Process {
                status: Status::Code(code),
                by: EndedBy::Itself,
                oom: false,
            },
        );
    }

    pub fn end(&self, attempt: AttemptId, end: End) {
        self.change_container(attempt, |container| container.end(end));
    }

    /// The container is gone without a trace.
    pub fn vanish(&self, attempt: AttemptId) {
        self.change_container(attempt, |container| container.removed = true);
    }

    /// A container of this life that no journal knows.
    pub fn leave_orphan(&self, name: &str, created_at: Timestamp) {
        self.leave(name, FakeContainer::new(None, created_at));
    }

    /// One as new as can be, made before the agent started.
    pub fn leave_of_an_earlier_life(&self, name: &str) {
        let container = FakeContainer::new(None, Timestamp::from_millis(i64::MAX));
        self.leave(
            name,
            FakeContainer {
                of_this_life: false,
                ..container
            },
        );
    }

    fn leave(&self, name: &str, container: FakeContainer) {
        self.change(|state| state.containers.insert(ContainerRef(name.to_owned()), container));
    }

    /// The container of an attempt, as it stands.
    pub fn of(&self, attempt: AttemptId) -> Option<FakeContainer> {
        self.state()
            .containers
            .values()
            .find(|found| found.attempt == Some(attempt))
            .cloned()
    }

    pub fn named(&self, name: &str) -> Option<FakeContainer> {
        self.state()
            .containers
            .get(&ContainerRef(name.to_owned()))
            .cloned()
    }

    /// How many containers were ever made.
    pub fn made(&self) -> u64 {
        self.state().made
    }

    /// Waits until `holds` of what the executor has; the caller sets the deadline.
    pub async fn wait_until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changes = self.world.changes.0.subscribe();
        while !holds(self) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state());
        self.world.changes.0.send_modify(|count| *count += 1);
        answer
    }

    fn change_container(&self, attempt: AttemptId, change: impl FnOnce(&mut FakeContainer)) {
        self.change(|state| {
            if let Some(container) = state
                .containers
                .values_mut()
                .find(|found| found.attempt == Some(attempt))
            {
                change(container);
            }
        });
    }

    fn change_named(&self, name: &ContainerRef, change: impl FnOnce(&mut FakeContainer)) {
        self.change(|state| {
            if let Some(container) = state.containers.get_mut(name) {
                change(container);
            }
        });
    }
}

#[async_trait]
impl Executor for FakeExecutor {
    async fn describe(&self) -> Description {
        Description::default()
    }

    async fn condition(&self) -> Condition {
        let panics = self.change(|state| std::mem::take(&mut state.look_panics));
        assert!(!panics, "told to");
        let state = self.state();
        let refused = state.run_refused.then(|| RUN_REFUSED.to_owned());
        let refusal = match &state.refusal {
            Some(StartFailure::Infra { message }) => Some(message.clone()),
            Some(_) | None => None,
        };
        Condition::Ready.and(refusal).and(refused)
    }

    async fn prepare(&self, request: PrepareRequest) -> Result<Box<dyn Prepared>, StartFailure> {
        self.wait_until(|this| !this.state().held_back).await;
        self.change(|state| {
            if let Some(failure) = &state.refusal {
                return Err(failure.clone());
            }
            state.made += 1;
            let name = ContainerRef(format!("fake-{}", state.made));
            let attempt = Some(request.assignment.attempt);
            // As new as can be: the search for orphans must not take one that is being journaled.
            let created_at = Timestamp::from_millis(i64::MAX);
            let container = FakeContainer::new(attempt, created_at);
            state.containers.insert(name.clone(), container);
            Ok(name)
        })
        .map(|name| {
            Box::new(FakePrepared {
                executor: self.clone(),
                name,
            }) as Box<dyn Prepared>
        })
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<Box<dyn Running>, AdoptFailure> {
        let gone = self
            .state()
            .containers
            .get(&request.container)
            .is_none_or(|found| found.removed || found.finished);
        if gone {
            return Err(AdoptFailure::Gone {
                attempt: request.assignment.attempt,
            });
        }
        Ok(Box::new(FakeRunning {
            executor: self.clone(),
            name: request.container,
            told: 0,
            told_started: false,
            after: request.spooled_seq,
        }))
    }

    async fn owned(&self) -> Result<Vec<OwnedContainer>, ExecutorError> {
        let state = self.state();
        let there = state
            .containers
            .iter()
            .filter(|(_, found)| !found.removed && !found.finished);
        Ok(there
            .map(|(name, found)| OwnedContainer {
                container: name.clone(),
                created_at: found.created_at,
                of_this_life: found.of_this_life,
            })
            .collect())
    }

    async fn remove(&self, container: &ContainerRef) -> Result<(), ExecutorError> {
        let refused = self.change(|state| {
            let before = state.removals_refused;
            state.removals_refused = before.saturating_sub(1);
            before > 0
        });
        if refused {
            return Err(ExecutorError::new("told to"));
        }
        self.change_named(container, |found| found.removed = true);
        Ok(())
    }
}

struct FakePrepared {
    executor: FakeExecutor,
    name: ContainerRef,
}

#[async_trait]
impl Prepared for FakePrepared {
    fn container(&self) -> &ContainerRef {
        &self.name
    }

    fn facts(&self) -> PreparedFacts {
        PreparedFacts::default()
    }

    async fn run(self: Box<Self>, deadline: Mono) -> Result<Box<dyn Running>, StartFailure> {
        if self.executor.state().run_refused {
            self.executor
                .change_named(&self.name, |container| container.removed = true);
            return Err(StartFailure::Infra {
                message: RUN_REFUSED.to_owned(),
            });
        }
        if !self.executor.state().run_lost {
            self.executor.change_named(&self.name, |container| {
                container.runs += 1;
                container.started = true;
                container.deadlines.push(deadline);
            });
        }
        Ok(Box::new(FakeRunning {
            executor: self.executor,
            name: self.name,
            told: 0,
            told_started: false,
            after: 0,
        }))
    }

    async fn destroy(self: Box<Self>) {
        self.executor
            .change_named(&self.name, |container| container.removed = true);
    }
}

struct FakeRunning {
    executor: FakeExecutor,
    name: ContainerRef,
    /// How many of the container's events were looked at.
    told: usize,
    told_started: bool,
    /// Chunks up to here are in the agent's spool.
    after: u64,
}

impl FakeRunning {
    fn look(&mut self) -> Option<ExecEvent> {
        let state = self.executor.state();
        let container = state.containers.get(&self.name)?;
        if container.started && !self.told_started {
            self.told_started = true;
            return Some(ExecEvent::Started);
        }
        while let Some(event) = container.events.get(self.told) {
            self.told += 1;
            match event {
                ExecEvent::Chunk(chunk) if chunk.seq <= self.after => {}
                other => return Some(other.clone()),
            }
        }
        None
    }
}

#[async_trait]
impl Running for FakeRunning {
    fn container(&self) -> &ContainerRef {
        &self.name
    }

    async fn next(&mut self) -> ExecEvent {
        let mut changes = self.executor.world.changes.0.subscribe();
        loop {
            if let Some(event) = self.look() {
                return event;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn ack(&mut self, seq: u64) {
        self.executor
            .change_named(&self.name, |container| container.acked = container.acked.max(seq));
    }

    async fn set_deadline(&mut self, deadline: Mono) {
        self.executor
            .change_named(&self.name, |container| container.deadlines.push(deadline));
    }

    async fn stop(&mut self, why: StopWhy) {
        self.executor.change_named(&self.name, |container| {
            container.stops.push(why);
            if container.obeys && !container.has_ended() {
                container.end(End::Process {
                    status: Status::Signal(15),
                    by: EndedBy::Stop(why),
                    oom: false,
                });
            }
        });
    }

    async fn collect(&mut self, globs: &[String]) -> Result<Collected, ExecutorError> {
        let files = if globs.is_empty() {
            Vec::new()
        } else {
            self.executor.state().files.clone()
        };
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for (path, local) in files {
            match std::fs::metadata(&local) {
                Ok(about) => found.push(CollectedFile {
                    path,
                    local,
                    bytes: about.len(),
                }),
                Err(error) => refused.push(RefusedArtifact {
                    path,
                    reason: error.to_string(),
                }),
            }
        }
        Ok(Collected {
            files: found,
            refused,
        })
    }

    async fn finish(self: Box<Self>) {
        self.executor
            .change_named(&self.name, |container| container.finished = true);
    }
}
