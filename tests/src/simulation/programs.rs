//! The programs, as real as they come: schedulers with their gateways, and agents on nodes. Started, killed, held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::ids::{AttemptId, FileId, PoolName, WorkerId};
use common::protocol::InputSource;
use common::protocol::token::FleetSecrets;
use common::secret::Secret;
use common::service::Jobs;
use common::tasks::Tasks;
use common::time::SharedClock;
use common::worker::Capacity;
use scheduler::Door;
use worker_agent::config::{AgentLimits, Config, LinkTimes, OnStop, ServerUrl};
use worker_agent::disk::Disk;
use worker_agent::link::line::attend;
use worker_agent::link::{Connection, LinkError, ServerLink};
use worker_agent::transfer::{FileServer, Stored, TransferError};
use worker_agent::{Seams, journal};

use super::clock::HostClock;
use super::dice::Dice;
use super::engine::{Driver, Engine};
use super::history::History;
use super::host::{Life, On};
use super::network::{Calls, LIVES};
use super::plan::Plan;
use super::store::{Backends, Caller, Client, held};
use super::wire::{Lines, Mode, Weather};

/// Longest that killed tasks may take to be gone, in simulated time.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Orphans are looked for soon, but not among what an agent that is held still may be making.
const LIMITS: AgentLimits = AgentLimits {
    log_wait: Duration::from_secs(5),
    result_resend: Duration::from_secs(2),
    creation_grace: Duration::from_secs(20),
    condition_every: Duration::from_secs(10),
    orphans_every: Duration::from_secs(4),
};

fn fleet() -> FleetSecrets {
    let secret = Secret::new(b"an agreed secret of thirty-two bytes".to_vec());
    FleetSecrets::new(vec![("k1".into(), secret)]).expect("long enough")
}

/// What programs have around them.
pub struct Surroundings {
    pub plan: Plan,
    pub dice: Arc<Dice>,
    pub history: Arc<History>,
    pub backends: Arc<Backends>,
    pub calls: Arc<Calls>,
    pub lines: Arc<Lines>,
    /// Carries what is on its way; no program's.
    pub carriers: Tasks,
    pub weather: Mutex<Vec<Weather>>,
    /// Agents that nobody hears, each with the number of causes.
    pub apart: Mutex<BTreeMap<u32, u32>>,
}

impl Surroundings {
    pub fn client(&self, node: u32, life: u32) -> Client {
        Client::over(
            Arc::clone(&self.backends),
            Caller(node + LIVES * life),
            Arc::clone(&self.calls) as Arc<dyn super::store::Network>,
            self.carriers.clone(),
        )
    }

    pub fn is_apart(&self, agent: u32) -> bool {
        held(&self.apart).get(&agent).is_some_and(|causes| *causes > 0)
    }

    /// Changes the weather on every line of an agent.
    pub fn over_lines(&self, agent: u32, change: impl Fn(&Weather)) {
        let mut lines = held(&self.weather);
        lines.retain(|line| !line.is_over());
        lines.iter().filter(|line| line.agent == agent).for_each(change);
    }
}

struct Running<T> {
    life: Arc<Life>,
    tasks: Vec<Tasks>,
    door: T,
}

impl<T> Running<T> {
    async fn kill(self, name: &str, history: &History) {
        self.life.kill();
        drop(self.door);
        for tasks in self.tasks {
            if !tasks.join(GONE_WITHIN).await {
                history.violated(format!("the tasks of {name} do not end when it is killed"));
            }
        }
    }
}

pub struct Scheduler {
    pub node: u32,
    pub clock: Arc<HostClock>,
    lives: AtomicU32,
    running: Mutex<Option<Running<Door>>>,
}

impl Scheduler {
    pub fn new(node: u32, skew: i64) -> Self {
        Self {
            node,
            clock: Arc::new(HostClock::new(skew)),
            lives: 0.into(),
            running: Mutex::default(),
        }
    }

    pub fn start(&self, around: &Surroundings) {
        let mut running = held(&self.running);
        if running.is_some() {
            return;
        }
        let number = self.lives.fetch_add(1, Ordering::SeqCst);
        around
            .history
            .note(format_args!("scheduler {} starts", self.node));
        let life = Life::new(&format!("scheduler {}", self.node), Arc::clone(&around.history));
        let tasks = Tasks::hosted_by(Arc::new(On(Arc::clone(&life))));
        let clock: SharedClock = self.clock.clone();
        let jobs = Jobs::new(around.client(self.node, number).stores(), Arc::clone(&clock))
            .with_rules(around.plan.rules);
        let config = scheduler::Config {
            times: around.plan.times.clone(),
            ..scheduler::Config::new(fleet())
        };
        match Door::open(config, jobs, clock, &tasks) {
            Ok(door) => {
                *running = Some(Running {
                    life,
                    tasks: vec![tasks],
                    door,
                });
            }
            Err(error) => around.history.violated(error),
        }
    }

    pub async fn kill(&self, around: &Surroundings) {
        let running = held(&self.running).take();
        if let Some(running) = running {
            around
                .history
                .note(format_args!("scheduler {} is killed", self.node));
            running.kill("a scheduler", &around.history).await;
        }
    }

    pub fn life(&self) -> Option<Arc<Life>> {
        held(&self.running)
            .as_ref()
            .map(|running| Arc::clone(&running.life))
    }

    pub fn leads(&self) -> bool {
        held(&self.running)
            .as_ref()
            .is_some_and(|running| running.door.leads().is_some())
    }

