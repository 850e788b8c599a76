//! Why a job waits, where it runs, how it ended: facts in, explanation out. Pure.
//!
//! A job that waits has exactly one [`Reason`] of a closed list, with the facts behind it: its place in the queue, a
//! verdict for each worker, and an estimate of its start where one can be made. A job that has ended has a page that
//! says by whom, by which evidence, and what to do next ([`Ending`]). And a job that no registered worker could ever
//! run is told so before it is stored ([`admit`]).
//!
//! Whoever gathers the facts may be a second late; the sentences say what was seen, never more. Whether a worker fits is
//! asked of [`crate::fit`], as placement does.

mod admission;
mod ending;
mod estimate;
mod fleet;
mod kept;
mod reason;
mod summary;
mod verdict;
mod waiting;

pub use self::admission::{Admission, admit};
pub use self::ending::{Actor, Ending, LimitHit, signal_name};
pub use self::estimate::{Estimate, Method, Typical};
pub use self::fleet::{Fleet, Holding, Seen};
pub use self::kept::{KeptRoom, KeptRooms};
pub use self::reason::Reason;
pub use self::verdict::{Verdict, VerdictKind, Verdicts};
pub use self::waiting::{Detail, Explanation, Facts, Place, Room, Running, Waiting, explain};
