//! One connection after another: dial, greet, be welcomed, lose it, and try again after a pause.
//!
//! Invariants: there is one connection, or one attempt to get one, at a time; a lost connection takes every unanswered
//! heartbeat with it, and no attempt. Failures double the pause; a refusal takes the longest at once.

use std::sync::Arc;
use std::time::Duration;

use common::protocol::{CloseCode, FromWorker, PROTOCOL_VERSION, VerdictFor, WorkerSettings};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Event, LinkState, Session};
use crate::config::LinkTimes;
use crate::link::{Closed, Connection, LinkError};

/// The first pause after a lost connection.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// A control plane that asked for less would be asking for a flood.
const BEAT_MIN: Duration = Duration::from_millis(50);

impl Session {
    pub(super) fn dial(&mut self, after: Duration) {
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

    pub(super) fn retry(&mut self, at_leisure: bool) {
        self.failures = if at_leisure {
            u32::MAX
        } else {
            self.failures.saturating_add(1)
        };
        self.dial(pause(&self.config.link, self.failures));
        // without a connection no heartbeat does it; after the dial, or they would be told of the one that is lost
        self.revive();
    }

    pub(super) fn greet(&mut self, connection: Connection) {
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

    pub(super) fn on_welcome(&mut self, resumed: bool, settings: WorkerSettings, verdicts: Vec<VerdictFor>) {
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

    pub(super) fn on_closed(&mut self, closed: &Closed) {
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
        let is = |code: CloseCode| closed.code == Some(code.code());
        if is(CloseCode::Superseded) {
            // There is one connection at a time here, so the newer one is somebody else's.
            tracing::error!(
                "another agent speaks under this worker's name: give every machine a key of its own, \
                 or end the one that is not wanted"
            );
        }
        let at_leisure = [
            CloseCode::Unauthorized,
            CloseCode::VersionMismatch,
            CloseCode::Superseded,
        ];
        self.retry(at_leisure.into_iter().any(is));
    }
}

pub(super) async fn of_link(state: &mut LinkState) -> Event {
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

/// The pause before the next try: doubling, up to the largest, half of it random so that a fleet does not come back as
/// one.
fn pause(times: &LinkTimes, failures: u32) -> Duration {
    let whole = BACKOFF_MIN
        .saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(times.backoff_max);
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
