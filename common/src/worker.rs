//! Registered agents and their sessions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, PoolName, SessionId, WorkerId};
use crate::job::Resources;
use crate::time::Timestamp;

/// A registered agent, as it described itself last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    pub id: WorkerId,
    pub description: WorkerDescription,
    pub condition: Condition,
    /// An administrator's or the node owner's wish: finish what runs, take nothing new.
    pub draining: bool,
    /// The session that speaks for it; older ones age until they are lost.
    pub session: Option<SessionId>,
    /// The session's connection that said hello last.
    #[serde(default)]
    pub conn: u64,
    pub registered_at: Timestamp,
    /// Calendar time of the last word from it, for people; contact and lease are judged by beats.
    pub heard_at: Timestamp,
    pub load: Load,
}

/// What an agent says of itself in `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerDescription {
    pub version: String,
    pub hostname: String,
    pub os: String,
    pub architecture: String,
    pub pool: PoolName,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub capacity: Capacity,
    /// Facts that a placement or an operator may want: `no_disk_quota`, `runc 1.1.5`, ….
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What the node's owner gives to jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    pub cpu_millis: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    /// How many attempts at the same time.
    pub slots: u32,
}

impl Capacity {
    pub const NOTHING: Self = Self {
        cpu_millis: 0,
        memory_mib: 0,
        disk_mib: 0,
        slots: 0,
    };

    /// Whether an idle worker of this size could run it.
    pub const fn could_hold(&self, wanted: &Resources) -> bool {
        self.slots > 0
            && self.cpu_millis >= wanted.cpu_millis
            && self.memory_mib >= wanted.memory_mib
            && self.disk_mib >= wanted.disk_mib
    }

    /// With one more attempt of this size; held at the end of the range.
    #[must_use]
    pub const fn with(self, more: &Resources) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(more.cpu_millis),
            memory_mib: self.memory_mib.saturating_add(more.memory_mib),
            disk_mib: self.disk_mib.saturating_add(more.disk_mib),
            slots: self.slots.saturating_add(1),
        }
    }

    /// With one attempt of this size less.
    #[must_use]
    pub const fn without(self, less: &Resources) -> Self {
        self.minus(&Self::NOTHING.with(less))
    }

    /// What is left when `taken` is taken away; never below nothing.
    #[must_use]
    pub const fn minus(self, taken: &Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_sub(taken.cpu_millis),
            memory_mib: self.memory_mib.saturating_sub(taken.memory_mib),
            disk_mib: self.disk_mib.saturating_sub(taken.disk_mib),
            slots: self.slots.saturating_sub(taken.slots),
        }
    }
}

/// Whether the agent can start jobs now, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Condition {
    #[default]
    Ready,
    /// It takes no new work; each reason is a sentence ("the engine does not answer", "disk: 120 MiB free …").
    Unready { reasons: Vec<String> },
}

impl Condition {
    pub const fn is_ready(&self) -> bool {
        match self {
            Self::Ready => true,
            Self::Unready { .. } => false,
        }
    }

    /// Also not ready for this reason, where there is one.
    #[must_use]
    pub fn and(self, reason: Option<String>) -> Self {
        let mut reasons = match self {
            Self::Ready => Vec::new(),
            Self::Unready { reasons } => reasons,
        };
        reasons.extend(reason);
        if reasons.is_empty() {
            Self::Ready
        } else {
            Self::Unready { reasons }
        }
    }
}

/// Use of the node, for pages; decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Load {
    pub cpu_percent: u8,
    pub memory_free_mib: u32,
    pub disk_free_mib: u32,
    pub running: u32,
    /// Attempts whose image is being fetched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pulling: Vec<AttemptId>,
}

/// A worker's session with the control plane: the lease of all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub worker: WorkerId,
    /// Raised by each renewal; a count and never a time, so that a paused gateway cannot turn it back.
    pub beat: u64,
    /// The connection that speaks for the session; a higher one has replaced all lower ones.
    pub conn: u64,
    /// Final.
    pub lost: bool,
    pub opened_at: Timestamp,
}
