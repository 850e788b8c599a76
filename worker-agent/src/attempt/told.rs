//! What the session says, done: the letters, the link that comes and goes, the lease that moves on.
//!
//! Invariants: the deadline only ever moves forward; a cancel and a stop are journaled before they are carried out, so
//! that the next life of the agent does not run on; whatever was under way on a lost connection is said again.

use common::time::Mono;

use super::{Attempt, Mail, Phase, Way};
use crate::executor::StopWhy;
use crate::journal::{Durability, Entry};
use crate::link::Outbox;

impl Attempt {
    pub(super) async fn on_mail(&mut self, mail: Mail) -> Way {
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

    pub(super) fn set_link(&mut self, link: Option<Outbox>) {
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
}
