//! A node's container engine: containers live here and not in the agent, which dies and finds them again.
//!
//! What a container does stands in its job's command ([`Script`]), so that a second attempt does it again. It ends
//! itself when its deadline passes, as `jobworker-init` does, whether an agent lives or not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use common::attempt::Usage;
use common::ids::{AttemptId, JobId};
use common::job::{Command, JobSpec};
use common::log::Stream;
use common::tasks::Tasks;
use common::time::{Clock, Mono, Timestamp};
use common::worker::Condition;
use tokio::sync::watch;
use worker_agent::executor::{
    AdoptFailure, AdoptRequest, Chunk, Collected, ContainerRef, Description, End, Ended, EndedBy, ExecEvent,
    Executor, ExecutorError, OwnedContainer, PrepareRequest, Prepared, PreparedFacts, Running, StartFailure,
    Status, StopWhy,
};

use super::checker::Checker;
use super::clock::HostClock;
use super::dice::Dice;
use super::plan::Faults;
use super::store::held;

/// What a job does, as its command says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    pub runs_for: Duration,
    pub chunks: u64,
    /// What it exits with, in its first attempts and then.
    pub code: i32,
    pub fails_first: u32,
    /// From being asked to stop to the end.
    pub dies_in: Duration,
}

impl Script {
    pub fn command(&self) -> Command {
        let numbers = [
            self.runs_for.as_millis() as u64,
            self.chunks,
            self.code.unsigned_abs().into(),
            self.fails_first.into(),
            self.dies_in.as_millis() as u64,
        ];
        Command::Argv(numbers.iter().map(u64::to_string).collect())
    }

    pub fn of(spec: &JobSpec) -> Self {
        let numbers: Vec<u64> = match &spec.command {
            Command::Argv(words) => words.iter().filter_map(|word| word.parse().ok()).collect(),
            Command::Shell(_) => Vec::new(),
        };
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0);
        Self {
            runs_for: Duration::from_millis(number(0)),
            chunks: number(1),
            code: i32::try_from(number(2)).unwrap_or(1),
            fails_first: u32::try_from(number(3)).unwrap_or(0),
            dies_in: Duration::from_millis(number(4)),
        }
    }
}

/// What a job prints: told by name and number, so that a reader knows it without having seen it.
pub fn output(attempt: AttemptId, stream: Stream, seq: u64) -> Bytes {
    format!(
        "{attempt} {} {seq} {}\n",
        stream.as_str(),
        ".".repeat((seq % 7) as usize * 9)
    )
    .into()
}

pub struct Engine {
    pub node: String,
    pub clock: Arc<HostClock>,
    pub dice: Arc<Dice>,
    pub faults: Faults,
    pub faulty: std::sync::atomic::AtomicBool,
    pub kill_grace: Duration,
    pub checker: Arc<Checker>,
    /// The containers' own: they outlive the agent.
    pub tasks: Tasks,
    containers: Mutex<BTreeMap<ContainerRef, Container>>,
    made: std::sync::atomic::AtomicU64,
    lives: std::sync::atomic::AtomicU64,
}

struct Container {
    attempt: AttemptId,
    job: JobId,
    number: u32,
    script: Script,
    created_at: Timestamp,
    life: Life,
    run: bool,
    events: Vec<ExecEvent>,
    seq: u64,
    stream_seq: [u64; 2],
    deadline: Mono,
    stop: Option<StopWhy>,
    ended: bool,
    removed: bool,
    changes: watch::Sender<u64>,
}

impl Container {
    fn print(&mut self, stream: Stream) {
        self.seq += 1;
        let stream_seq = self.stream_seq[stream.index()];
        self.stream_seq[stream.index()] += 1;
        self.events.push(ExecEvent::Chunk(Chunk {
            seq: self.seq,
            stream,
            stream_seq,
            bytes: output(self.attempt, stream, stream_seq),
        }));
    }

