//! The table of the rows: what each injects, and what it needs.

use std::time::Duration;

use super::fault::Fault;

/// Jobs of a row, most of them without containers.
pub const JOBS: usize = 500;
/// Of them real containers, where the row needs any.
pub const CONTAINERS: usize = 50;
/// Jobs in the long queue.
pub const CROWD: usize = 50_000;
/// Injections of a row where the matrix asks for no more.
pub const INJECTIONS: usize = 5;

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    pub plays: Plays,
}

/// Names the folder of the programs without fences (scripts/faults builds them).
pub const UNFENCED: &str = "PROGRAMS_WITHOUT_FENCES";

/// How a row is played.
#[derive(Debug, Clone, Copy)]
pub enum Plays {
    /// A fault again and again while jobs come.
    Fault(Setting),
    /// The same over programs that were built without fences: it holds when the laws are broken, and shows that they see
    /// it. They are the programs of the folder that [`UNFENCED`] names.
    Control(Setting),
}

#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub fault: Fault,
    pub injections: usize,
    pub containers: usize,
    /// Simulated agents.
    pub simulated: usize,
    pub schedulers: usize,
    /// An engine of its own, which may be stopped.
    pub own_engine: bool,
    /// A Redis whose clock can be turned.
    pub turns_clock: bool,
    /// No attempt may be lost: each job ends well at its first.
    pub lossless: bool,
    /// Late results that have to be seen refused, so that the fencing was really tried.
    pub refused_least: usize,
    /// Writes of a leader whose term was over that have to be seen refused, for the same reason.
    pub stale_writes_least: usize,
    /// Another account's jobs that wait from the beginning.
    pub crowd: usize,
}

/// What most rows have.
const fn of(fault: Fault) -> Setting {
    Setting {
        fault,
        injections: INJECTIONS,
        containers: 0,
        simulated: 2,
        schedulers: 2,
        own_engine: false,
        turns_clock: false,
        lossless: true,
        refused_least: 0,
        stale_writes_least: 0,
        crowd: 0,
    }
}

impl Setting {
    const fn times(self, injections: usize) -> Self {
        Self { injections, ..self }
    }

    const fn in_containers(self) -> Self {
        Self {
            containers: CONTAINERS,
            ..self
        }
    }

    const fn may_lose(self) -> Self {
        Self {
            lossless: false,
            ..self
        }
    }

    const fn refusing(self, refused_least: usize) -> Self {
        Self {
            refused_least,
            ..self
        }
    }

    const fn refusing_writes(self, stale_writes_least: usize) -> Self {
        Self {
            stale_writes_least,
            ..self
        }
    }

    const fn beside_a_crowd(self) -> Self {
        Self { crowd: CROWD, ..self }
    }

    const fn with_agents(self, simulated: usize) -> Self {
        Self { simulated, ..self }
    }

    const fn turning_clocks(self) -> Self {
        Self {
            turns_clock: true,
            ..self
        }
    }

    const fn on_its_own_engine(self) -> Self {
        Self {
            own_engine: true,
            ..self
        }
    }
}

const fn fault(id: &'static str, what: &'static str, setting: Setting) -> Row {
    Row {
        id,
        what,
        plays: Plays::Fault(setting),
    }
}

const fn control(id: &'static str, what: &'static str, setting: Setting) -> Row {
    Row {
        id,
        what,
        plays: Plays::Control(setting),
    }
}

