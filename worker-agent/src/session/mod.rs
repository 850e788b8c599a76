//! The agent's event loop: one session with the control plane over one connection after another.
//!
//! Invariants: a lease's deadline only ever moves by an acknowledged heartbeat (or hello) and is counted from the
//! *sending* of it, on the boot clock; an attempt id is never started twice; what is listed as held is held until its
//! result is acknowledged. Nothing in the loop waits for anything but its next event.

mod assignments;
mod connection;
mod lease;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::ids::AttemptId;
use common::protocol::{FromWorker, HeldAttempt, ToWorker, WorkerSettings};
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use common::worker::{Condition, WorkerDescription};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval};
use tokio_util::sync::CancellationToken;

use self::connection::of_link;
use crate::attempt::{Context, Handle, Over};
use crate::config::{Config, OnStop};
use crate::journal::{Durability, Entry};
use crate::link::{Closed, Connection, Incoming, LinkError, ServerLink};
use crate::machine::LoadMeter;

/// Ends that may wait for the loop.
const OVER_QUEUE: usize = 64;

/// After the end of a drain's time: for stop signals, graces and reports.
const DRAIN_LAST: Duration = Duration::from_secs(30);

/// For the answer to the heartbeat that says goodbye. Without it the worker is given work for as long as its silence
/// goes unnoticed, and what it was given waits until it is back, or for the whole lease.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);

/// Everything that happens to the session.
#[derive(Debug)]
enum Event {
    Dialled(Result<Connection, LinkError>),
    /// None: the connection's own tasks are gone.
    Incoming(Option<Incoming>),
    HeartbeatDue,
    WelcomeOverdue,
    AttemptOver(AttemptId),
    Stop,
    DrainOver,
    ExitOverdue,
}

pub struct Session {
    config: Config,
    clock: SharedClock,
    /// The program's: asks us to end.
    stopping: CancellationToken,
    /// Ours: ends after us.
    tasks: Tasks,
    context: Arc<Context>,
    link: Arc<dyn ServerLink>,
    description: WorkerDescription,
    condition: watch::Receiver<Condition>,
    load: LoadMeter,
    load_folder: PathBuf,
    attempts: BTreeMap<AttemptId, (HeldAttempt, Handle)>,
    over: (mpsc::Sender<Over>, mpsc::Receiver<Over>),
    state: LinkState,
    failures: u32,
    /// The last heartbeat's number, over all connections.
    number: u64,
    /// When each unanswered heartbeat was sent; number 0 is the hello.
    sent: BTreeMap<u64, Mono>,
    /// Until then the lease is known to hold.
    lease_until: Option<Mono>,
    settings: Option<WorkerSettings>,
    heartbeats: Option<Interval>,
    draining: bool,
    stop_asked: bool,
    /// The heartbeat that says goodbye: once it is acknowledged, nothing more is to be said.
    last_word: Option<u64>,
    drain_until: Option<Instant>,
    exit_by: Option<Instant>,
}

enum LinkState {
    Dialling(mpsc::Receiver<Result<Connection, LinkError>>),
    /// Connected, and waiting for `welcome` until then.
    Greeting(Connection, Instant),
    Up(Connection),
}

/// What a session is made of.
pub struct Parts {
    pub config: Config,
    pub clock: SharedClock,
    pub stopping: CancellationToken,
    pub tasks: Tasks,
    pub context: Arc<Context>,
    pub link: Arc<dyn ServerLink>,
    pub description: WorkerDescription,
    pub condition: watch::Receiver<Condition>,
}

impl Session {
    pub fn new(parts: Parts) -> Self {
        Self {
            load_folder: parts.config.state_folder.clone(),
            config: parts.config,
            clock: parts.clock,
            stopping: parts.stopping,
            tasks: parts.tasks,
            context: parts.context,
            link: parts.link,
            description: parts.description,
            condition: parts.condition,
            load: LoadMeter::default(),
            attempts: BTreeMap::new(),
            over: mpsc::channel(OVER_QUEUE),
            state: LinkState::Dialling(mpsc::channel(1).1),
            failures: 0,
            number: 0,
            sent: BTreeMap::new(),
            lease_until: None,
            settings: None,
            heartbeats: None,
            draining: false,
            stop_asked: false,
            last_word: None,
            drain_until: None,
            exit_by: None,
        }
    }

    /// Runs until the program is asked to stop, and what `on_stop` asks for is done.
    pub async fn run(mut self) {
        for held in self.context.journal.state().held.into_values() {
            tracing::info!(attempt = %held.assignment.attempt, "going on with an attempt of the journal");
            self.hold(held);
        }
        self.dial(Duration::ZERO);
        loop {
            let event = self.next_event().await;
            if !self.handle(event) {
                break;
            }
            if self.stop_asked && self.last_word.is_none() && self.attempts.is_empty() {
                break;
            }
        }
        for (_, handle) in self.attempts.values() {
            handle.mailbox.put(|mail| mail.leave = true);
        }
    }

