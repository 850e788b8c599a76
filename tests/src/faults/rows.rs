//! The table of the rows: what each injects, and what it needs.

use std::time::Duration;

use super::fault::Fault;

/// Jobs of a row, most of them without containers.
pub const JOBS: usize = 500;
/// Of them real containers, where the row needs any.
pub const CONTAINERS: usize = 50;
/// Injections of a row where the matrix asks for no more.
pub const INJECTIONS: usize = 5;

#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    pub plays: Plays,
}

/// How a row is played.
#[derive(Debug, Clone, Copy)]
pub enum Plays {
    /// A fault again and again while jobs come.
    Fault(Setting),
    /// Not yet, and why.
    NotRun(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub fault: Fault,
    pub injections: usize,
    pub containers: usize,
    /// Simulated agents.
    pub simulated: usize,
    /// An engine of its own, which may be stopped.
    pub own_engine: bool,
    /// A Redis whose clock can be turned.
    pub turns_clock: bool,
    /// No attempt may be lost: each job ends well at its first.
    pub lossless: bool,
    /// Late results that have to be seen refused, so that the fencing was really tried.
    pub refused_least: usize,
}

/// What most rows have.
const fn of(fault: Fault) -> Setting {
    Setting {
        fault,
        injections: INJECTIONS,
        containers: 0,
        simulated: 2,
        own_engine: false,
        turns_clock: false,
        lossless: true,
        refused_least: 0,
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

const fn not_run(id: &'static str, what: &'static str, why: &'static str) -> Row {
    Row {
        id,
        what,
        plays: Plays::NotRun(why),
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
        of(Fault::LeaderStopped).in_containers(),
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
        "an agent stands still for two leases",
        of(Fault::AgentStopped).in_containers().may_lose().refusing(5),
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
        "the engine is stopped or killed, and started again",
        of(Fault::EngineRestarted)
            .in_containers()
            .may_lose()
            .on_its_own_engine(),
    ),
    fault(
        "F21",
        "four jobs that end at once, one that prints a megabyte and ends",
        of(Fault::ShortJobs).times(50),
    ),
    fault(
        "F23",
        "Redis's clock jumps an hour ahead or back, and right again (the programs' own: by the clock trait, in a simulation)",
        of(Fault::RedisClock).in_containers().turning_clocks(),
    ),
    fault(
        "F24",
        "an API is killed while it answers; the client asks again under the same key",
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
        "the leader stands still past its lock while it makes a long queue anew",
        of(Fault::RebuildInterrupted),
    ),
    not_run(
        "F30",
        "the sweep finds rows that it cannot change",
        "needs a row that no program of ours can write",
    ),
];

/// How long `LeaseTimes::SCALED` lets a lease live.
pub const LEASE: Duration = Duration::from_secs(6);
/// And the leader's lock.
pub const LOCK: Duration = Duration::from_secs(1);
