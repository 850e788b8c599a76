//! The one shape of errors (RFC 9457).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::FleetView;

pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, for programs (`code`) and for people (`detail`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A reference that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// A stable word to decide on.
    pub code: String,
    /// Names this request in our logs.
    pub request_id: String,
    /// The fields at fault, where any are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// With `no_worker_could_run_it`: what each worker has to say, of the first job at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// As a path, such as `resources.memory_mib`.
    pub field: String,
    pub code: String,
    pub message: String,
}

impl From<crate::job::FieldError> for FieldProblem {
    fn from(error: crate::job::FieldError) -> Self {
        Self {
            field: error.field,
            code: error.code.to_owned(),
            message: error.message,
        }
    }
}
