//! The agent's event loop: one session with the control plane over one connection after another.
//!
//! Invariants: a lease's deadline only ever moves by an acknowledged heartbeat (or hello) and is counted from the
//! *sending* of it, on the boot clock; an attempt id is never started twice; what is listed as held is held until its
//! result is acknowledged. Nothing in the loop waits for anything but its next event.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::ids::AttemptId;
use common::protocol::{
    Assignment, CloseCode, FromWorker, HELD_ATTEMPTS_MAX, HeldAttempt, PROTOCOL_VERSION, ToWorker, Verdict,
    VerdictFor, WorkerSettings,
};
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use common::worker::{Condition, WorkerDescription};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Context, Handle, Over};
use crate::config::{Config, LinkTimes, OnStop};
use crate::journal::{Durability, Entry, Held};
use crate::link::{Closed, Connection, Incoming, LinkError, ServerLink};
use crate::machine::LoadMeter;

/// The first pause after a lost connection.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// Ends that may wait for the loop.
const OVER_QUEUE: usize = 64;

/// Heartbeats that may be unanswered; older ones renew nothing any more.
const UNANSWERED_MAX: usize = 64;

/// After the end of a drain's time: for stop signals, graces and reports.
const DRAIN_LAST: Duration = Duration::from_secs(30);

