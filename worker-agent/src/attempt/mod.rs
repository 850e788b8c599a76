//! One attempt, one task: get ready, run, spool and send its output, collect, report, wait for the acknowledgement.
//!
//! Invariants: the container stands in the journal, synced, before its job can start; the deadline given to it only
//! ever comes from the session's acknowledged heartbeats; output is acknowledged to init once it is spooled; the report
//! is journaled before the container may go and is sent again until it is acknowledged. A task that is dropped or
//! told to leave touches nothing: the next life of the agent goes on from the journal and the spool.

mod mailbox;
mod outcome;
mod slots;
mod steps;

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::attempt::{AttemptReport, Outcome, Timings};
use common::ids::AttemptId;
use common::log::LogChunk;
use common::protocol::{FromWorker, binary};
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::mailbox::{Mail, Mailbox};
pub use self::slots::Slots;

use self::outcome::Asked;
use self::slots::Slot;
use self::steps::{Adopted, Gathered, Ready, millis};
use crate::config::AgentLimits;
use crate::executor::{AdoptFailure, Chunk, End, Ended, ExecEvent, Executor, Prepared, Running, StopWhy};
use crate::journal::{Durability, Entry, Held, Journal};
use crate::link::Outbox;
use crate::log_pump::Pump;
use crate::spool::Spool;
use crate::transfer::FileServer;

/// Chunks that are written to the spool in one go, where they are there already.
const BATCH_CHUNKS: usize = 32;

/// What attempts share.
pub struct Context {
    pub executor: Arc<dyn Executor>,
    pub journal: Journal,
    pub files: Arc<dyn FileServer>,
    pub clock: SharedClock,
    pub tasks: Tasks,
    pub slots: Slots,
    pub limits: AgentLimits,
    /// A folder for each attempt: spool and inputs.
    pub folder: PathBuf,
}

impl Context {
    pub fn folder_of(&self, attempt: AttemptId) -> PathBuf {
        self.folder.join(attempt.to_string())
    }
}

/// The session's side of an attempt.
#[derive(Debug)]
pub struct Handle {
    pub mailbox: Arc<Mailbox>,
    task: tokio::task::JoinHandle<()>,
}

