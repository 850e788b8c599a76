//! The end of an attempt: collect, report, and put away once the report is acknowledged.
//!
//! Invariants: the end is journaled before anything is collected, the report before init may forget the exit and
//! before the container may go. Where the journal fails, the report is sent all the same.

use std::io;
use std::sync::PoisonError;

use common::attempt::{AttemptReport, Outcome, RefusedArtifact, Timings};
use common::protocol::CONTROL_FRAME_BYTES_MAX;

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
        self.asked.started = self.held.started_at.is_some();
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
        self.context.tasks.spawn("remove container", async move {
            gathered.running.finish().await;
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
        let report = Box::new(fitting(report));
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
        let removed = self
            .context
            .disk
            .run(move || std::fs::remove_dir_all(&folder))
            .await;
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%attempt, %error, "the attempt's folder is left behind");
        }
        Way::Closed
    }
}

/// A report travels in one frame, with room for its envelope.
const REPORT_BYTES_MAX: usize = CONTROL_FRAME_BYTES_MAX - 2 * 1024;

/// The report, or what of it fits into one frame: a larger one could never be sent. What is left out is counted in one
/// last refusal; refusals go first, since an artifact is worth more than the reason why there is none.
fn fitting(mut report: AttemptReport) -> AttemptReport {
    let fits =
        |report: &AttemptReport| serde_json::to_vec(report).is_ok_and(|text| text.len() <= REPORT_BYTES_MAX);
    let mut left_out = 0;
    while !fits(&report) {
        if left_out > 0 {
            report.artifacts_refused.pop();
        }
        let list = (report.artifacts.len(), report.artifacts_refused.len());
        match list {
            (0, 0) => break,
            (artifacts, 0) => report.artifacts.truncate(artifacts * 7 / 8),
            (_, refused) => report.artifacts_refused.truncate(refused / 2),
        }
        left_out += list.0 + list.1 - report.artifacts.len() - report.artifacts_refused.len();
        report.artifacts_refused.push(RefusedArtifact {
            path: "…".to_owned(),
            reason: format!("{left_out} more files have no room in the report: pack them into an archive"),
        });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::attempt::Artifact;
    use common::ids::FileId;

    fn report(artifacts: usize, refused: usize, path_len: usize) -> AttemptReport {
        let path = |place: usize| format!("{place:0>path_len$}");
        AttemptReport {
            artifacts: (0..artifacts)
                .map(|place| Artifact {
                    path: path(place),
                    file: FileId::from_u128(1),
                    bytes: 1,
                    sha256: "0".repeat(64),
                })
                .collect(),
            artifacts_refused: (0..refused)
                .map(|place| RefusedArtifact {
                    path: path(place),
                    reason: "a link".to_owned(),
                })
                .collect(),
            ..AttemptReport::bare(Outcome::Exited { code: 0 })
        }
    }

    #[test]
    fn a_report_always_fits_into_its_frame() {
        for (artifacts, refused, path_len) in [
            (1_000, 100, 20),
            (64, 0, 1_000),
            (0, 100, 1_024),
            (1_000, 0, 1_024),
        ] {
            let fitted = fitting(report(artifacts, refused, path_len));
            assert!(serde_json::to_vec(&fitted).unwrap().len() <= REPORT_BYTES_MAX);
            let last = fitted.artifacts_refused.last().unwrap();
            let kept = fitted.artifacts.len() + fitted.artifacts_refused.len() - 1;
            let left_out = artifacts + refused - kept;
            assert!(
                last.reason.starts_with(&format!("{left_out} more")),
                "{left_out}: {}",
                last.reason
            );
            assert!(artifacts == 0 || !fitted.artifacts.is_empty());
        }
    }

    #[test]
    fn a_report_that_fits_is_left_alone() {
        let small = report(10, 10, 20);
        assert_eq!(fitting(small.clone()), small);
    }
}
