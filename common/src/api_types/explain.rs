//! Why a job waits, where it runs, how it ended.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::jobs::{AttemptView, OutcomeView};
use super::{INTEGER_MAX, millis};
use crate::explain::{
    Actor, Detail, Ending, Estimate, Explanation, LimitHit, Method, Place, Reason, Room, Running, Verdict,
    VerdictKind, Verdicts, Waiting, signal_name,
};
use crate::fit::{Lack, Size};
use crate::ids::{JobId, WorkerId};
use crate::job::{Job, StateName};
use crate::time::Timestamp;

/// Why a job is where it is. One of `waiting`, `running` and `ending` is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    pub job: JobId,
    pub state: StateName,
    /// When this was said. What it is said of may be a second older.
    pub at: Timestamp,
    /// All of it in a sentence or two.
    pub sentence: String,
    /// What to do about it, where something can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Of a job that is scheduled, queued or assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<RunningView>,
    /// Of a job that has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<EndingView>,
    /// The last 16, oldest first, each with its own ending.
    pub attempts: Vec<AttemptView>,
    #[schema(maximum = 4294967295u64)]
    pub attempts_total: u32,
}

impl ExplainView {
    pub fn of(job: &Job, explanation: Explanation<'_>, at: Timestamp) -> Self {
        let mut view = Self {
            job: job.id,
            state: job.state.name(),
            at,
            sentence: explanation.sentence,
            next: explanation.next,
            waiting: None,
            running: None,
            ending: None,
            attempts: job
                .attempts
                .iter()
                .map(|attempt| AttemptView::of(job, attempt))
                .collect(),
            attempts_total: job.attempts_total,
        };
        match explanation.detail {
            Detail::Waiting(waiting) => view.waiting = Some(WaitingView::from(*waiting)),
            Detail::Running(running) => view.running = Some(RunningView::from(running)),
            Detail::Ended(ending) => view.ending = Some(EndingView::from(*ending)),
        }
        view
    }
}

/// The one reason why a job does not run yet, with the facts behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingView {
    pub reason: Reason,
    /// In this state.
    pub since: Timestamp,
    /// With `backoff` and `not_before`: when it will be queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With `backoff`: how the attempt before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<OutcomeView>,
    /// With `image_pulling` and `starting`: who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// While it is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<PlaceView>,
    /// Where its account has a limit of attempts at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<RoomView>,
    /// What each worker has to say, until one has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetView>,
    /// Absent where nothing can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<EstimateView>,
    /// When it stops waiting and fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_up_at: Option<Timestamp>,
}

impl From<Waiting<'_>> for WaitingView {
    fn from(waiting: Waiting<'_>) -> Self {
        Self {
            reason: waiting.reason,
            since: waiting.since,
            until: waiting.until,
            after: waiting.after.map(OutcomeView::from),
            worker: waiting.worker.cloned(),
            place: waiting.place.map(PlaceView::from),
            account: waiting.room.map(RoomView::from),
            fleet: waiting.verdicts.as_ref().map(FleetView::from),
            estimate: waiting.estimate.map(EstimateView::from),
            gives_up_at: waiting.gives_up_at,
        }
    }
}

/// Why a job will wait that was just taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WillWaitView {
    pub reason: Reason,
    pub sentence: String,
}

/// The same of some jobs of a bulk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkWaitView {
    pub reason: Reason,
    /// Of the first of them.
    pub sentence: String,
    /// How many.
    #[schema(maximum = 1000)]
    pub jobs: u32,
}

/// Where it stands in the queue. Accounts take turns, so there is no one order of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaceView {
    /// Jobs of its account and class before it.
    #[schema(maximum = 9007199254740991u64)]
    pub before: u64,
    /// Jobs of its account and class that wait, itself included.
    #[schema(maximum = 9007199254740991u64)]
    pub of: u64,
    /// Jobs of its account that wait.
    #[schema(maximum = 9007199254740991u64)]
    pub account: u64,
    /// Jobs that wait in all.
    #[schema(maximum = 9007199254740991u64)]
    pub all: u64,
}