impl Handle {
    /// True also where the task died of a fault of its own.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// The attempt is closed in the journal: nothing of it is held any more.
#[derive(Debug)]
pub struct Over(pub AttemptId);

/// Begins an attempt, or goes on with one from the journal.
pub fn spawn(context: &Arc<Context>, held: Held, over: mpsc::Sender<Over>) -> Handle {
    let mailbox = Arc::new(Mailbox::default());
    let (context_in, mailbox_in) = (Arc::clone(context), Arc::clone(&mailbox));
    let task = context.tasks.spawn("attempt", async move {
        let attempt = held.assignment.attempt;
        match Attempt::open(context_in, held, mailbox_in).await {
            Ok(mut this) => {
                if this.work().await == Way::Closed {
                    // The session may be gone already.
                    let _ = over.send(Over(attempt)).await;
                }
            }
            Err(error) => tracing::error!(%attempt, %error, "the attempt's spool cannot be opened"),
        }
    });
    Handle { mailbox, task }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    On,
    /// Acknowledged and put away.
    Closed,
    /// Everything is left as it is.
    Left,
}

enum Phase {
    Preparing(oneshot::Receiver<Result<Ready, Outcome>>),
    /// Ready, but no heartbeat of this life of the agent was acknowledged yet.
    Waiting(Box<dyn Prepared>),
    Adopting(oneshot::Receiver<Result<Adopted, AdoptFailure>>),
    Running(Box<dyn Running>),
    Gathering(oneshot::Receiver<Gathered>),
    /// The report is journaled.
    Reporting,
}

/// What has to be said on the current connection.
#[derive(Debug, Default)]
struct ToSay {
    started: bool,
    cancel_ack: bool,
    result: bool,
}

/// Marks a message as said.
type StrikeOut = fn(&mut ToSay);

struct Attempt {
    context: Arc<Context>,
    held: Held,
    mailbox: Arc<Mailbox>,
    phase: Phase,
    slot: Option<Slot>,
    spool: Arc<Mutex<Spool>>,
    pump: Pump,
    /// Segments of the spool before this one were deleted.
    released: u64,
    /// Frames that were read and not handed to the link yet.
    frames: VecDeque<Bytes>,
    /// Everything in the spool was read.
    read_all: bool,
    outbox: Option<Outbox>,
    say: ToSay,
    lease: watch::Sender<Option<Mono>>,
    asked: Asked,
    /// The agent's own fault: stands before whatever the run says.
    fault: Option<Outcome>,
    first_byte_ms: Option<u64>,
    ended_at: Option<Mono>,
    run_until: Option<Instant>,
    /// Until then the report waits for the log; moved on by each sign of progress.
    log_until: Option<Instant>,
    /// The report waits no more for the log.
    log_done: bool,
    resend_at: Option<Instant>,
}

/// What woke the attempt.
enum Wake {
    Mail(Box<Mail>),
    Prepared(Result<Ready, Outcome>),
    Adopted(Result<Adopted, AdoptFailure>),
    Run(ExecEvent),
    Gathered(Option<Gathered>),
    Said,
    FrameSent,
    RunTimeout,
    LogWaitOver,
    Resend,
    LinkDown,
}

impl Attempt {
    async fn open(context: Arc<Context>, held: Held, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let attempt = held.assignment.attempt;
        let folder = context.folder_of(attempt).join("log");
        let bytes_max = held.assignment.log_bytes_max;
        let spool = blocking(move || Spool::open(&folder, bytes_max)).await?;
        let pump = Pump::new(spool.start());
        let spooled_seq = spool.last_seq();
        let phase = match (&held.report, &held.container) {
            (Some(_), _) => Phase::Reporting,
            (None, Some((container, slot))) => Phase::Adopting(steps::adopt(
                &context,
                &held.assignment,
                container.clone(),
                *slot,
                spooled_seq,
            )),
            (None, None) => Phase::Preparing(steps::prepare(&context, &held.assignment)),
        };
        let mut this = Self {
            say: ToSay {
                started: held.started_at.is_some(),
                ..ToSay::default()
            },
            asked: Asked::default(),
            context,
            mailbox,
            phase,
            slot: None,
            spool: Arc::new(Mutex::new(spool)),
            released: pump.stored_before().segment(),
            pump,
            frames: VecDeque::new(),
            read_all: false,
            outbox: None,
            lease: watch::Sender::new(None),
            fault: None,
            first_byte_ms: None,
            ended_at: None,
            run_until: None,
            log_until: None,
            log_done: false,
            resend_at: None,
            held,
        };
        this.recall().await;
        Ok(this)
    }

    fn id(&self) -> AttemptId {
        self.held.assignment.attempt
    }

    /// Takes up what an earlier life of the agent had noted.
    async fn recall(&mut self) {
        if let Some(why) = self.held.cancelled.clone() {
            self.asked.cancel_why = why;
            self.asked.stop = Some(StopWhy::Cancelled);
        } else if self.held.stopped {
            self.asked.stop = Some(StopWhy::LeaseLost);
        }
        if self.held.report.is_some() {
            self.seal();
            // The earlier life may have died before it was removed.
            if let Some((container, slot)) = self.held.container.clone() {
                let (context, slot) = (Arc::clone(&self.context), self.context.slots.claim(slot));
                self.context.tasks.spawn("remove container", async move {
                    if let Err(error) = context.executor.remove(&container).await {
                        tracing::warn!(%error, container = container.0, "a container is left to the orphan sweep");
                    }
                    drop(slot);
                });
            }
        } else if self.held.container.is_none()
            && let Some(why) = self.asked.stop
        {
            // Nothing of it was ever started.
            self.report_bare(outcome::stopped(why, &self.asked)).await;
        }
    }

