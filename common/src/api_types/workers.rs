//! Registered workers as everybody who is signed in sees them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ids::{PoolName, WorkerId};
use crate::time::Timestamp;
use crate::worker::{Condition, Worker};

use super::ResourcesBody;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    pub id: WorkerId,
    pub pool: PoolName,
    pub hostname: String,
    pub os: String,
    pub architecture: String,
    pub version: String,
    pub labels: BTreeMap<String, String>,
    /// What the node's owner gives to jobs.
    pub capacity: ResourcesBody,
    /// How many attempts at the same time.
    #[schema(maximum = 4294967295u64)]
    pub slots: u32,
    /// Whether it can start jobs, by its own word.
    pub ready: bool,
    /// Why not, where it cannot.
    pub reasons: Vec<String>,
    /// Finishes what runs and takes nothing new.
    pub draining: bool,
    pub notes: Vec<String>,
    pub load: LoadView,
    pub registered_at: Timestamp,
    /// When it was heard last.
    pub heard_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadView {
    #[schema(maximum = 100)]
    pub cpu_percent: u8,
    #[schema(maximum = 4294967295u64)]
    pub memory_free_mib: u32,
    #[schema(maximum = 4294967295u64)]
    pub disk_free_mib: u32,
    #[schema(maximum = 4294967295u64)]
    pub running: u32,
}

impl From<Worker> for WorkerView {
    fn from(worker: Worker) -> Self {
        let description = worker.description;
        let capacity = description.capacity;
        let (ready, reasons) = match worker.condition {
            Condition::Ready => (true, Vec::new()),
            Condition::Unready { reasons } => (false, reasons),
        };
        Self {
            id: worker.id,
            pool: description.pool,
            hostname: description.hostname,
            os: description.os,
            architecture: description.architecture,
            version: description.version,
            labels: description.labels,
            capacity: ResourcesBody {
                cpu_millis: Some(capacity.cpu_millis),
                memory_mib: Some(capacity.memory_mib),
                disk_mib: Some(capacity.disk_mib),
            },
            slots: capacity.slots,
            ready,
            reasons,
            draining: worker.draining,
            notes: description.notes,
            load: LoadView {
                cpu_percent: worker.load.cpu_percent,
                memory_free_mib: worker.load.memory_free_mib,
                disk_free_mib: worker.load.disk_free_mib,
                running: worker.load.running,
            },
            registered_at: worker.registered_at,
            heard_at: worker.heard_at,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    pub workers: Vec<WorkerView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainBody {
    /// False: it takes work again.
    pub draining: bool,
}