    fn end(&mut self, status: Status, by: EndedBy) {
        self.seq += 1;
        self.ended = true;
        self.events.push(ExecEvent::Ended(Ended {
            seq: Some(self.seq),
            end: End::Process {
                status,
                by,
                oom: false,
            },
            usage: Usage::default(),
            run_ms: Some(1),
        }));
    }
}

impl Engine {
    pub fn new(
        node: String,
        clock: Arc<HostClock>,
        dice: Arc<Dice>,
        faults: Faults,
        kill_grace: Duration,
        checker: Arc<Checker>,
        tasks: Tasks,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            clock,
            dice,
            faults,
            faulty: true.into(),
            kill_grace,
            checker,
            tasks,
            containers: Mutex::default(),
            made: 0.into(),
            lives: 0.into(),
        })
    }

    /// Every container is gone, as when the machine loses its power.
    pub fn lose_all(&self) {
        let names: Vec<ContainerRef> = held(&self.containers).keys().cloned().collect();
        for name in names {
            self.take_away(&name);
        }
    }

    /// One that runs is gone without a trace.
    pub fn lose_one(&self) {
        let running: Vec<ContainerRef> = held(&self.containers)
            .iter()
            .filter(|(_, found)| found.run && !found.ended && !found.removed)
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(name) = self.dice.pick(&running) {
            self.take_away(name);
        }
    }

    /// Containers that are still there.
    pub fn left(&self) -> Vec<String> {
        held(&self.containers)
            .iter()
            .filter(|(_, found)| !found.removed)
            .map(|(name, found)| format!("{} of {} on {}", name.0, found.attempt, self.node))
            .collect()
    }

    fn is_faulty(&self) -> bool {
        self.faulty.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn take_away(&self, name: &ContainerRef) {
        self.change(name, |container| {
            container.removed = true;
            (container.run && !container.ended).then_some((container.job, container.attempt))
        })
        .flatten()
        .into_iter()
        .for_each(|(job, attempt)| self.checker.run_ended(job, attempt, "removed"));
    }

    fn change<T>(&self, name: &ContainerRef, change: impl FnOnce(&mut Container) -> T) -> Option<T> {
        let mut containers = held(&self.containers);
        let container = containers.get_mut(name)?;
        let answer = change(container);
        container.changes.send_modify(|count| *count += 1);
        Some(answer)
    }

    fn look<T>(&self, name: &ContainerRef, look: impl FnOnce(&Container) -> T) -> Option<T> {
        held(&self.containers).get(name).map(look)
    }

    fn is_there(&self, name: &ContainerRef) -> bool {
        self.look(name, |found| !found.removed).unwrap_or(false)
    }

    /// The main process, from its start to its end.
    async fn live(self: Arc<Self>, name: ContainerRef) {
        let Some((number, script, mut changes)) = self.look(&name, |found| {
            (found.number, found.script, found.changes.subscribe())
        }) else {
            return;
        };
        let begun = self.clock.mono();
        let pause = script.runs_for / u32::try_from(script.chunks + 1).unwrap_or(1);
        let (mut printed, mut dies_at) = (0, None);
        loop {
            let Some((deadline, stop, removed)) =
                self.look(&name, |found| (found.deadline, found.stop, found.removed))
            else {
                return;
            };
            if removed {
                return;
            }
            let now = self.clock.mono();
            if dies_at.is_none() {
                if let Some(why) = stop {
                    dies_at = Some((now.after(script.dies_in), EndedBy::Stop(why)));
                } else if now >= deadline {
                    // Its own grace, within what the page on leases allows.
                    let dies_in = script.dies_in.min(self.kill_grace * 4 / 5);
                    dies_at = Some((now.after(dies_in), EndedBy::Deadline));
                }
            }
            if let Some((at, by)) = dies_at
                && now >= at
            {
                self.finish_run(&name, Status::Signal(15), by);
                return;
            }
            let next_step = begun.after(pause * u32::try_from(printed + 1).unwrap_or(1));
            if now >= next_step {
                if printed == script.chunks {
                    let code = if number <= script.fails_first {
                        1
                    } else {
                        script.code
                    };
                    self.finish_run(&name, Status::Code(code), EndedBy::Itself);
                    return;
                }
                let stream = if printed % 3 == 2 {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                self.change(&name, |found| found.print(stream));
                printed += 1;
                continue;
            }
            let wake = [
                Some(next_step),
                dies_at.map(|(at, _)| at),
                (dies_at.is_none()).then_some(deadline),
            ];
            let wake = wake.into_iter().flatten().min().unwrap_or(next_step);
            changes.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep(wake.since(now).max(Duration::from_millis(1))) => {}
                _ = changes.changed() => {}
            }
            if !self.is_there(&name) {
                return;
            }
        }
    }

    fn finish_run(&self, name: &ContainerRef, status: Status, by: EndedBy) {
        let ended = self.change(name, |found| {
            found.end(status, by);
            (found.job, found.attempt, found.stream_seq)
        });
        if let Some((job, attempt, printed)) = ended {
            self.checker.printed(attempt, printed);
            self.checker
                .run_ended(job, attempt, &format!("{status:?} by {by:?}"));
        }
    }
}

