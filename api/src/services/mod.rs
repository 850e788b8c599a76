//! What stands between a handler and the stores where more than one call is needed.

pub mod admission;
pub mod explain;
pub mod fleet;
pub mod follow;
pub mod identity;
pub mod job_watch;
pub mod logs;
pub mod submit;
pub mod until_end;
pub mod waiting;
