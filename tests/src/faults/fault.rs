//! The faults, by their names: one value is one injection, from the break to the mend.

use anyhow::Result;

use super::stage::Stage;
use super::{answers, auth, docker, mongo, network, processes, redis, special, spoilt};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    LeaderKilled,
    LeaderStopped,
    LeaderWithoutRedis,
    LeaderWithoutMongo,
    RedisRestarted,
    RedisWiped,
    RedisForgets,
    RedisEvicts,
    RedisSilent,
    RedisClock,
    MongoKilled,
    MongoKilledQuickly,
    AgentKilled,
    AgentStopped,
    AgentOneWay,
    AgentVanishes,
    AgentRepeats,
    AgentTwin,
    EngineRestarted,
    ShortJobs,
    ApiKilled,
    CancelRaces,
    ControlPlaneAway,
    PoisonJob,
    EverythingRestarted,
    RebuildInterrupted,
    RowsSpoilt,
}

/// What the mix draws from: those that last some seconds, on the machine's own engine.
pub const OF_THE_MIX: [Fault; 15] = [
    Fault::LeaderKilled,
    Fault::LeaderStopped,
    Fault::LeaderWithoutRedis,
    Fault::LeaderWithoutMongo,
    Fault::RedisRestarted,
    Fault::RedisWiped,
    Fault::RedisForgets,
    Fault::RedisSilent,
    Fault::MongoKilled,
    Fault::AgentKilled,
    Fault::AgentStopped,
    Fault::AgentOneWay,
    Fault::AgentVanishes,
    Fault::AgentRepeats,
    Fault::ApiKilled,
];

/// Breaks something, and mends it again.
///
/// # Errors
/// What did not happen that has to.
pub async fn inject(fault: Fault, stage: &mut Stage) -> Result<()> {
    match fault {
        Fault::LeaderKilled => processes::leader_killed(stage).await,
        Fault::LeaderStopped => processes::leader_stopped(stage).await,
        Fault::LeaderWithoutRedis => network::leader_without_redis(stage).await,
        Fault::LeaderWithoutMongo => network::leader_without_mongo(stage).await,
        Fault::RedisRestarted => redis::restarted(stage).await,
        Fault::RedisWiped => redis::wiped(stage).await,
        Fault::RedisForgets => auth::redis_forgets(stage).await,
        Fault::RedisEvicts => redis::evicts(stage).await,
        Fault::RedisSilent => redis::silent(stage).await,
        Fault::RedisClock => redis::clock_jumps(stage).await,
        Fault::MongoKilled => mongo::killed(stage).await,
        Fault::MongoKilledQuickly => mongo::killed_quickly(stage).await,
        Fault::AgentKilled => processes::agent_killed(stage).await,
        Fault::AgentStopped => processes::agent_stopped(stage).await,
        Fault::AgentOneWay => network::agent_one_way(stage).await,
        Fault::AgentVanishes => network::agent_vanishes(stage).await,
        Fault::AgentRepeats => network::agent_repeats(stage).await,
        Fault::AgentTwin => processes::agent_twin(stage).await,
        Fault::EngineRestarted => docker::engine_restarted(stage).await,
        Fault::ShortJobs => special::short_jobs(stage).await,
        Fault::ApiKilled => answers::api_killed(stage).await,
        Fault::CancelRaces => special::cancel_races(stage).await,
        Fault::ControlPlaneAway => processes::control_plane_away(stage).await,
        Fault::PoisonJob => special::poison_job(stage).await,
        Fault::EverythingRestarted => processes::everything_restarted(stage).await,
        Fault::RebuildInterrupted => redis::rebuild_interrupted(stage).await,
        Fault::RowsSpoilt => spoilt::rows_spoilt(stage).await,
    }
}