/// The way of one life of the agent to its engine.
pub struct Driver(Arc<Engine>, Life);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life(u64);

impl Driver {
    pub fn of_a_new_life(engine: &Arc<Engine>) -> Self {
        let before = engine.lives.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self(Arc::clone(engine), Life(before))
    }
}

#[async_trait]
impl Executor for Driver {
    async fn describe(&self) -> Description {
        Description::default()
    }

    async fn condition(&self) -> Condition {
        Condition::Ready
    }

    async fn prepare(&self, request: PrepareRequest) -> Result<Box<dyn Prepared>, StartFailure> {
        let engine = &self.0;
        tokio::time::sleep(engine.dice.millis(5, 60)).await;
        if engine.is_faulty() && engine.dice.chance(engine.faults.prepare_fails) {
            engine.checker.history.count("prepare failed");
            return Err(StartFailure::Infra {
                message: "the engine has a bad day".into(),
            });
        }
        let number = engine.made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let name = ContainerRef(format!("{}-{number}", engine.node));
        let assignment = &request.assignment;
        let container = Container {
            attempt: assignment.attempt,
            job: assignment.job,
            number: assignment.number,
            script: Script::of(&assignment.spec),
            created_at: engine.clock.now(),
            life: self.1,
            run: false,
            events: Vec::new(),
            seq: 0,
            stream_seq: [0; 2],
            deadline: Mono::default(),
            stop: None,
            ended: false,
            removed: false,
            changes: watch::Sender::new(0),
        };
        held(&engine.containers).insert(name.clone(), container);
        tokio::time::sleep(engine.dice.millis(5, 60)).await;
        Ok(Box::new(Made {
            engine: Arc::clone(engine),
            name,
        }))
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<Box<dyn Running>, AdoptFailure> {
        let engine = &self.0;
        tokio::time::sleep(engine.dice.millis(1, 20)).await;
        if engine.is_faulty() && engine.dice.chance(engine.faults.adopt_fails) {
            return Err(AdoptFailure::Unavailable {
                message: "the engine does not answer".into(),
            });
        }
        if !engine.is_there(&request.container) {
            return Err(AdoptFailure::Gone {
                attempt: request.assignment.attempt,
            });
        }
        Ok(Box::new(Attached::new(
            engine,
            request.container,
            request.spooled_seq,
        )))
    }

    async fn owned(&self) -> Result<Vec<OwnedContainer>, ExecutorError> {
        let containers = held(&self.0.containers);
        let there = containers.iter().filter(|(_, found)| !found.removed);
        Ok(there
            .map(|(name, found)| OwnedContainer {
                container: name.clone(),
                created_at: found.created_at,
                of_this_life: found.life == self.1,
            })
            .collect())
    }

    async fn remove(&self, container: &ContainerRef) -> Result<(), ExecutorError> {
        tokio::time::sleep(self.0.dice.millis(1, 30)).await;
        self.0.take_away(container);
        Ok(())
    }
}

struct Made {
    engine: Arc<Engine>,
    name: ContainerRef,
}

#[async_trait]
impl Prepared for Made {
    fn container(&self) -> &ContainerRef {
        &self.name
    }

