//! What a row is played on: a fleet whose parts stand apart, agents with a link of their own each, witnesses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::ids::{AccountId, JobId, WorkerId};
use common::job::StateName;
use common::tasks::Tasks;
use common::time::SystemClock;
use storage::Opened;
use storage::conformance::redis_server::RedisServer;

use super::hands::Hands;
use super::namespace::Namespace;
use super::rows::Setting;
use crate::agents::{Agent, Place, all_put_away};
use crate::chaos::Chaos;
use crate::fleet::{Fleet, Program, Size};
use crate::history::owners::{Orphan, orphans};
use crate::history::{Event, Recorder};
use crate::inside;
use crate::marked::{self, Foreign};
use crate::proxy::Proxy;
use crate::scripts::{PrivateEngine, run, script};
use crate::sim::{self, Simulated};
use crate::wait::{LONG, wait_for};
use crate::watcher::Watcher;

/// So one may always be away.
const APIS: usize = 2;
/// Of a real agent: eight containers at a time are what two cores bear.
const SLOTS: u32 = 4;
/// Of each simulated one.
const SIMULATED_SLOTS: u32 = 24;
/// Names of simulated agents begin so.
pub const SIMULATED: &str = "sim-";
/// Long enough that some live through each fault.
pub const RUN: Duration = Duration::from_millis(300);
/// Between two looks at the rows beside everything else.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After the last fault: T and a sweep for each attempt that a job may lose, and a generous rest.
pub const ALL_ENDED_WITHIN: Duration = Duration::from_secs(120);

pub struct Stage {
    // dropped in this order: who needs others goes before them
    pub agents: BTreeMap<String, Agent>,
    simulated: Vec<Simulated>,
    foreign: Foreign,
    watcher: Watcher,
    pub opened: Opened,
    pub fleet: Fleet,
    pub engine: Option<PrivateEngine>,
    pub namespace: Option<Namespace>,
    pub chaos: Chaos,
    pub hands: Hands,
    /// The way of each agent to the schedulers, simulated ones too.
    pub links: BTreeMap<String, Proxy>,
    /// The way of clients to the APIs.
    pub front: Proxy,
    pub round: usize,
    /// After how long a cancel meets the end of its job.
    pub race_ms: u64,
    /// Writes of leaders whose term was over that were seen refused.
    pub stale_writes: usize,
    /// Jobs that were stored by an API which was killed before it told anybody.
    pub unheard: usize,
    /// The scheduler that stays broken to the end, so that no other fault mends it.
    pub out: Option<usize>,
    /// The account whose jobs wait in a long queue, and how many they were.
    pub crowd: Option<(AccountId, usize)>,
    pub recorder: Recorder,
    mark: String,
    pub tasks: Tasks,
}

impl Stage {
    /// All of it, ready.
    ///
    /// # Errors
    /// What is not.
    pub async fn open(setting: &Setting, seed: u64) -> Result<Self> {
        let redis = match setting.turns_clock {
            true => RedisServer::with_a_clock_of_its_own().await,
            false => RedisServer::start().await,
        };
        Self::over(Fleet::start_apart(size(setting), redis).await?, setting, seed).await
    }

    /// As [`Stage::open`], with the programs of that folder.
    ///
    /// # Errors
    /// As [`Stage::open`].
    pub async fn open_with(programs: PathBuf, setting: &Setting, seed: u64) -> Result<Self> {
        Self::over(Fleet::start_others(size(setting), programs).await?, setting, seed).await
    }

    async fn over(fleet: Fleet, setting: &Setting, seed: u64) -> Result<Self> {
        let tasks = Tasks::new();
        let front = Proxy::open(fleet.apis.iter().map(|api| api.address).collect(), &tasks).await?;
        let mark = format!("jwf-{:08x}", rand::random::<u32>());
        let recorder = Recorder::default();
        let client = fleet.client_at(front.address()).await?;
        let engine = match setting.own_engine {
            true => Some(own_engine()?),
            false => None,
        };
        let mut stage = Self {
            opened: Box::pin(storage::open_closable(&fleet.stores(), Arc::new(SystemClock))).await?,
            agents: BTreeMap::new(),
            simulated: Vec::new(),
            foreign: Foreign::start(&mark)?,
            watcher: Watcher::start(&mark, recorder.clone())?,
            engine,
            namespace: None,
            chaos: Chaos::of(seed),
            hands: Hands::new(client, recorder.clone(), mark.clone()),
            links: BTreeMap::new(),
            front,
            round: 0,
            race_ms: u64::try_from(RUN.as_millis())?,
            stale_writes: 0,
            unheard: 0,
            out: None,
            crowd: None,
            recorder,
            mark,
            tasks,
            fleet,
        };
        stage.recorder.note(stage.foreign.seen());
        for number in 0..setting.simulated {
            stage.start_simulated(&format!("{SIMULATED}{number}")).await?;
        }
        stage.hands.client.worker_ready(sim::POOL).await?;
        if setting.containers > 0 {
            stage.start_agent("a", None).await?;
            stage.start_agent("b", None).await?;
        }
        if setting.crowd > 0 {
            stage.hands = stage.hands.clone().beside_a_crowd();
            let account = stage.hands.crowd(setting.crowd).await?;
            stage.crowd = Some((account, setting.crowd));
        }
        stage.look_on();
        Ok(stage)
    }

