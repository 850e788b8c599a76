//! The session's lease: heartbeats go out, and what acknowledges one moves the deadlines of the attempts.
//!
//! Invariants: a deadline is counted from the *sending* of the heartbeat (or hello) that was acknowledged, never from
//! the answer, and never moves back. A heartbeat that stays unanswered renews nothing.

use common::ids::AttemptId;
use common::protocol::{FromWorker, Verdict, VerdictFor};
use common::time::Mono;
use common::worker::Load;

use super::{LinkState, Session};

/// Heartbeats that may be unanswered; older ones renew nothing any more.
const UNANSWERED_MAX: usize = 64;

impl Session {
    pub(super) fn heartbeat(&mut self) {
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
            load: Load {
                pulling: self.pulling(),
                ..self.load.sample(&self.load_folder, self.attempts.len())
            },
        };
        // Before it is handed over: a lease may only be judged too short.
        self.sent.insert(self.number, self.clock.mono());
        while self.sent.len() > UNANSWERED_MAX {
            self.sent.pop_first();
        }
        self.say(message);
    }

    /// Told to people who ask why nothing runs yet.
    fn pulling(&self) -> Vec<AttemptId> {
        let attempts = self.attempts.keys().copied();
        attempts
            .filter(|attempt| self.context.executor.is_pulling(*attempt))
            .collect()
    }

    /// A heartbeat (or hello) sent at `sent_at` was acknowledged.
    pub(super) fn renew(&mut self, sent_at: Mono, verdicts: &[VerdictFor]) {
        let Some(settings) = &self.settings else { return };
        let until = sent_at.after(settings.lost_after.saturating_sub(settings.kill_grace));
        self.lease_until = self.lease_until.max(Some(until));
        for VerdictFor { attempt, verdict } in verdicts {
            if let (Verdict::Keep, Some((_, handle))) = (verdict, self.attempts.get(attempt)) {
                handle
                    .mailbox
                    .put(|mail| mail.deadline = mail.deadline.max(Some(until)));
            }
        }
        self.stop_refused(verdicts);
    }

    /// Ends the attempts that are not this session's to run.
    pub(super) fn stop_refused(&self, verdicts: &[VerdictFor]) {
        for VerdictFor { attempt, verdict } in verdicts {
            if let (Verdict::Stop, Some((_, handle))) = (verdict, self.attempts.get(attempt)) {
                handle.mailbox.put(|mail| mail.stop = true);
            }
        }
    }
}