    fn facts(&self) -> PreparedFacts {
        PreparedFacts::default()
    }

    async fn run(self: Box<Self>, deadline: Mono) -> Result<Box<dyn Running>, StartFailure> {
        let Self { engine, name } = *self;
        tokio::time::sleep(engine.dice.millis(0, 10)).await;
        let told = engine.change(&name, |found| {
            found.run = true;
            found.deadline = deadline;
            (found.job, found.attempt, found.number, found.removed)
        });
        if let Some((job, attempt, number, false)) = told {
            engine.checker.run_started(job, attempt, number, &engine.node);
            let life = Arc::clone(&engine).live(name.clone());
            engine.tasks.spawn("a container", life);
        }
        Ok(Box::new(Attached::new(&engine, name, 0)))
    }

    async fn destroy(self: Box<Self>) {
        tokio::time::sleep(self.engine.dice.millis(1, 30)).await;
        self.engine.take_away(&self.name);
    }
}

struct Attached {
    engine: Arc<Engine>,
    name: ContainerRef,
    told: usize,
    told_started: bool,
    after: u64,
}

impl Attached {
    fn new(engine: &Arc<Engine>, name: ContainerRef, after: u64) -> Self {
        Self {
            engine: Arc::clone(engine),
            name,
            told: 0,
            told_started: false,
            after,
        }
    }

    fn next_event(&mut self) -> Option<ExecEvent> {
        let containers = held(&self.engine.containers);
        let found = containers.get(&self.name)?;
        if !found.run {
            // Adopted from a life that died before it said `run`.
            return Some(silent("the agent ended before the job was begun", true));
        }
        if !self.told_started {
            self.told_started = true;
            return Some(ExecEvent::Started);
        }
        while let Some(event) = found.events.get(self.told) {
            self.told += 1;
            match event {
                ExecEvent::Chunk(chunk) if chunk.seq <= self.after => {}
                other => return Some(other.clone()),
            }
        }
        found.removed.then(|| silent("the container is gone", false))
    }
}

fn silent(message: &str, engine_restarted: bool) -> ExecEvent {
    ExecEvent::Ended(Ended {
        seq: None,
        end: End::Silent {
            engine_restarted,
            oom: false,
            message: message.to_owned(),
        },
        usage: Usage::default(),
        run_ms: None,
    })
}

#[async_trait]
impl Running for Attached {
    fn container(&self) -> &ContainerRef {
        &self.name
    }

    async fn next(&mut self) -> ExecEvent {
        let Some(mut changes) = self.engine.look(&self.name, |found| found.changes.subscribe()) else {
            return silent("the container is gone", false);
        };
        loop {
            changes.mark_unchanged();
            if let Some(event) = self.next_event() {
                return event;
            }
            if changes.changed().await.is_err() {
                return silent("the container is gone", false);
            }
        }
    }

    async fn ack(&mut self, _seq: u64) {}

    async fn set_deadline(&mut self, deadline: Mono) {
        self.engine.change(&self.name, |found| found.deadline = deadline);
    }

    async fn stop(&mut self, why: StopWhy) {
        self.engine.change(&self.name, |found| {
            found.stop.get_or_insert(why);
        });
    }

    async fn collect(&mut self, _globs: &[String]) -> Result<Collected, ExecutorError> {
        tokio::time::sleep(self.engine.dice.millis(0, 20)).await;
        Ok(Collected::default())
    }

    async fn finish(self: Box<Self>) {
        tokio::time::sleep(self.engine.dice.millis(1, 30)).await;
        self.engine.take_away(&self.name);
    }
}