/// Everything that happens to the session.
#[derive(Debug)]
enum Event {
    Dialled(Result<Connection, LinkError>),
    /// None: the connection's own tasks are gone.
    Incoming(Option<Incoming>),
    HeartbeatDue,
    WelcomeOverdue,
    AttemptOver(AttemptId),
    OrphansDue,
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
    orphans: Interval,
    draining: bool,
    stop_asked: bool,
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
        let mut orphans = tokio::time::interval(parts.config.limits.orphans_every);
        orphans.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            orphans,
            draining: false,
            stop_asked: false,
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
            if self.stop_asked && self.attempts.is_empty() {
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
            Some(Over(attempt)) = self.over.1.recv() => Event::AttemptOver(attempt),
            _ = self.orphans.tick() => Event::OrphansDue,
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
            Event::Incoming(Some(Incoming::Message(message))) => self.on_message(message),
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
            Event::OrphansDue => {
                self.revive();
                self.sweep_orphans();
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
        match self.config.on_stop {
            OnStop::Leave => false,
            OnStop::Drain { within } => {
                self.draining = true;
                self.drain_until = Instant::now().checked_add(within);
                self.heartbeat();
                true
            }
        }
    }

    fn dial(&mut self, after: Duration) {
        let (answer, dialled) = mpsc::channel(1);
        let link = Arc::clone(&self.link);
        self.tasks.spawn("dial", async move {
            let connect = async {
                tokio::time::sleep(after).await;
                link.connect().await
            };
            tokio::select! {
                connection = connect => {
                    // The session may have left meanwhile.
                    let _ = answer.send(connection).await;
                }
                () = answer.closed() => {}
            }
        });
        self.state = LinkState::Dialling(dialled);
    }

    fn retry(&mut self, at_leisure: bool) {
        self.failures = if at_leisure {
            u32::MAX
        } else {
            self.failures.saturating_add(1)
        };
        self.dial(pause(&self.config.link, self.failures));
    }

    fn greet(&mut self, connection: Connection) {
        let hello = FromWorker::Hello {
            protocol: PROTOCOL_VERSION,
            session: self.context.journal.session(),
            description: self.description.clone(),
            condition: self.condition.borrow().clone(),
            draining: self.draining,
            attempts: self.held(),
        };
        self.sent.clear();
        self.sent.insert(0, self.clock.mono());
        let said = connection.outbox.control.try_send(hello).is_ok();
        match Instant::now().checked_add(self.config.link.handshake) {
            Some(by) if said => self.state = LinkState::Greeting(connection, by),
            _ => self.retry(false),
        }
    }

    fn on_closed(&mut self, closed: &Closed) {
        tracing::info!(
            code = closed.code,
            reason = closed.reason,
            "the connection to the control plane was lost"
        );
        self.heartbeats = None;
        self.sent.clear();
        for (_, handle) in self.attempts.values() {
            handle.mailbox.put(|mail| mail.link = Some(None));
        }
        let at_leisure = [CloseCode::Unauthorized, CloseCode::VersionMismatch]
            .iter()
            .any(|code| closed.code == Some(code.code()));
        self.retry(at_leisure);
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

    fn on_welcome(&mut self, resumed: bool, settings: WorkerSettings, verdicts: Vec<VerdictFor>) {
        let connection = match std::mem::replace(&mut self.state, LinkState::Dialling(mpsc::channel(1).1)) {
            LinkState::Greeting(connection, _) | LinkState::Up(connection) => connection,
            dialling @ LinkState::Dialling(_) => {
                self.state = dialling;
                return;
            }
        };
        tracing::info!(
            resumed,
            attempts = self.attempts.len(),
            "connected to the control plane"
        );
        self.failures = 0;
        let mut heartbeats = tokio::time::interval_at(
            Instant::now() + settings.heartbeat,
            settings.heartbeat.max(BEAT_MIN),
        );
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.heartbeats = Some(heartbeats);
        self.settings = Some(settings);
        for (_, handle) in self.attempts.values() {
            let outbox = connection.outbox.clone();
            handle.mailbox.put(|mail| mail.link = Some(Some(outbox)));
        }
        self.state = LinkState::Up(connection);
        let sent_at = self.sent.remove(&0);
        if !resumed {
            // The new session holds nothing of an older one, whatever was said of single attempts.
            self.lease_until = None;
            for (_, handle) in self.attempts.values() {
                handle.mailbox.put(|mail| mail.stop = true);
            }
        }
        if let Some(sent_at) = sent_at {
            self.renew(sent_at, if resumed { &verdicts } else { &[] });
        }
    }

    /// A heartbeat (or hello) sent at `sent_at` was acknowledged.
    fn renew(&mut self, sent_at: Mono, verdicts: &[VerdictFor]) {
        let Some(settings) = &self.settings else { return };
        let until = sent_at.after(settings.lost_after.saturating_sub(settings.kill_grace));
        self.lease_until = self.lease_until.max(Some(until));
        for VerdictFor { attempt, verdict } in verdicts {
            if let Some((_, handle)) = self.attempts.get(attempt) {
                match verdict {
                    Verdict::Keep => handle
                        .mailbox
                        .put(|mail| mail.deadline = mail.deadline.max(Some(until))),
                    Verdict::Stop => handle.mailbox.put(|mail| mail.stop = true),
                }
            }
        }
    }

    fn on_assign(&mut self, assignment: Assignment) {
        let attempt = assignment.attempt;
        if let Some((_, handle)) = self.attempts.get(&attempt) {
            handle.mailbox.put(|mail| mail.assigned_again = true);
            return;
        }
        if self.context.journal.is_closed(attempt) {
            return self.refuse(&assignment, "this attempt has ended on the worker before");
        }
        if self.attempts.len() >= HELD_ATTEMPTS_MAX {
            return self.refuse(&assignment, "the worker holds as many attempts as it can");
        }
        let held = Held::new(Arc::new(assignment));
        self.note(Entry::Assigned {
            assignment: Arc::clone(&held.assignment),
        });
        self.hold(held);
        let (LinkState::Up(connection), Some((_, handle))) = (&self.state, self.attempts.get(&attempt))
        else {
            return;
        };
        let (outbox, lease_until) = (connection.outbox.clone(), self.lease_until);
        handle.mailbox.put(|mail| {
            mail.link = Some(Some(outbox));
            mail.deadline = lease_until;
        });
    }

    /// Says of an attempt that is not held that it will not run here; whether that counts is decided there.
    fn refuse(&self, assignment: &Assignment, message: &str) {
        tracing::warn!(attempt = %assignment.attempt, message, "an assignment is not taken");
        let report = AttemptReport::bare(Outcome::InfraError {
            message: message.to_owned(),
        });
        self.say(FromWorker::Result {
            job: assignment.job,
            attempt: assignment.attempt,
            report: Box::new(report),
        });
    }

    /// The cancel came before its assignment, or after the end: it is never started here from now on.
    fn on_unknown_cancel(&self, HeldAttempt { job, attempt }: HeldAttempt) {
        let at = self.clock.now();
        self.note(Entry::Closed { attempt, at });
        self.say(FromWorker::CancelAck { job, attempt });
        let report = AttemptReport::bare(Outcome::Cancelled {
            by: common::job::CancelledBy::System,
            why: None,
        });
        self.say(FromWorker::Result {
            job,
            attempt,
            report: Box::new(report),
        });
    }

    fn heartbeat(&mut self) {
        if !matches!(self.state, LinkState::Up(_)) {
            return;
        }
        self.revive();
        self.number += 1;
        let message = FromWorker::Heartbeat {
            number: self.number,
            attempts: self.held(),
            condition: self.condition.borrow().clone(),
            draining: self.draining,
            load: self.load.sample(&self.load_folder, self.attempts.len()),
        };
        // Before it is handed over: a lease may only be judged too short.
        self.sent.insert(self.number, self.clock.mono());
        while self.sent.len() > UNANSWERED_MAX {
            self.sent.pop_first();
        }
        self.say(message);
    }

    fn say(&self, message: FromWorker) {
        if let LinkState::Up(connection) = &self.state
            && connection.outbox.control.try_send(message).is_err()
        {
            // Full: the peer reads nothing, which its ping will show. What matters is said again after that.
            tracing::warn!("a message to the control plane found no room");
        }
    }

    fn hold(&mut self, held: Held) {
        let listed = HeldAttempt {
            job: held.assignment.job,
            attempt: held.assignment.attempt,
        };
        let handle = attempt::spawn(&self.context, held, self.over.0.clone());
        self.attempts.insert(listed.attempt, (listed, handle));
    }

    fn held(&self) -> Vec<HeldAttempt> {
        self.attempts.values().map(|(listed, _)| *listed).collect()
    }

    /// An attempt whose task died is taken up from the journal again, as after a restart.
    fn revive(&mut self) {
        let dead: Vec<AttemptId> = self
            .attempts
            .iter()
            .filter(|(_, (_, handle))| handle.is_over())
            .map(|(attempt, _)| *attempt)
            .collect();
        if dead.is_empty() {
            return;
        }
        let state = self.context.journal.state();
        for attempt in dead {
            self.attempts.remove(&attempt);
            let Some(held) = state.held.get(&attempt) else {
                continue;
            };
            tracing::error!(%attempt, "the attempt's task had died; going on from the journal");
            self.hold(held.clone());
            if let (LinkState::Up(connection), Some((_, handle))) = (&self.state, self.attempts.get(&attempt))
            {
                let outbox = connection.outbox.clone();
                handle.mailbox.put(|mail| mail.link = Some(Some(outbox)));
            }
        }
    }

    fn note(&self, entry: Entry) {
        if let Err(error) = self
            .context
            .journal
            .record_now(entry, Durability::Written, self.clock.now())
        {
            tracing::error!(%error, "the journal does not take an entry");
        }
    }

    /// Removes containers of ours that the journal does not know; nobody else's, and none that may be in the making.
    fn sweep_orphans(&self) {
        let (context, grace) = (Arc::clone(&self.context), self.config.limits.creation_grace);
        self.tasks.spawn("orphans", async move {
            let owned = match context.executor.owned().await {
                Ok(owned) => owned,
                Err(error) => {
                    tracing::warn!(%error, "containers cannot be looked through for orphans");
                    return;
                }
            };
            let known: HashSet<_> = context
                .journal
                .state()
                .held
                .into_values()
                .filter_map(|held| held.container)
                .map(|(container, _)| container)
                .collect();
            let now = context.clock.now();
            for found in owned {
                if known.contains(&found.container) || now.since(found.created_at) < grace {
                    continue;
                }
                tracing::warn!(
                    container = found.container.0,
                    "removing a container that no attempt holds"
                );
                if let Err(error) = context.executor.remove(&found.container).await {
                    tracing::warn!(%error, container = found.container.0, "an orphan cannot be removed");
                }
            }
        });
    }
}

/// A control plane that asked for less would be asking for a flood.
const BEAT_MIN: Duration = Duration::from_millis(50);

async fn of_link(state: &mut LinkState) -> Event {
    match state {
        LinkState::Dialling(dialled) => match dialled.recv().await {
            Some(result) => Event::Dialled(result),
            None => Event::Dialled(Err(LinkError::Failed("the dialler was stopped".into()))),
        },
        LinkState::Greeting(connection, by) => {
            match tokio::time::timeout_at(*by, connection.inbox.recv()).await {
                Ok(incoming) => Event::Incoming(incoming),
                Err(_) => Event::WelcomeOverdue,
            }
        }
        LinkState::Up(connection) => Event::Incoming(connection.inbox.recv().await),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The pause before the next try: doubling, up to the largest, half of it random so that a fleet does not come back as
/// one.
fn pause(times: &LinkTimes, failures: u32) -> Duration {
    let whole = BACKOFF_MIN
        .saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(times.backoff_max);
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