    async fn next_event(&mut self) -> Event {
        let heartbeat = async {
            match &mut self.heartbeats {
                Some(interval) => interval.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stopping.cancelled(), if !self.stop_asked => Event::Stop,
            () = until(self.exit_by) => Event::ExitOverdue,
            () = until(self.drain_until) => Event::DrainOver,
            _ = heartbeat => Event::HeartbeatDue,
            event = of_link(&mut self.state) => event,
            // What has changed of the node is told at once.
            Ok(()) = self.condition.changed() => Event::HeartbeatDue,
            Some(Over(attempt)) = self.over.1.recv() => Event::AttemptOver(attempt),
        }
    }

    /// False: it is time to leave.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Dialled(Ok(connection)) => self.greet(connection),
            Event::Dialled(Err(error)) => {
                let refused = matches!(error, LinkError::Refused { .. });
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no connection to the control plane"
                );
                self.retry(refused);
            }
            Event::Incoming(Some(Incoming::Message(message))) => {
                let heard = match &message {
                    ToWorker::HeartbeatAck { number, .. } => Some(*number),
                    _ => None,
                };
                self.on_message(message);
                return self.last_word.is_none() || heard < self.last_word;
            }
            // nobody is left to say goodbye to
            Event::Incoming(_) if self.last_word.is_some() => return false,
            Event::Incoming(Some(Incoming::Closed(closed))) => self.on_closed(&closed),
            Event::Incoming(None) => self.on_closed(&Closed {
                code: None,
                reason: "the connection ended".into(),
            }),
            Event::WelcomeOverdue => self.on_closed(&Closed {
                code: None,
                reason: "no welcome in time".into(),
            }),
            Event::HeartbeatDue => self.heartbeat(),
            Event::AttemptOver(attempt) => {
                self.attempts.remove(&attempt);
            }
            Event::Stop => {
                self.stop_asked = true;
                return self.on_stop();
            }
            Event::DrainOver => {
                self.drain_until = None;
                self.exit_by = Instant::now().checked_add(DRAIN_LAST);
                for (_, handle) in self.attempts.values() {
                    handle.mailbox.put(|mail| mail.drain = true);
                }
            }
            Event::ExitOverdue => return false,
        }
        true
    }

    fn on_stop(&mut self) -> bool {
        self.draining = true;
        self.heartbeat();
        match self.config.on_stop {
            OnStop::Leave if !matches!(self.state, LinkState::Up(_)) => return false,
            OnStop::Leave => {
                self.last_word = Some(self.number);
                self.exit_by = Instant::now().checked_add(LAST_WORD_WITHIN);
            }
            OnStop::Drain { within } => self.drain_until = Instant::now().checked_add(within),
        }
        true
    }

    fn on_message(&mut self, message: ToWorker) {
        let greeting = matches!(self.state, LinkState::Greeting(..));
        match message {
            ToWorker::Welcome {
                session,
                resumed,
                settings,
                verdicts,
                ..
            } if greeting => {
                if self.context.journal.session() != Some(session) {
                    self.note(Entry::Session { session });
                }
                self.on_welcome(resumed, settings, verdicts);
            }
            _ if greeting => {
                tracing::warn!("the control plane spoke before its welcome");
            }
            ToWorker::Welcome { .. } => tracing::warn!("the control plane said welcome twice"),
            ToWorker::JobAssign(assignment) => self.on_assign(*assignment),
            ToWorker::Cancel { job, attempt, why } => match self.attempts.get(&attempt) {
                Some((_, handle)) => handle.mailbox.put(|mail| mail.cancel = Some(why)),
                None => self.on_unknown_cancel(HeldAttempt { job, attempt }),
            },
            ToWorker::HeartbeatAck { number, verdicts } => {
                if let Some(sent_at) = self.sent.remove(&number) {
                    self.sent = self.sent.split_off(&number);
                    self.renew(sent_at, &verdicts);
                } else {
                    // Said again: it renews nothing, but a stop stands, for an attempt never becomes current again.
                    self.stop_refused(&verdicts);
                }
            }
            ToWorker::LogAck {
                attempt,
                stream,
                seq,
                stale,
                ..
            } => {
                if let Some((_, handle)) = self.attempts.get(&attempt) {
                    if stale {
                        handle.mailbox.put(|mail| mail.logs_stale = true);
                    } else {
                        handle.mailbox.put_stored(stream, seq);
                    }
                }
            }
            ToWorker::ResultAck { attempt, verdict, .. } => {
                if let Some((_, handle)) = self.attempts.get(&attempt) {
                    handle.mailbox.put(|mail| mail.result = Some(verdict));
                }
            }
            ToWorker::Drain => self.draining = true,
        }
    }

    fn say(&self, message: FromWorker) {
        if let LinkState::Up(connection) = &self.state
            && connection.outbox.control.try_send(message).is_err()
        {
            // Full: the peer reads nothing, which its ping will show. What matters is said again after that.
            tracing::warn!("a message to the control plane found no room");
        }
    }

    /// False: the journal could not be written.
    fn note(&self, entry: Entry) -> bool {
        let noted = self
            .context
            .journal
            .record_now(entry, Durability::Written, self.clock.now());
        if let Err(error) = &noted {
            tracing::error!(%error, "the journal does not take an entry");
        }
        noted.is_ok()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