pub const ROWS: &[Row] = &[
    fault(
        "F1",
        "the leader is killed",
        of(Fault::LeaderKilled).in_containers(),
    ),
    fault(
        "F2",
        "the leader stands still for three lives of its lock",
        of(Fault::LeaderStopped).in_containers().refusing_writes(5),
    ),
    control(
        "F2 without fences",
        "the same, and its late writes are not checked: the laws have to break",
        of(Fault::LeaderStopped).in_containers().may_lose(),
    ),
    fault(
        "F3",
        "the leader is cut off from Redis",
        of(Fault::LeaderWithoutRedis).in_containers(),
    ),
    fault(
        "F4",
        "the leader is cut off from MongoDB",
        of(Fault::LeaderWithoutMongo).in_containers(),
    ),
    fault(
        "F5",
        "Redis is killed and comes back empty at once",
        of(Fault::RedisRestarted).in_containers(),
    ),
    fault(
        "F6",
        "Redis is wiped, and again while the queue is made anew",
        of(Fault::RedisWiped).in_containers().times(10),
    ),
    fault(
        "F6b",
        "Redis is wiped: revoked sessions and used nonces stay refused",
        of(Fault::RedisForgets),
    ),
    fault(
        "F7",
        "programs are started over a Redis that evicts",
        of(Fault::RedisEvicts),
    ),
    fault(
        "F8",
        "Redis holds its connections and does not answer",
        of(Fault::RedisSilent).in_containers(),
    ),
    fault(
        "F9",
        "MongoDB (one node) is killed and started again",
        of(Fault::MongoKilled).in_containers(),
    ),
    fault(
        "F11",
        "MongoDB is killed 60 times, each time under writes",
        of(Fault::MongoKilledQuickly).times(60),
    ),
    fault(
        "F12",
        "an agent is killed, and comes back at once, soon, or after its lease",
        of(Fault::AgentKilled).in_containers().may_lose(),
    ),
    fault(
        "F13",
        "an agent stands still past its lease, until its jobs run elsewhere",
        of(Fault::AgentStopped).in_containers().may_lose().refusing(5),
    ),
    control(
        "F13 without fences",
        "the same, and its late results are not checked: the laws have to break",
        of(Fault::AgentStopped).in_containers().may_lose(),
    ),
    fault(
        "F14",
        "an agent's link passes in one direction only",
        of(Fault::AgentOneWay).in_containers().may_lose().times(6),
    ),
    fault(
        "F15",
        "an agent's host vanishes from the network, its connections half open",
        of(Fault::AgentVanishes).in_containers().may_lose().times(6),
    ),
    fault(
        "F16",
        "results and logs come three times and out of order",
        of(Fault::AgentRepeats).in_containers(),
    ),
    fault(
        "F17",
        "another machine comes with an agent's name and key",
        of(Fault::AgentTwin).in_containers().may_lose(),
    ),
    fault(
        "F20",
        "the engine is stopped or killed, and started again; or its containerd is killed",
        of(Fault::EngineRestarted)
            .in_containers()
            .may_lose()
            .on_its_own_engine()
            .times(6),
    ),
    fault(
        "F21",
        "25 jobs that end at once, five that print a megabyte and end",
        of(Fault::ShortJobs).times(40),
    ),
    fault(
        "F23",
        "Redis's clock jumps an hour ahead or back, and right again (the programs' own: by the clock trait, in a simulation)",
        of(Fault::RedisClock).in_containers().turning_clocks(),
    ),
    fault(
        "F24",
        "an API is killed between a job's storing and its answer; the client asks again under the same key",
        of(Fault::ApiKilled).times(20),
    ),
    fault(
        "F25",
        "25 cancels come when their jobs end",
        of(Fault::CancelRaces).times(20),
    ),
    fault(
        "F26",
        "the control plane is away for three leases while jobs end",
        of(Fault::ControlPlaneAway).in_containers().may_lose(),
    ),
    fault(
        "F27",
        "a job kills its agent each time",
        of(Fault::PoisonJob).in_containers().may_lose(),
    ),
    fault(
        "F28",
        "everything is started anew, and 200 agents come at once",
        of(Fault::EverythingRestarted).with_agents(200).may_lose(),
    ),
    fault(
        "F29",
        "the leader stands still past its lock while it makes a queue of 50,000 anew",
        of(Fault::RebuildInterrupted).beside_a_crowd(),
    ),
    fault(
        "F30",
        "rows that nobody can read or change are in the way of sweeps, take-overs and queue",
        of(Fault::RowsSpoilt),
    ),
];

/// How long `LeaseTimes::SCALED` lets a lease live.
pub const LEASE: Duration = Duration::from_secs(6);
/// And the leader's lock.
pub const LOCK: Duration = Duration::from_secs(1);
/// And how often it has the leader look for what was lost.
pub const SWEEP: Duration = Duration::from_millis(500);