    async fn work(&mut self) -> Way {
        loop {
            self.read_ahead().await;
            let way = match self.wake().await {
                Wake::Mail(mail) => self.on_mail(*mail).await,
                Wake::Prepared(result) => self.on_prepared(result).await,
                Wake::Adopted(result) => self.on_adopted(result).await,
                Wake::Run(event) => self.on_run(event).await,
                Wake::Gathered(gathered) => self.on_gathered(gathered).await,
                Wake::Said | Wake::FrameSent => Way::On,
                Wake::RunTimeout => {
                    self.run_until = None;
                    self.stop_run(StopWhy::RunTimeout).await;
                    Way::On
                }
                Wake::LogWaitOver => {
                    tracing::warn!(attempt = %self.id(), "the log is not stored in time; its report goes without");
                    self.say_result();
                    Way::On
                }
                Wake::Resend => {
                    self.say_result();
                    Way::On
                }
                Wake::LinkDown => {
                    self.set_link(None);
                    Way::On
                }
            };
            if way != Way::On {
                return way;
            }
        }
    }

    /// Waits for the next thing; every branch may be dropped.
    async fn wake(&mut self) -> Wake {
        let say = self.next_to_say();
        let (control, logs) = match &self.outbox {
            Some(outbox) => (Some(&outbox.control), Some(&outbox.logs)),
            None => (None, None),
        };
        tokio::select! {
            biased;
            mail = self.mailbox.take() => Wake::Mail(Box::new(mail)),
            permit = reserve(control), if say.is_some() => match (permit, say) {
                (Some(permit), Some((message, said))) => {
                    permit.send(message);
                    said(&mut self.say);
                    Wake::Said
                }
                _ => Wake::LinkDown,
            },
            wake = of_phase(&mut self.phase) => wake,
            permit = reserve(logs), if !self.frames.is_empty() => match (permit, self.frames.pop_front()) {
                (Some(permit), Some(frame)) => {
                    permit.send(frame);
                    Wake::FrameSent
                }
                _ => Wake::LinkDown,
            },
            () = until(self.run_until) => Wake::RunTimeout,
            () = until(self.log_until), if !self.log_done => Wake::LogWaitOver,
            () = until(self.resend_at) => Wake::Resend,
        }
    }

    /// The message that is due, and what to strike out once it is on its way.
    fn next_to_say(&self) -> Option<(FromWorker, StrikeOut)> {
        self.outbox.as_ref()?;
        let (job, attempt) = (self.held.assignment.job, self.id());
        if self.say.started {
            let message = FromWorker::Started { job, attempt };
            return Some((message, |say| say.started = false));
        }
        if self.say.cancel_ack {
            let message = FromWorker::CancelAck { job, attempt };
            return Some((message, |say| say.cancel_ack = false));
        }
        let report = self.held.report.clone().filter(|_| self.say.result)?;
        let message = FromWorker::Result { job, attempt, report };
        Some((message, |say| say.result = false))
    }

    async fn on_mail(&mut self, mail: Mail) -> Way {
        if mail.leave {
            return Way::Left;
        }
        if mail.result.is_some() && matches!(self.phase, Phase::Reporting) {
            return self.close().await;
        }
        if let Some(link) = mail.link {
            self.set_link(link);
        }
        self.on_stored(mail.stored, mail.logs_stale).await;
        if mail.assigned_again {
            self.say.started = self.held.started_at.is_some();
            self.say.result = self.log_done;
        }
        if let Some(deadline) = mail.deadline {
            self.on_deadline(deadline).await;
        }
        if let Some(why) = mail.cancel {
            self.say.cancel_ack = true;
            if self.held.cancelled.is_none() && self.asked.stop.is_none() {
                self.held.cancelled = Some(why.clone());
                self.asked.cancel_why = why.clone();
                let attempt = self.id();
                self.note(Entry::Cancelled { attempt, why }, Durability::Written)
                    .await;
            }
            self.stop_run(StopWhy::Cancelled).await;
        }
        if mail.stop {
            if !self.held.stopped {
                self.held.stopped = true;
                let attempt = self.id();
                self.note(Entry::Stopped { attempt }, Durability::Written).await;
            }
            self.stop_run(StopWhy::LeaseLost).await;
        }
        if mail.drain {
            self.stop_run(StopWhy::Drain).await;
        }
        Way::On
    }

