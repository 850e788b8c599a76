//! What this worker holds: attempts are taken or refused, and taken up again when their task died.
//!
//! Invariants: an attempt id is never started twice, nor after a cancel that came before it; an assignment is journaled
//! before its attempt begins.

use std::sync::Arc;

use common::attempt::{AttemptReport, Outcome};
use common::ids::AttemptId;
use common::protocol::{Assignment, FromWorker, HELD_ATTEMPTS_MAX, HeldAttempt};

use super::{LinkState, Session};
use crate::attempt;
use crate::journal::{Entry, Held};

impl Session {
    pub(super) fn on_assign(&mut self, assignment: Assignment) {
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
        let noted = self.note(Entry::Assigned {
            assignment: Arc::clone(&held.assignment),
        });
        if !noted {
            // Unknown to the journal its container would be an orphan, to be removed while it runs.
            return self.refuse(&held.assignment, "the agent's journal cannot be written");
        }
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
    pub(super) fn on_unknown_cancel(&self, HeldAttempt { job, attempt }: HeldAttempt) {
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

    pub(super) fn hold(&mut self, held: Held) {
        let listed = HeldAttempt {
            job: held.assignment.job,
            attempt: held.assignment.attempt,
        };
        let handle = attempt::spawn(&self.context, held, self.over.0.clone());
        self.attempts.insert(listed.attempt, (listed, handle));
    }

    pub(super) fn held(&self) -> Vec<HeldAttempt> {
        self.attempts.values().map(|(listed, _)| *listed).collect()
    }

    /// An attempt whose task died is taken up from the journal again, as after a restart.
    pub(super) fn revive(&mut self) {
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
}