    fn door(&self) -> Option<(Arc<Life>, Door)> {
        let running = held(&self.running);
        let running = running.as_ref()?;
        Some((Arc::clone(&running.life), running.door.clone()))
    }
}

pub struct Agent {
    pub number: u32,
    pub worker: WorkerId,
    pub engine: Arc<Engine>,
    folder: PathBuf,
    running: Mutex<Option<Running<()>>>,
}

impl Agent {
    pub fn new(number: u32, engine: Arc<Engine>, folder: &Path) -> Self {
        Self {
            number,
            worker: WorkerId::new(&format!("node-{number}")).expect("a good name"),
            engine,
            folder: folder.join(format!("node-{number}")),
            running: Mutex::default(),
        }
    }

    pub fn start(&self, around: &Arc<Surroundings>, schedulers: &Arc<Vec<Scheduler>>) {
        let mut running = held(&self.running);
        if running.is_some() {
            return;
        }
        around.history.note(format_args!("agent {} starts", self.number));
        let life = Life::new(&format!("agent {}", self.number), Arc::clone(&around.history));
        let host = Arc::new(On(Arc::clone(&life)));
        let (tasks, inner) = (Tasks::hosted_by(host.clone()), Tasks::hosted_by(host));
        let clock: SharedClock = self.engine.clock.clone();
        let link = LinkTimes::from(&around.plan.times);
        let config = Config {
            key: fleet().worker_key(&self.worker, 1),
            server: ServerUrl::parse("ws://127.0.0.1:1", false).expect("a good address"),
            audience: "simulation".into(),
            state_folder: self.folder.clone(),
            pool: PoolName::default(),
            labels: BTreeMap::new(),
            capacity: Capacity {
                cpu_millis: 1_000_000,
                memory_mib: 1_000_000,
                disk_mib: 1_000_000,
                slots: around.plan.slots,
            },
            link,
            on_stop: OnStop::Leave,
            limits: LIMITS,
        };
        let seams = Seams {
            executor: Arc::new(Driver::of_a_new_life(&self.engine)),
            link: Arc::new(Dialler {
                agent: self.number,
                worker: self.worker.clone(),
                around: Arc::clone(around),
                schedulers: Arc::clone(schedulers),
                times: link,
                tasks: inner.clone(),
            }),
            files: Arc::new(NoFiles),
            disk: Disk::Here,
            inner: inner.clone(),
        };
        let (history, stopping) = (Arc::clone(&around.history), tasks.clone());
        tasks.spawn("agent", async move {
            if let Err(error) = Box::pin(worker_agent::run_with(config, seams, clock, stopping)).await {
                history.violated(format!("an agent did not start: {error}"));
            }
        });
        *running = Some(Running {
            life,
            tasks: vec![tasks, inner],
            door: (),
        });
    }

    pub async fn kill(&self, around: &Surroundings) {
        let running = held(&self.running).take();
        if let Some(running) = running {
            around
                .history
                .note(format_args!("agent {} is killed", self.number));
            running.kill("an agent", &around.history).await;
        }
    }

    pub fn life(&self) -> Option<Arc<Life>> {
        held(&self.running)
            .as_ref()
            .map(|running| Arc::clone(&running.life))
    }

    /// Attempts that its journal still holds.
    pub fn holds(&self) -> Vec<AttemptId> {
        let text = std::fs::read(self.folder.join("journal.jsonl")).unwrap_or_default();
        journal::replay(&text).held.into_keys().collect()
    }
}

/// An agent's way to a gateway: through whatever balances the load, so that any may answer.
struct Dialler {
    agent: u32,
    worker: WorkerId,
    around: Arc<Surroundings>,
    schedulers: Arc<Vec<Scheduler>>,
    times: LinkTimes,
    tasks: Tasks,
}

#[async_trait]
impl ServerLink for Dialler {
    async fn connect(&self) -> Result<Connection, LinkError> {
        tokio::time::timeout(self.times.handshake, self.dial())
            .await
            .map_err(|_| LinkError::TimedOut)?
    }
}

impl Dialler {
    async fn dial(&self) -> Result<Connection, LinkError> {
        let around = &self.around;
        tokio::time::sleep(around.dice.millis(1, 20)).await;
        if around.is_apart(self.agent) {
            std::future::pending::<()>().await;
        }
        let door = around.dice.pick(&self.schedulers).and_then(Scheduler::door);
        let Some((life, door)) = door else {
            return Err(LinkError::Failed("refused".into()));
        };
        if life.is_paused() {
            // The kernel takes the connection, and nobody answers.
            std::future::pending::<()>().await;
        }
        let (ours, theirs, weather) = around.lines.connect(self.agent);
        held(&around.weather).push(weather);
        door.serve(self.worker.clone(), theirs);
        Ok(attend(ours, self.times, &self.tasks))
    }
}

/// No job here has files.
struct NoFiles;

#[async_trait]
impl FileServer for NoFiles {
    async fn fetch(&self, _: AttemptId, _: &InputSource, _: &Path) -> Result<(), TransferError> {
        Err(TransferError::Mismatch)
    }

    async fn store(&self, _: AttemptId, _: FileId, _: &str, _: &Path) -> Result<Stored, TransferError> {
        Err(TransferError::Mismatch)
    }
}

/// As long as a line is held its frames wait; afterwards they arrive.
pub fn hold(weather: &Weather, held: bool) {
    weather.set(if held { Mode::Held } else { Mode::Open });
}