    pub async fn start_simulated(&mut self, name: &str) -> Result<()> {
        let worker = self.worker(name)?;
        let key = self.fleet.worker_key(&worker)?;
        let link = Proxy::open(self.gateways(), &self.tasks).await?;
        self.simulated
            .push(Simulated::by_key(key, link.address(), SIMULATED_SLOTS, RUN)?);
        self.links.insert(name.to_owned(), link);
        Ok(())
    }

    /// A real agent, ready; in a network namespace where one is given.
    pub async fn start_agent(&mut self, name: &str, namespace: Option<&Namespace>) -> Result<()> {
        let worker = self.worker(name)?;
        let link = match namespace {
            Some(namespace) => Proxy::open_at(namespace.host(), self.gateways(), &self.tasks).await?,
            None => Proxy::open(self.gateways(), &self.tasks).await?,
        };
        let place = Place {
            docker_host: self.docker_host(),
            namespace: namespace.map(|namespace| namespace.name().to_owned()),
        };
        let agent = self.agent_at(place, &link, &worker, name)?;
        self.agents.insert(name.to_owned(), agent);
        self.links.insert(name.to_owned(), link);
        let ready = self
            .hands
            .client
            .worker_when("to be ready", |view| view.id == worker && view.ready);
        ready.await?;
        Ok(())
    }

    /// Another machine that has the key of `original`.
    pub fn twin(&self, original: &str, folder: &str) -> Result<Agent> {
        let place = Place {
            docker_host: self.docker_host(),
            namespace: None,
        };
        let link = self.links.get(original).context("it has a link")?;
        self.agent_at(place, link, &self.worker(original)?, folder)
    }

    fn agent_at(&self, place: Place, link: &Proxy, worker: &WorkerId, folder: &str) -> Result<Agent> {
        let key = self.fleet.worker_key(worker)?.to_text().expose().clone();
        let folder = self.fleet.folder().join(format!("agent-{folder}"));
        Agent::start_at(place, link.address(), (worker, key), folder, SLOTS)
    }

    fn docker_host(&self) -> Option<String> {
        let engine = self.engine.as_ref()?;
        Some(format!("unix://{}", engine.socket()))
    }

    pub fn worker(&self, name: &str) -> Result<WorkerId> {
        Ok(WorkerId::new(&format!("{name}-{}", self.mark))?)
    }

    pub fn agent(&mut self, name: &str) -> Result<&mut Agent> {
        let agent = self.agents.get_mut(name);
        agent.with_context(|| format!("no agent `{name}`"))
    }

    fn gateways(&self) -> Vec<std::net::SocketAddr> {
        let schedulers = self.fleet.schedulers.iter();
        schedulers.map(|program| program.address).collect()
    }

