//! Results: held back until every chunk received before them is stored, checked against the stores, then written in
//! the gateway's lane, then acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;

use common::attempt::{AttemptReport, MESSAGE_LEN_MAX, Outcome, RefusedArtifact};
use common::ids::{AttemptId, JobId};
use common::lifecycle::{JobEvent, Refusal};
use common::log::{DroppedRange, LogEnd, MissingLogs, Stream};
use common::protocol::{HELD_ATTEMPTS_MAX, ResultVerdict, ToWorker};
use common::store::{FilePurpose, StoreError, Stores};

use super::known::Standing;
use super::{Connection, Done};
use crate::gateway::Gateway;
use crate::gateway::reports::{Answer, Report};

/// Results of one agent that wait or are being written: as many as it may hold attempts.
const RESULTS_MAX: usize = HELD_ATTEMPTS_MAX;

#[derive(Default)]
pub struct Results {
    waiting: VecDeque<Pending>,
    under_way: Vec<AttemptId>,
}

struct Pending {
    job: JobId,
    attempt: AttemptId,
    report: Box<AttemptReport>,
    /// Chunks received before it.
    after: u64,
}

/// What became of a result.
pub struct Settled {
    pending: Pending,
    answer: Answer,
}

impl Results {
    pub fn is_full(&self) -> bool {
        self.waiting.len() + self.under_way.len() >= RESULTS_MAX
    }

    pub fn is_handling(&self, attempt: AttemptId) -> bool {
        self.under_way.contains(&attempt) || self.waiting.iter().any(|pending| pending.attempt == attempt)
    }
}

impl Connection {
    pub(super) fn result(&mut self, job: JobId, attempt: AttemptId, report: Box<AttemptReport>) {
        if self.results.is_handling(attempt) {
            // The same again; its answer is on its way.
            return;
        }
        self.results.waiting.push_back(Pending {
            job,
            attempt,
            report,
            after: self.chunks.received(),
        });
        self.settle();
    }

    /// Begins with every result whose chunks are stored.
    pub(super) fn settle(&mut self) {
        let stored = self.chunks.stored();
        while self
            .results
            .waiting
            .front()
            .is_some_and(|pending| pending.after <= stored)
        {
            let Some(pending) = self.results.waiting.pop_front() else {
                return;
            };
            self.results.under_way.push(pending.attempt);
            let whole = self.logs_whole(&pending);
            let gateway = Arc::clone(&self.gateway);
            self.begin(async move { Done::Settled(Box::new(write(gateway, pending, whole).await)) });
        }
    }

    pub(super) fn settled(&mut self, settled: Settled) {
        let Settled { pending, answer } = settled;
        let Pending { job, attempt, .. } = pending;
        self.results.under_way.retain(|other| *other != attempt);
        let verdict = match answer {
            Answer::Done | Answer::Refused(Refusal::AlreadyAccepted) => ResultVerdict::Accepted,
            Answer::Refused(refusal) => {
                tracing::warn!(%job, %attempt, %refusal, "a result came too late");
                ResultVerdict::Stale
            }
            Answer::Unknown => ResultVerdict::Stale,
            // Tried again after a moment.
            Answer::StoreAway => {
                self.results.waiting.push_front(pending);
                self.watch.again(self.gateway.clock.mono());
                return;
            }
        };
        if let Some(known) = self.attempts.get(attempt) {
            known.standing = Standing::Stale;
        }
        self.socket.put(&ToWorker::ResultAck {
            job,
            attempt,
            verdict,
        });
    }

    /// Whether this connection itself saw every chunk stored; saves asking the store.
    fn logs_whole(&mut self, pending: &Pending) -> bool {
        let LogEnd { stdout, stderr } = pending.report.logs;
        match self.attempts.get(pending.attempt) {
            Some(known) => {
                known.track(Stream::Stdout).holds(stdout.chunks)
                    && known.track(Stream::Stderr).holds(stderr.chunks)
            }
            None => stdout.chunks == 0 && stderr.chunks == 0,
        }
    }
}

