//! Jobs as they are asked for ([`SubmitJob`]) and as they stand ([`JobView`]).

mod attempt;
mod request;
mod view;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::attempt::{AttemptView, OutcomeView, RefusedArtifactView, TimingsView, UsageView};
pub use self::request::{CommandBody, InputBody, LimitsBody, ResourcesBody, RetryBody, SubmitJob};
pub use self::view::{CancelView, JobView};
use super::BulkWaitView;
use crate::ids::JobId;

/// Up to 1,000 jobs; all are stored, or none where any breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitBulk {
    #[schema(min_items = 1, max_items = 1000)]
    pub jobs: Vec<SubmitJob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkAnswer {
    /// In the order of the request.
    pub ids: Vec<JobId>,
    /// Why some of them will wait, by reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<BulkWaitView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequestBody {
    /// For people; at most 500 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500)]
    pub why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// Newest first.
    pub jobs: Vec<JobView>,
    /// `cursor` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How many of the account's jobs are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct StateCounts {
    #[schema(maximum = 9007199254740991u64)]
    pub scheduled: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub queued: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub assigned: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub running: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub succeeded: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub failed: u64,
    #[schema(maximum = 9007199254740991u64)]
    pub cancelled: u64,
}
