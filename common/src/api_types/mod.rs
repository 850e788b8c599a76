//! What travels over `/api/v1`: requests and answers as the server, the shell and the generated clients see them.
//!
//! Requests refuse fields that they do not know. Answers are made from the domain's own types here and nowhere else,
//! so that what is internal (revision, epoch, sessions, hashes) stays inside, but for administrators. Times are milliseconds since 1970 (UTC).

mod auth;
mod explain;
mod files;
mod follow;
mod jobs;
mod logs;
pub mod paths;
mod problem;
mod schema;
mod workers;

pub use self::auth::{
    AccountView, ChangePassword, CreateAccount, CreateKey, CreateUser, DisableBody, KeyCreated, KeyList,
    KeyView, LoginAnswer, LoginRequest, UserView,
};
pub use self::explain::{
    ActorKind, ActorView, BulkWaitView, EndingView, EstimateView, ExplainView, FleetView, LackKind, LackView,
    LimitKind, LimitView, PlaceView, RoomView, RunningView, VerdictCount, VerdictView, WaitingView,
    WillWaitView,
};
pub use self::files::{ArtifactView, ArtifactsView, FileList, FileView};
pub use self::follow::{
    BadFrame, FRAMES_CONTENT_TYPE, FollowEvent, FollowedChunk, FrameReader, frame, idle_frame,
};
pub use self::jobs::{
    AttemptView, BulkAnswer, CancelRequestBody, CancelView, CommandBody, InputBody, JobList, JobView,
    LimitsBody, OutcomeView, RefusedArtifactView, ResourcesBody, RetryBody, StateCounts, SubmitBulk,
    SubmitJob, TimingsView, UsageView,
};
pub use self::logs::{AttemptEvent, EndEvent, EventId, LogChunkView, LogPageView, StateEvent, event};
pub use self::problem::{FieldProblem, PROBLEM_CONTENT_TYPE, Problem};
pub use self::workers::{DrainBody, LoadView, WorkerList, WorkerView};

/// The largest integer that every JSON reader holds exactly; the bound of every large number in the interface.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Whole milliseconds, within what every JSON reader holds exactly.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(INTEGER_MAX)
        .min(INTEGER_MAX)
}