impl From<Place> for PlaceView {
    fn from(place: Place) -> Self {
        Self {
            before: place.before.min(INTEGER_MAX),
            of: place.of.min(INTEGER_MAX),
            account: place.account.min(INTEGER_MAX),
            all: place.all.min(INTEGER_MAX),
        }
    }
}

/// What the account has, and may have, at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoomView {
    #[schema(maximum = 4294967295u64)]
    pub running: u32,
    #[schema(maximum = 4294967295u64)]
    pub running_max: u32,
}

impl From<Room> for RoomView {
    fn from(room: Room) -> Self {
        Self {
            running: room.running,
            running_max: room.running_max,
        }
    }
}

/// What the registered workers have to say to a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// Nearest to running it first; 200 at the most.
    #[schema(max_items = 200)]
    pub workers: Vec<VerdictView>,
    /// Of all workers.
    pub counts: Vec<VerdictCount>,
}

impl From<&Verdicts<'_>> for FleetView {
    fn from(verdicts: &Verdicts<'_>) -> Self {
        Self {
            workers: verdicts.shown.iter().map(VerdictView::from).collect(),
            counts: verdicts
                .counts
                .iter()
                .map(|(verdict, workers)| VerdictCount {
                    verdict: *verdict,
                    workers: *workers,
                })
                .collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictCount {
    pub verdict: VerdictKind,
    #[schema(maximum = 4294967295u64)]
    pub workers: u32,
}

/// Of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerdictView {
    pub worker: WorkerId,
    pub verdict: VerdictKind,
    /// The same in words.
    pub words: String,
    /// With `busy`, `reserved` and `unsuitable`: each thing that is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<LackView>,
    /// With `away`: since the last word from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9007199254740991u64)]
    pub silent_ms: Option<u64>,
    /// With `not_ready`: its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// With `reserved`: the job that its room is held for, if it is of the same account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_for: Option<JobId>,
    /// With `reserved`: since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
}

impl From<&Verdict<'_>> for VerdictView {
    fn from(verdict: &Verdict<'_>) -> Self {
        Self {
            worker: verdict.worker.clone(),
            verdict: verdict.kind,
            words: verdict.to_string(),
            lacks: verdict.lacks.iter().map(LackView::from).collect(),
            silent_ms: verdict.silent.map(millis),
            reasons: verdict.reasons.to_vec(),
            held_for: verdict.kept.and_then(|(room, _)| room.job),
            held_since: verdict.kept.map(|(room, _)| room.since),
        }
    }
}

/// Something that a worker does not have. Of a pool or a label `wanted` and `found`, of a size `needs`, `free` and `of`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LackView {
    pub what: LackKind,
    /// The label's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4294967295u64)]
    pub needs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4294967295u64)]
    pub free: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4294967295u64)]
    pub of: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LackKind {
    Pool,
    Label,
    CpuMillis,
    MemoryMib,
    DiskMib,
    Slots,
    /// Both the job and another that the worker has were lost repeatedly: such are kept apart.
    Apart,
}

impl From<&Lack<'_>> for LackView {
    fn from(lack: &Lack<'_>) -> Self {
        let text = |what, name: Option<&str>, wanted: &str, found: Option<&str>| Self {
            what,
            name: name.map(str::to_owned),
            wanted: Some(wanted.to_owned()),
            found: found.map(str::to_owned),
            needs: None,
            free: None,
            of: None,
        };
        match *lack {
            Lack::Pool { wanted, found } => text(LackKind::Pool, None, wanted.as_str(), Some(found.as_str())),
            Lack::Label { name, wanted, found } => text(LackKind::Label, Some(name), wanted, found),
            Lack::Apart => Self {
                what: LackKind::Apart,
                name: None,
                wanted: None,
                found: None,
                needs: None,
                free: None,
                of: None,
            },
            Lack::Size {
                what,
                needs,
                free,
                of,
            } => Self {
                what: match what {
                    Size::CpuMillis => LackKind::CpuMillis,
                    Size::MemoryMib => LackKind::MemoryMib,
                    Size::DiskMib => LackKind::DiskMib,
                    Size::Slots => LackKind::Slots,
                },
                name: None,
                wanted: None,
                found: None,
                needs: Some(needs),
                free: Some(free),
                of: Some(of),
            },
        }
    }
}

