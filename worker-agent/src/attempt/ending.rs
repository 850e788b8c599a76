//! The end of an attempt: collect, report, and put away once the report is acknowledged.
//!
//! Invariants: the end is journaled before anything is collected, the report before init may forget the exit and
//! before the container may go. Where the journal fails, the report is sent all the same.

use std::io;
use std::sync::PoisonError;

use common::attempt::{AttemptReport, Outcome, Timings};

use super::steps::{self, Gathered, millis};
use super::{Attempt, Phase, Way, later, outcome};
use crate::executor::Ended;
use crate::journal::{Durability, Entry};

impl Attempt {
    pub(super) async fn on_ended(&mut self, ended: Ended) -> Way {
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

    pub(super) async fn on_gathered(&mut self, gathered: Option<Gathered>) -> Way {
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

    pub(super) fn report_of(&self, outcome: Outcome, ended: Option<&Ended>) -> AttemptReport {
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

    pub(super) async fn report_bare(&mut self, outcome: Outcome) {
        self.seal();
        let report = self.report_of(outcome, None);
        self.conclude(report).await;
    }

    /// Journals the report, from where on it is only sent.
    pub(super) async fn conclude(&mut self, report: AttemptReport) {
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

    pub(super) fn say_result(&mut self) {
        self.log_done = true;
        self.log_until = None;
        self.say.result = true;
        self.resend_at = later(self.context.limits.result_resend);
    }

    pub(super) async fn close(&mut self) -> Way {
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
}
