//! One attempt, one task: get ready, run, spool and send its output, collect, report, wait for the acknowledgement.
//!
//! Invariants: the container stands in the journal, synced, before its job can start; the deadline given to it only
//! ever comes from the session's acknowledged heartbeats; output is acknowledged to init once it is spooled; the report
//! is journaled before the container may go and is sent again until it is acknowledged. A task that is dropped or
//! told to leave touches nothing: the next life of the agent goes on from the journal and the spool.

mod ending;
mod mailbox;
mod outcome;
mod output;
mod run;
mod steps;
mod told;

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::attempt::Outcome;
use common::ids::AttemptId;
use common::protocol::FromWorker;
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::mailbox::{Mail, Mailbox};

use self::outcome::Asked;
use self::steps::{Gathered, Ready};
use crate::condition::NodeCondition;
use crate::config::AgentLimits;
use crate::disk::Disk;
use crate::executor::{AdoptFailure, ExecEvent, Executor, Prepared, Running, StopWhy};
use crate::journal::{Durability, Entry, Held, Journal};
use crate::link::Outbox;
use crate::log_pump::Pump;
use crate::spool::Spool;
use crate::transfer::FileServer;

/// What attempts share.
pub struct Context {
    pub executor: Arc<dyn Executor>,
    pub condition: Arc<NodeCondition>,
    pub journal: Journal,
    pub files: Arc<dyn FileServer>,
    pub disk: Disk,
    pub clock: SharedClock,
    pub tasks: Tasks,
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
    Adopting(oneshot::Receiver<Result<Box<dyn Running>, AdoptFailure>>),
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
    Adopted(Result<Box<dyn Running>, AdoptFailure>),
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
        let spool = context.disk.run(move || Spool::open(&folder, bytes_max)).await?;
        let pump = Pump::new(spool.start());
        let spooled_seq = spool.last_seq();
        let phase = match (&held.report, &held.container) {
            (Some(_), _) => Phase::Reporting,
            (None, Some(container)) => Phase::Adopting(steps::adopt(
                &context,
                &held.assignment,
                container.clone(),
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
            // The earlier life may have died before it was removed. Where that fails, the sweep for orphans asks again.
            if let Some(container) = self.held.container.clone() {
                let executor = Arc::clone(&self.context.executor);
                self.context.tasks.spawn("remove container", async move {
                    if let Err(error) = executor.remove(&container).await {
                        tracing::warn!(%error, container = container.0, "it stays for now");
                    }
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

    async fn note(&mut self, entry: Entry, durability: Durability) -> bool {
        let noted = self
            .context
            .journal
            .record(self.context.disk, entry, durability, self.context.clock.now())
            .await;
        if let Err(error) = &noted {
            tracing::error!(attempt = %self.id(), %error, "the journal does not take an entry");
        }
        noted.is_ok()
    }
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