    /// Reads the rows again and again beside everything else: the history of what has ended.
    fn look_on(&self) {
        let (hands, tasks) = (self.hands.clone(), self.tasks.clone());
        self.tasks.spawn("looks on", async move {
            let look = async {
                loop {
                    // an API may be away; then the next look sees more
                    let _ = hands.look().await;
                    // tidy: poll
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tasks.stopping().run_until_cancelled(look).await;
        });
    }

    /// The scheduler that leads, as their logs tell.
    pub async fn leader(&self) -> Result<usize> {
        wait_for(LONG, "a leader", async || {
            let running = self.fleet.schedulers.iter().enumerate();
            let leading = running
                .filter(|(number, program)| self.out != Some(*number) && program.runs() && program.leads());
            let last = leading.max_by_key(|(_, program)| program.last_term());
            last.map(|(number, _)| number)
                .ok_or_else(|| "nobody leads".to_owned())
        })
        .await
    }

    pub fn scheduler(&mut self, number: usize) -> Result<&mut Program> {
        self.fleet.schedulers.get_mut(number).context("there are fewer")
    }

    pub fn fault(&self, what: &str) {
        println!("    {what}");
        self.recorder.note(Event::Fault {
            what: what.to_owned(),
        });
    }

    /// A time by lot, for which a fault lasts.
    pub async fn lasts(&mut self, least_ms: u64, most_ms: u64) {
        let (least, most) = (Duration::from_millis(least_ms), Duration::from_millis(most_ms));
        self.chaos.some_time(least, most).await;
    }

    /// Waits until every job that has not ended has somebody who has to do its next step.
    pub async fn nobody_is_orphaned(&self) -> Result<()> {
        // rows and queue are not read in one act: only who is one at every look is an orphan
        let mut suspects: Option<BTreeSet<JobId>> = None;
        wait_for(LONG, "every job to have an owner", async || {
            let found = self.orphans().await.map_err(|error| format!("{error:#}"))?;
            let ids: BTreeSet<JobId> = found.iter().map(|orphan| orphan.job).collect();
            let left = match &suspects {
                None => ids,
                Some(before) => before.intersection(&ids).copied().collect(),
            };
            let told: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
            let count = left.len();
            suspects = Some(left);
            match count {
                0 => Ok(()),
                count => Err(format!("{count} have none, such as {}", told.join("; "))),
            }
        })
        .await
    }

    async fn orphans(&self) -> Result<Vec<Orphan>> {
        let stores = &self.opened.stores;
        let sessions = stores.workers.live_sessions().await?;
        let (rows, queued) = inside::look(stores).await?;
        let live = sessions.iter().map(|session| session.id).collect();
        Ok(orphans(&rows, &live, &queued))
    }

    /// The faults are over.
    pub fn heal(&self) {
        for link in self.links.values() {
            link.clears();
        }
        self.recorder.note(Event::Healed);
    }

    /// Waits until every job has ended and hears all witnesses.
    pub async fn settle(&mut self) -> Result<()> {
        let jobs = self.hands.all_ended(ALL_ENDED_WITHIN).await?;
        let agents: Vec<&Agent> = self.agents.values().collect();
        all_put_away(&agents, &self.recorder).await?;
        self.no_process_is_left().await?;
        for (key, id) in self.hands.marked() {
            let succeeded =
                |job: &&common::api_types::JobView| job.id == id && job.state == StateName::Succeeded;
            if jobs.iter().any(|job| succeeded(&job)) {
                marked::note_output(&self.recorder, &self.hands.client, &key, id).await?;
            }
        }
        for program in &self.fleet.schedulers {
            for attempt in marked::refused(&program.log()) {
                self.recorder.note(Event::Refused { attempt });
            }
        }
        self.recorder.note(self.foreign.seen());
        // what has ended has to stay as it is
        self.hands.look().await?;
        Ok(())
    }

    async fn no_process_is_left(&self) -> Result<()> {
        wait_for(LONG, "the processes of all jobs to end", async || {
            let alive = self.recorder.history().runs();
            let alive: Vec<_> = alive.iter().filter(|run| run.ended.is_none()).collect();
            if alive.is_empty() {
                Ok(())
            } else {
                Err(format!("{alive:?}"))
            }
        })
        .await
    }

    pub fn resolution(&self) -> Duration {
        self.watcher.resolution()
    }

    /// The end of a row that has passed: everybody ends well, and nothing is left at the engine.
    pub async fn close(mut self) -> Result<()> {
        for simulated in std::mem::take(&mut self.simulated) {
            simulated.stop().await?;
        }
        for agent in self.agents.values_mut() {
            agent.terminate().await?;
        }
        for agent in self.agents.values_mut() {
            // One that ended while its engine hung in a call leaves that one's container to its next life, which also
            // removes whatever else is left: only where the row killed the engine is it begun.
            let begins_again = self.engine.is_some() && !agent.docker().containers()?.is_empty();
            if begins_again {
                agent.start_again()?;
            }
            let left = agent.docker().none_left(LONG).await;
            left.with_context(|| format!("the agent {} said last:\n{}", agent.worker(), agent.last_lines()))?;
            if begins_again {
                agent.terminate().await?;
            }
        }
        self.agents.clear();
        self.opened.closing.close().await;
        self.fleet.stop().await?;
        self.tasks.stop();
        Ok(())
    }
}

const fn size(setting: &Setting) -> Size {
    Size {
        apis: APIS,
        schedulers: setting.schedulers,
    }
}

fn own_engine() -> Result<PrivateEngine> {
    let engine = PrivateEngine::start()?;
    run(script("ensure-image").env("DOCKER_HOST", format!("unix://{}", engine.socket())))?;
    Ok(engine)
}