    fn set_link(&mut self, link: Option<Outbox>) {
        // Whatever was on the old connection may be lost, so it is said again.
        self.pump.disconnected();
        self.frames.clear();
        self.read_all = false;
        self.outbox = link;
        self.say.started = self.held.started_at.is_some();
        self.say.result = self.log_done;
        self.resend_at = None;
        self.expect_progress();
    }

    async fn on_stored(&mut self, stored: [Option<u64>; 2], stale: bool) {
        for stream in common::log::Stream::ALL {
            if let Some(seq) = stored[stream.index()] {
                self.pump.acknowledged(stream, seq);
                self.expect_progress();
            }
        }
        if stale {
            self.pump.give_up();
            self.frames.clear();
        }
        let before = self.pump.stored_before();
        if before.segment() > self.released {
            self.released = before.segment();
            if let Err(error) = self.with_spool(move |spool| spool.release(before)).await {
                tracing::warn!(attempt = %self.id(), %error, "stored output cannot be deleted from the spool");
            }
        }
    }

    async fn on_deadline(&mut self, deadline: Mono) {
        let newer = self.lease.borrow().is_none_or(|known| deadline > known);
        if !newer {
            return;
        }
        self.lease.send_replace(Some(deadline));
        match std::mem::replace(&mut self.phase, Phase::Reporting) {
            Phase::Running(mut running) => {
                running.set_deadline(deadline).await;
                self.phase = Phase::Running(running);
            }
            Phase::Waiting(prepared) => self.start(prepared, deadline).await,
            other => self.phase = other,
        }
    }

    async fn on_prepared(&mut self, result: Result<Ready, Outcome>) -> Way {
        let ready = match result {
            Ok(ready) => ready,
            Err(outcome) => {
                self.report_bare(outcome).await;
                return Way::On;
            }
        };
        let (container, slot) = (ready.prepared.container().clone(), ready.slot.number);
        self.held.container = Some((container.clone(), slot));
        self.held.facts = ready.facts.clone();
        self.slot = Some(ready.slot);
        let entry = Entry::Container {
            attempt: self.id(),
            container,
            slot,
            facts: ready.facts,
        };
        // On the disk before `run`: a container that no journal knows must never have run anything.
        if !self.note(entry, Durability::Synced).await {
            ready.prepared.destroy().await;
            self.report_bare(outcome::infra("the agent's journal cannot be written"))
                .await;
            return Way::On;
        }
        let deadline = *self.lease.borrow();
        match deadline {
            Some(deadline) => self.start(ready.prepared, deadline).await,
            None => self.phase = Phase::Waiting(ready.prepared),
        }
        Way::On
    }

    async fn start(&mut self, prepared: Box<dyn Prepared>, deadline: Mono) {
        if deadline <= self.context.clock.mono() {
            prepared.destroy().await;
            self.report_bare(Outcome::WorkerLost).await;
            return;
        }
        let container = prepared.container().clone();
        match prepared.run(deadline).await {
            Ok(running) => self.phase = Phase::Running(running),
            Err(failure) => {
                if let Err(error) = self.context.executor.remove(&container).await {
                    tracing::warn!(attempt = %self.id(), %error, "a container that could not be started is left to the orphan sweep");
                }
                self.report_bare(outcome::of_start_failure(&failure)).await;
            }
        }
    }