/// When it may start, and how that was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EstimateView {
    pub at: Timestamp,
    pub method: Method,
    /// What was assumed.
    pub sentence: String,
}

impl From<Estimate> for EstimateView {
    fn from(estimate: Estimate) -> Self {
        Self {
            at: held(estimate.at),
            method: estimate.method,
            sentence: estimate.sentence,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningView {
    pub worker: WorkerId,
    pub since: Timestamp,
    /// When its limit of time ends it.
    pub ends_by: Timestamp,
    /// Since the last word from its worker; absent where the worker is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9007199254740991u64)]
    pub worker_silent_ms: Option<u64>,
    /// Cancel was asked for and is not confirmed yet.
    pub cancelling: bool,
}

impl From<Running<'_>> for RunningView {
    fn from(running: Running<'_>) -> Self {
        Self {
            worker: running.worker.clone(),
            since: running.since,
            ends_by: held(running.ends_by),
            worker_silent_ms: running.silent.map(millis),
            cancelling: running.cancelling,
        }
    }
}

/// How a job or an attempt ended: what happened, by whom, on which evidence, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndingView {
    pub at: Timestamp,
    /// The outcome's word.
    pub cause: String,
    pub actor: ActorView,
    /// What happened.
    pub sentence: String,
    /// What to do next; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Such as `SEGV`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal_name: Option<String>,
    /// The job's own limit that it went over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<LimitView>,
    /// From the start of the process to the end of the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 9007199254740991u64)]
    pub ran_ms: Option<u64>,
}

impl From<Ending<'_>> for EndingView {
    fn from(ending: Ending<'_>) -> Self {
        Self {
            at: ending.at,
            cause: ending.cause.to_owned(),
            actor: ActorView::from(&ending.actor),
            sentence: ending.sentence,
            next: ending.next,
            worker: ending.worker.cloned(),
            exit_code: ending.exit_code,
            signal: ending.signal,
            signal_name: ending.signal.and_then(signal_name).map(str::to_owned),
            limit: ending.limit.map(LimitView::from),
            ran_ms: ending.ran.map(millis),
        }
    }
}

/// Who made it end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ActorView {
    pub kind: ActorKind,
    /// Of a user or a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The command itself.
    Job,
    User,
    /// The control plane.
    System,
    /// Its kernel, its engine, its owner's rules.
    Worker,
}

impl From<&Actor<'_>> for ActorView {
    fn from(actor: &Actor<'_>) -> Self {
        let (kind, name) = match actor {
            Actor::Job => (ActorKind::Job, None),
            Actor::User(user) => (ActorKind::User, Some(user.to_string())),
            Actor::System => (ActorKind::System, None),
            Actor::Worker(worker) => (ActorKind::Worker, Some(worker.to_string())),
        };
        Self { kind, name }
    }
}

/// A limit of the job, by its name in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitView {
    pub what: LimitKind,
    #[schema(maximum = 9007199254740991u64)]
    pub value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    MemoryMib,
    RunMs,
    QueueMs,
}

impl From<LimitHit> for LimitView {
    fn from(limit: LimitHit) -> Self {
        let (what, value) = match limit {
            LimitHit::MemoryMib(mib) => (LimitKind::MemoryMib, u64::from(mib)),
            LimitHit::Run(limit) => (LimitKind::RunMs, millis(limit)),
            LimitHit::Queue(limit) => (LimitKind::QueueMs, millis(limit)),
        };
        Self { what, value }
    }
}

/// Within what every JSON reader holds exactly.
fn held(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(at.as_millis().min(INTEGER_MAX.cast_signed()))
}
