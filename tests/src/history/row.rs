//! A job's row as a history keeps it: what the laws ask for, and a hash of all the rest.

use common::api_types::{AttemptView, JobView};
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::StateName;
use common::time::Timestamp;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Key;
use crate::client::brief;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    pub job: JobId,
    pub key: Key,
    pub state: StateName,
    pub attempts: Vec<AttemptRow>,
    pub attempts_total: u32,
    pub retries_max: u32,
    pub infra_retries: u32,
    /// One more with each write.
    pub revision: u64,
    /// The term of the leader that wrote last.
    pub epoch: u64,
    /// Of everything that a reader sees of the job.
    pub hash: String,
    /// What became of it, in words for whoever looks for the reason of a failure.
    pub told: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRow {
    pub id: AttemptId,
    pub number: u32,
    pub worker: WorkerId,
    pub session: Option<SessionId>,
    pub assigned_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// The word of its outcome.
    pub outcome: Option<String>,
    /// Its log is told to be incomplete.
    pub log_incomplete: bool,
}

impl From<&JobView> for Row {
    fn from(job: &JobView) -> Self {
        let text = serde_json::to_vec(job).unwrap_or_default();
        Self {
            job: job.id,
            key: job.name.clone().unwrap_or_default(),
            state: job.state,
            attempts: job.attempts.iter().map(AttemptRow::from).collect(),
            attempts_total: job.attempts_total,
            retries_max: job.spec.retry.max_retries.unwrap_or(0),
            infra_retries: job.infra_retries,
            // whoever is shown none reads many rows of revision 0, which the laws do not let pass
            revision: job.revision.unwrap_or(0),
            epoch: job.epoch.unwrap_or(0),
            hash: HEXLOWER.encode(&Sha256::digest(text)),
            told: brief(job),
        }
    }
}

impl From<&AttemptView> for AttemptRow {
    fn from(attempt: &AttemptView) -> Self {
        Self {
            id: attempt.id,
            number: attempt.number,
            worker: attempt.worker.clone(),
            session: attempt.session,
            assigned_at: attempt.assigned_at,
            ended_at: attempt.ended_at,
            outcome: attempt.outcome.as_ref().map(|outcome| outcome.kind.clone()),
            log_incomplete: attempt.logs_missing.is_some(),
        }
    }
}

impl AttemptRow {
    /// It ended by the infrastructure's doing, so its end is not the job's.
    pub fn was_infrastructure(&self) -> bool {
        matches!(
            self.outcome.as_deref(),
            Some("worker_lost" | "infra_error" | "image_unavailable" | "rejected_by_worker")
        )
    }
}