    async fn on_adopted(&mut self, result: Result<Adopted, AdoptFailure>) -> Way {
        match result {
            Ok(Adopted { mut running, slot }) => {
                self.slot = Some(slot);
                let deadline = *self.lease.borrow();
                if let Some(deadline) = deadline {
                    running.set_deadline(deadline).await;
                }
                if let Some(why) = self.asked.stop {
                    running.stop(why).await;
                }
                self.phase = Phase::Running(running);
                self.arm_run_timeout();
                // The end was journaled already: what remains is to collect.
                if let Some(ended) = self.held.ended.clone() {
                    return self.on_ended(ended).await;
                }
            }
            Err(failure) => {
                self.seal();
                let outcome = match self.held.ended.clone() {
                    Some(ended) => outcome::of_end(&ended.end, &self.asked),
                    None => outcome::of_end(
                        &End::Silent {
                            engine_restarted: true,
                            oom: false,
                            message: failure.to_string(),
                        },
                        &self.asked,
                    ),
                };
                let report = self.report_of(outcome, None);
                self.conclude(report).await;
            }
        }
        Way::On
    }

    async fn on_run(&mut self, event: ExecEvent) -> Way {
        match event {
            ExecEvent::Started => {
                self.on_started().await;
                Way::On
            }
            ExecEvent::Chunk(chunk) => self.on_chunks(chunk).await,
            ExecEvent::Ended(ended) => self.on_ended(ended).await,
        }
    }

    async fn on_started(&mut self) {
        if self.held.started_at.is_none() {
            let (attempt, at) = (self.id(), self.context.clock.mono());
            self.held.started_at = Some(at);
            self.note(Entry::Started { attempt, at }, Durability::Written)
                .await;
        }
        self.say.started = true;
        if self.run_until.is_none() {
            self.arm_run_timeout();
        }
    }

    fn arm_run_timeout(&mut self) {
        if let Some(at) = self.held.started_at {
            let ran = self.context.clock.mono().since(at);
            let left = self.held.assignment.spec.limits.run.saturating_sub(ran);
            self.run_until = later(left);
        }
    }

    /// Spools a chunk and those that are there already, then acknowledges them.
    async fn on_chunks(&mut self, first: Chunk) -> Way {
        if self.first_byte_ms.is_none()
            && let Some(at) = self.held.started_at
        {
            self.first_byte_ms = Some(millis(self.context.clock.mono().since(at)));
        }
        let mut seq = first.seq;
        let mut batch = vec![first];
        let mut then = None;
        if let Phase::Running(running) = &mut self.phase {
            while batch.len() < BATCH_CHUNKS {
                match running.next().now_or_never() {
                    Some(ExecEvent::Chunk(chunk)) => {
                        seq = chunk.seq;
                        batch.push(chunk);
                    }
                    Some(other) => {
                        then = Some(other);
                        break;
                    }
                    None => break,
                }
            }
        }
        let written = self
            .with_spool(move |spool| batch.iter().try_for_each(|chunk| spool.append(chunk)))
            .await;
        self.read_all = false;
        match written {
            Ok(()) => {
                if let Phase::Running(running) = &mut self.phase {
                    running.ack(seq).await;
                }
            }
            Err(error) => {
                tracing::error!(attempt = %self.id(), %error, "output cannot be spooled; the run is ended");
                self.fault
                    .get_or_insert_with(|| outcome::infra("the agent's disk does not take the job's output"));
                self.stop_run(StopWhy::Drain).await;
            }
        }
        match then {
            Some(ExecEvent::Started) => {
                self.on_started().await;
                Way::On
            }
            Some(ExecEvent::Ended(ended)) => self.on_ended(ended).await,
            Some(ExecEvent::Chunk(_)) | None => Way::On,
        }
    }