async fn write(gateway: Arc<Gateway>, pending: Pending, whole: bool) -> Settled {
    let Pending {
        job,
        attempt,
        ref report,
        ..
    } = pending;
    let mut report = report.clone();
    shorten(&mut report.outcome);
    let checked = async {
        refuse_unknown_files(&gateway.stores, attempt, &mut report).await?;
        if whole {
            Ok(MissingLogs::default())
        } else {
            missing(&gateway.stores, attempt, &report.logs).await
        }
    };
    let answer = match checked.await {
        Ok(logs_missing) => {
            let event = JobEvent::Finished {
                attempt,
                report,
                logs_missing,
            };
            gateway
                .reports
                .ask(Report { job, event })
                .await
                .unwrap_or(Answer::StoreAway)
        }
        Err(error) => {
            tracing::warn!(%error, %job, %attempt, "a result waits for the store");
            Answer::StoreAway
        }
    };
    Settled { pending, answer }
}

/// What of the reported chunks is not stored and was not dropped on purpose.
async fn missing(stores: &Stores, attempt: AttemptId, logs: &LogEnd) -> Result<MissingLogs, StoreError> {
    let all = stores
        .logs
        .missing(attempt, [logs.stdout.chunks, logs.stderr.chunks])
        .await?;
    Ok(MissingLogs {
        stdout: without(all.stdout, logs.stdout.dropped),
        stderr: without(all.stderr, logs.stderr.dropped),
    })
}

fn without(ranges: Vec<(u64, u64)>, dropped: Option<DroppedRange>) -> Vec<(u64, u64)> {
    let Some(dropped) = dropped else { return ranges };
    ranges
        .into_iter()
        .flat_map(|(from, until)| [(from, until.min(dropped.from)), (from.max(dropped.until), until)])
        .filter(|(from, until)| from < until)
        .take(MissingLogs::RANGES_MAX)
        .collect()
}

/// An artifact that was never brought, or is not this attempt's, is named as refused and not as kept.
async fn refuse_unknown_files(
    stores: &Stores,
    attempt: AttemptId,
    report: &mut AttemptReport,
) -> Result<(), StoreError> {
    let mut kept = Vec::with_capacity(report.artifacts.len());
    for artifact in std::mem::take(&mut report.artifacts) {
        let meta = stores.files.meta(artifact.file).await?;
        let ours = meta.is_some_and(|meta| {
            meta.purpose == FilePurpose::Artifact { attempt }
                // Under the path that was checked when it was brought, and no other.
                && meta.name == artifact.path
                && meta.sha256 == artifact.sha256
                && meta.bytes == artifact.bytes
        });
        if ours {
            kept.push(artifact);
        } else {
            let reason = "the file was not stored for this attempt".to_owned();
            report.artifacts_refused.push(RefusedArtifact {
                path: artifact.path,
                reason,
            });
        }
    }
    report.artifacts = kept;
    Ok(())
}

/// Explanations are for people, and have a length.
fn shorten(outcome: &mut Outcome) {
    match outcome {
        Outcome::NotStarted { message, .. }
        | Outcome::ImageUnavailable { message }
        | Outcome::RejectedByWorker { message }
        | Outcome::InfraError { message } => {
            cut(message);
        }
        Outcome::Cancelled { why: Some(why), .. } => cut(why),
        Outcome::Exited { .. }
        | Outcome::Signaled { .. }
        | Outcome::OomKilled
        | Outcome::RunTimeout
        | Outcome::QueueTimeout
        | Outcome::Cancelled { why: None, .. }
        | Outcome::WorkerLost => {}
    }
}

fn cut(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MESSAGE_LEN_MAX) {
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_on_purpose_is_not_missing() {
        let dropped = Some(DroppedRange {
            from: 10,
            until: 20,
            bytes: 1,
        });
        assert_eq!(without(vec![(10, 20)], dropped), vec![]);
        assert_eq!(without(vec![(5, 25)], dropped), vec![(5, 10), (20, 25)]);
        assert_eq!(without(vec![(1, 3), (30, 31)], dropped), vec![(1, 3), (30, 31)]);
        assert_eq!(without(vec![(12, 15)], None), vec![(12, 15)]);
    }

    #[test]
    fn long_explanations_are_cut_between_characters() {
        let mut outcome = Outcome::InfraError {
            message: "ä".repeat(5_000),
        };
        shorten(&mut outcome);
        assert_eq!(
            outcome,
            Outcome::InfraError {
                message: "ä".repeat(MESSAGE_LEN_MAX)
            }
        );
    }
}
