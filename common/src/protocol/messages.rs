//! The messages. Every one about an attempt carries job and attempt id.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::AttemptReport;
use crate::ids::{AccountId, AttemptId, FileId, JobId, SessionId};
use crate::job::{JobSpec, millis};
use crate::log::{LOG_BYTES_MAX_DEFAULT, Stream};
use crate::worker::{Condition, Load, WorkerDescription};

/// From the agent to its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum FromWorker {
    /// First on every connection. Counts as heartbeat number 0.
    Hello {
        protocol: u32,
        /// The session that the agent's journal names, if any.
        session: Option<SessionId>,
        description: WorkerDescription,
        condition: Condition,
        draining: bool,
        /// Every attempt held: running, or ended with a result that is not acknowledged.
        attempts: Vec<HeldAttempt>,
    },
    Heartbeat {
        number: u64,
        attempts: Vec<HeldAttempt>,
        condition: Condition,
        draining: bool,
        load: Load,
    },
    /// The process runs (or an attempt that was assigned twice already did).
    Started { job: JobId, attempt: AttemptId },
    /// The agent has begun to end the attempt.
    CancelAck { job: JobId, attempt: AttemptId },
    /// A chunk as text, base64; agents of ours send binary frames instead.
    LogChunk {
        job: JobId,
        attempt: AttemptId,
        stream: Stream,
        seq: u64,
        data: String,
    },
    Result {
        job: JobId,
        attempt: AttemptId,
        report: Box<AttemptReport>,
    },
}

/// From the gateway to its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub enum ToWorker {
    Welcome {
        protocol: u32,
        session: SessionId,
        /// False: a new session has begun, and nothing of an older one is to go on.
        resumed: bool,
        settings: WorkerSettings,
        verdicts: Vec<VerdictFor>,
    },
    JobAssign(Box<Assignment>),
    #[serde(alias = "job-cancel")]
    Cancel {
        job: JobId,
        attempt: AttemptId,
        why: Option<String>,
    },
    /// Sent after the renewal is stored.
    HeartbeatAck {
        number: u64,
        verdicts: Vec<VerdictFor>,
    },
    /// Every chunk of the stream up to and including `seq` is stored. `stale`: the attempt is not current any more,
    /// nothing further is wanted.
    LogAck {
        job: JobId,
        attempt: AttemptId,
        stream: Stream,
        seq: u64,
        stale: bool,
    },
    ResultAck {
        job: JobId,
        attempt: AttemptId,
        verdict: ResultVerdict,
    },
    /// Finish what runs, take nothing new.
    Drain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldAttempt {
    pub job: JobId,
    pub attempt: AttemptId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Keep,
    /// The attempt is not this session's to run: end it, its result is not wanted.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictFor {
    pub attempt: AttemptId,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultVerdict {
    /// Stored, now or before.
    Accepted,
    /// The attempt was not current: drop it.
    Stale,
}

/// What the control plane asks of an agent, as durations on the agent's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSettings {
    /// H.
    #[serde(with = "millis", rename = "heartbeat_ms")]
    pub heartbeat: Duration,
    /// T: unheard for this long, the session is lost.
    #[serde(with = "millis", rename = "lost_after_ms")]
    pub lost_after: Duration,
    /// G: the agent's containers have ended by T - G after the sending of the last acknowledged heartbeat.
    #[serde(with = "millis", rename = "kill_grace_ms")]
    pub kill_grace: Duration,
    #[serde(with = "millis", rename = "ping_ms")]
    pub ping: Duration,
    #[serde(with = "millis", rename = "pong_deadline_ms")]
    pub pong_deadline: Duration,
}

/// A job given to this agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub job: JobId,
    pub attempt: AttemptId,
    /// 1 for the first.
    pub number: u32,
    pub account: AccountId,
    pub spec: JobSpec,
    /// What `spec.inputs` names, in the same order.
    pub inputs: Vec<InputSource>,
    /// Cap of the log, both streams together.
    #[serde(default = "log_bytes_max_default")]
    pub log_bytes_max: u64,
}

const fn log_bytes_max_default() -> u64 {
    LOG_BYTES_MAX_DEFAULT
}

/// A file that the agent fetches for an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSource {
    pub file: FileId,
    pub bytes: u64,
    pub sha256: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_type_in_kebab_case() {
        let text = serde_json::to_string(&FromWorker::CancelAck {
            job: JobId::from_u128(1),
            attempt: AttemptId::from_u128(2),
        })
        .unwrap();
        assert!(text.starts_with(r#"{"type":"cancel-ack","job":"job_"#), "{text}");
    }

    #[test]
    fn cancel_is_also_spelt_job_cancel() {
        let id = JobId::from_u128(1);
        let attempt = AttemptId::from_u128(2);
        let text = format!(r#"{{"type":"job-cancel","job":"{id}","attempt":"{attempt}","why":null}}"#);
        assert_eq!(
            serde_json::from_str::<ToWorker>(&text).unwrap(),
            ToWorker::Cancel {
                job: id,
                attempt,
                why: None
            }
        );
    }
}