    async fn on_ended(&mut self, ended: Ended) -> Way {
        let Phase::Running(running) = std::mem::replace(&mut self.phase, Phase::Reporting) else {
            return Way::On;
        };
        self.run_until = None;
        self.seal();
        self.ended_at = Some(self.context.clock.mono());
        self.asked.lease_over = self
            .lease
            .borrow()
            .is_some_and(|deadline| deadline <= self.context.clock.mono());
        if self.held.ended.is_none() {
            self.held.ended = Some(ended.clone());
            let attempt = self.id();
            self.note(Entry::Ended { attempt, ended }, Durability::Written)
                .await;
        }
        self.phase = Phase::Gathering(steps::gather(
            &self.context,
            &self.held.assignment,
            running,
            self.lease.subscribe(),
        ));
        Way::On
    }

    async fn on_gathered(&mut self, gathered: Option<Gathered>) -> Way {
        let ended = self.held.ended.clone();
        let outcome = match (&self.fault, &ended) {
            (Some(fault), _) => fault.clone(),
            (None, Some(ended)) => outcome::of_end(&ended.end, &self.asked),
            (None, None) => outcome::infra("the agent lost sight of the run"),
        };
        let mut report = self.report_of(outcome, ended.as_ref());
        let Some(mut gathered) = gathered else {
            self.conclude(report).await;
            return Way::On;
        };
        report.artifacts = std::mem::take(&mut gathered.artifacts);
        report.artifacts_refused = std::mem::take(&mut gathered.refused);
        self.conclude(report).await;
        // Only now that the report is on the disk may init forget the exit.
        if let Some(seq) = ended.and_then(|ended| ended.seq) {
            gathered.running.ack(seq).await;
        }
        let slot = self.slot.take();
        self.context.tasks.spawn("remove container", async move {
            gathered.running.finish().await;
            drop(slot);
        });
        Way::On
    }

    /// Ends the run, or what leads to it; nothing where the run has ended already.
    async fn stop_run(&mut self, why: StopWhy) {
        match std::mem::replace(&mut self.phase, Phase::Reporting) {
            Phase::Running(mut running) => {
                self.asked.stop.get_or_insert(why);
                running.stop(why).await;
                self.phase = Phase::Running(running);
            }
            Phase::Adopting(adopting) => {
                self.asked.stop.get_or_insert(why);
                self.phase = Phase::Adopting(adopting);
            }
            // The task that prepares finds that nobody waits, and puts away what it has made.
            Phase::Preparing(_) => {
                let why = *self.asked.stop.get_or_insert(why);
                self.report_bare(outcome::stopped(why, &self.asked)).await;
            }
            Phase::Waiting(prepared) => {
                let why = *self.asked.stop.get_or_insert(why);
                prepared.destroy().await;
                self.report_bare(outcome::stopped(why, &self.asked)).await;
            }
            other @ (Phase::Gathering(_) | Phase::Reporting) => self.phase = other,
        }
    }

    fn report_of(&self, outcome: Outcome, ended: Option<&Ended>) -> AttemptReport {
        let facts = &self.held.facts;
        let now = self.context.clock.mono();
        AttemptReport {
            usage: ended.map(|ended| ended.usage).unwrap_or_default(),
            timings: Timings {
                inputs_ms: facts.inputs_ms,
                pull_ms: facts.pull_ms,
                create_ms: facts.create_ms,
                first_byte_ms: self.first_byte_ms,
                run_ms: ended.and_then(|ended| ended.run_ms),
                store_ms: self.ended_at.map(|at| millis(now.since(at))),
            },
            logs: self
                .spool
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .log_end(),
            image_digest: facts.image_digest.clone(),
            ..AttemptReport::bare(outcome)
        }
    }

    async fn report_bare(&mut self, outcome: Outcome) {
        self.seal();
        let report = self.report_of(outcome, None);
        self.conclude(report).await;
    }

    /// Journals the report, from where on it is only sent.
    async fn conclude(&mut self, report: AttemptReport) {
        self.phase = Phase::Reporting;
        self.slot.take_if(|_| self.held.container.is_none());
        let report = Box::new(report);
        self.held.report = Some(report.clone());
        let attempt = self.id();
        // Where the journal fails the report is sent all the same; only a crash before that would lose it.
        self.note(Entry::Report { attempt, report }, Durability::Synced)
            .await;
        self.expect_progress();
    }

