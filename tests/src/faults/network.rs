//! Cuts: of the leader from its servers, of agents from the control plane.

use std::time::Duration;

use anyhow::{Context as _, Result};
use common::time::{Clock, SystemClock};

use super::bounds::{HEARD_AGAIN, RESULTS_ACCEPTED, STEPS_DOWN, in_time};
use super::namespace::Namespace;
use super::stage::Stage;
use crate::proxy::{Proxy, Way, Weather};
use crate::wait::{LONG, wait_for};

/// The agent on a host of its own.
const REMOTE: &str = "remote";
/// The longest that the leader is cut off.
const CUT_MOST: Duration = Duration::from_millis(3_500);

pub async fn leader_without_redis(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_000).await;
    let leader = stage.leader().await?;
    let program = stage.scheduler(leader)?;
    let (way, term) = (program.ways()?.redis.clone(), program.last_term());
    let cut_at = SystemClock.mono();
    cut(stage, &way, "the leader is cut off from Redis").await;
    // its trust in the lock had run out before the way was clear again
    let program = stage.scheduler(leader)?;
    wait_for(LONG, "the leader that was cut off to step down", async || {
        if program.leads() && program.last_term() == term {
            Err("it leads".to_owned())
        } else {
            Ok(())
        }
    })
    .await?;
    in_time("it had stepped down", cut_at, STEPS_DOWN + CUT_MOST)
}

pub async fn leader_without_mongo(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_000).await;
    let leader = stage.leader().await?;
    let way = stage.scheduler(leader)?.ways()?.mongo.clone();
    cut(stage, &way, "the leader is cut off from MongoDB").await;
    stage.what_runs_ends(RESULTS_ACCEPTED).await
}

const fn millis(length: Duration) -> u64 {
    length.as_millis() as u64
}

async fn cut(stage: &mut Stage, way: &Proxy, what: &str) {
    let weather = match stage.chaos.number(2) {
        0 => Weather::Holds(Way::Both),
        1 => Weather::Swallows(Way::Both),
        _ => Weather::Breaks,
    };
    stage.fault(&format!("{what}: {weather:?}"));
    way.turns(weather);
    stage.lasts(1_500, millis(CUT_MOST)).await;
    stage.fault("the way is clear again");
    way.clears();
}

/// The link of one of the agents, by lot: in containers every other time, where there are any.
fn some_link(stage: &mut Stage) -> Result<(String, Proxy)> {
    let real = stage.round.is_multiple_of(2) && !stage.agents.is_empty();
    let fits = |name: &&String| stage.agents.contains_key(name.as_str()) == real;
    let names: Vec<String> = stage.links.keys().filter(fits).cloned().collect();
    let place = usize::try_from(stage.chaos.number(names.len() as u64 - 1))?;
    let name = names.get(place).context("there are agents")?;
    let link = stage.links.get(name).context("each has a link")?;
    Ok((name.clone(), link.clone()))
}

pub async fn agent_one_way(stage: &mut Stage) -> Result<()> {
    stage.lasts(100, 1_500).await;
    let (name, link) = some_link(stage)?;
    let way = match stage.chaos.number(1) {
        0 => Way::ToServer,
        _ => Way::ToClient,
    };
    let weather = match stage.chaos.number(1) {
        0 => Weather::Holds(way),
        _ => Weather::Swallows(way),
    };
    stage.fault(&format!("the link of {name}: {weather:?}"));
    link.turns(weather);
    // less than its lease, or more
    stage.lasts(2_000, 9_000).await;
    stage.fault("it is clear again");
    link.clears();
    stage.heard_again(&name, SystemClock.now(), HEARD_AGAIN).await
}

/// Without a word: a cable that is pulled, or connections that stay open for ever.
pub async fn agent_vanishes(stage: &mut Stage) -> Result<()> {
    if stage.round % 2 == 1 {
        stage.lasts(100, 1_500).await;
        let (name, link) = some_link(stage)?;
        stage.fault(&format!("the link of {name} swallows everything"));
        link.turns(Weather::Swallows(Way::Both));
        stage.lasts(1_000, 8_000).await;
        stage.fault("new connections pass");
        link.clears();
        return stage.heard_again(&name, SystemClock.now(), HEARD_AGAIN).await;
    }
    if stage.namespace.is_none() {
        let namespace = Namespace::make()?;
        stage.start_agent(REMOTE, Some(&namespace)).await?;
        stage.namespace = Some(namespace);
    }
    stage.lasts(500, 2_000).await;
    stage.fault("the cable of the agent on another host is pulled");
    namespace(stage)?.pull()?;
    stage.lasts(1_000, 9_000).await;
    stage.fault("and plugged in");
    namespace(stage)?.plug()?;
    stage.heard_again(REMOTE, SystemClock.now(), HEARD_AGAIN).await
}

fn namespace(stage: &Stage) -> Result<&Namespace> {
    stage.namespace.as_ref().context("it was made")
}

/// All links, while results and logs flow.
pub async fn agent_repeats(stage: &mut Stage) -> Result<()> {
    stage.fault("results and logs come three times and out of order, and late");
    for link in stage.links.values() {
        link.turns(Weather::Repeats);
    }
    stage.lasts(4_000, 7_000).await;
    let late = Duration::from_millis(40);
    for link in stage.links.values() {
        link.turns(Weather::Delays(late));
    }
    stage.lasts(500, 1_500).await;
    stage.fault("as they are sent");
    for link in stage.links.values() {
        link.clears();
    }
    Ok(())
}