    async fn close(&mut self) -> Way {
        let (attempt, at) = (self.id(), self.context.clock.now());
        self.note(Entry::Closed { attempt, at }, Durability::Written)
            .await;
        let folder = self.context.folder_of(attempt);
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%attempt, %error, "the attempt's folder is left behind");
        }
        Way::Closed
    }

    fn say_result(&mut self) {
        self.log_done = true;
        self.log_until = None;
        self.say.result = true;
        self.resend_at = later(self.context.limits.result_resend);
    }

    fn seal(&mut self) {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner).seal();
        self.read_all = false;
    }

    /// The wait for the log begins anew, while there is a connection and a report that waits.
    fn expect_progress(&mut self) {
        let waits = matches!(self.phase, Phase::Reporting) && self.outbox.is_some() && !self.log_done;
        self.log_until = if waits {
            later(self.context.limits.log_wait)
        } else {
            None
        };
    }

    /// Reads the next chunks for the link, and notices when the whole log is stored.
    async fn read_ahead(&mut self) {
        while self.outbox.is_some() && self.frames.is_empty() && !self.read_all {
            let Some((from, room)) = self.pump.wants() else {
                break;
            };
            let read = self.with_spool(move |spool| spool.read(from, room)).await;
            let records = match read {
                Ok(records) => records,
                Err(error) => {
                    tracing::error!(attempt = %self.id(), %error, "the spool cannot be read; the log stays incomplete");
                    self.pump.give_up();
                    break;
                }
            };
            self.read_all = records.is_empty();
            for record in records {
                if self.pump.take(&record) {
                    let chunk = LogChunk {
                        attempt: self.id(),
                        stream: record.chunk.stream,
                        seq: record.chunk.stream_seq,
                        bytes: record.chunk.bytes,
                    };
                    self.frames
                        .push_back(binary::encode(self.held.assignment.job, &chunk));
                }
            }
        }
        let stored = self.pump.is_stale() || (self.read_all && self.pump.is_idle());
        if stored && !self.log_done && matches!(self.phase, Phase::Reporting) && self.outbox.is_some() {
            self.say_result();
        }
    }

    async fn note(&mut self, entry: Entry, durability: Durability) -> bool {
        let noted = self
            .context
            .journal
            .record(entry, durability, self.context.clock.now())
            .await;
        if let Err(error) = &noted {
            tracing::error!(attempt = %self.id(), %error, "the journal does not take an entry");
        }
        noted.is_ok()
    }

    async fn with_spool<T, F>(&mut self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Spool) -> io::Result<T> + Send + 'static,
    {
        let spool = Arc::clone(&self.spool);
        blocking(move || work(&mut spool.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the disk's worker was stopped")))
}

async fn of_phase(phase: &mut Phase) -> Wake {
    match phase {
        Phase::Preparing(prepared) => Wake::Prepared(
            prepared
                .await
                .unwrap_or_else(|_| Err(outcome::infra("getting ready broke off"))),
        ),
        Phase::Adopting(adopted) => match adopted.await {
            Ok(adopted) => Wake::Adopted(adopted),
            Err(_) => pending().await,
        },
        Phase::Running(running) => Wake::Run(running.next().await),
        Phase::Gathering(gathered) => Wake::Gathered(gathered.await.ok()),
        Phase::Waiting(_) | Phase::Reporting => pending().await,
    }
}

/// Room for one message; none when the connection is gone.
async fn reserve<T>(sender: Option<&mpsc::Sender<T>>) -> Option<mpsc::Permit<'_, T>> {
    match sender {
        Some(sender) => sender.reserve().await.ok(),
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// Far times are as good as never.
fn later(after: Duration) -> Option<Instant> {
    Instant::now().checked_add(after)
}
