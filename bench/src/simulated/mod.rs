//! Agents without containers: a real WebSocket, real messages, and jobs that end the moment they are assigned, or never.
//! What is left is what the control plane costs.

mod agent;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::ids::{JobId, WorkerId};
use common::protocol::HELD_ATTEMPTS_MAX;
use common::protocol::token::FleetSecrets;
use common::tasks::Tasks;

use self::agent::Agent;
use crate::client::Client;
use crate::stats::Stopwatch;

/// Where agents connect, and what their keys are made of.
#[derive(Clone)]
pub struct Door {
    /// `host:port` of each gateway. An agent's home is one of them, by its number.
    pub addresses: Arc<[String]>,
    pub fleet: Arc<FleetSecrets>,
}

/// What an agent does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Reports its success at once.
    Finish,
    /// Starts it, and holds it for ever.
    Hold,
}

/// How many agents of what kind.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// What their names begin with.
    pub name: &'static str,
    pub agents: usize,
    pub slots: u32,
    pub act: Act,
    /// Come back after a lost connection, as real agents do; else the loss is told and the agent ends.
    pub comes_back: bool,
}

impl Crowd {
    /// Agents that finish their jobs at once.
    pub const fn finishing(agents: usize, slots: u32) -> Self {
        Self {
            name: "simulated",
            agents,
            slots,
            act: Act::Finish,
            comes_back: false,
        }
    }
}

/// What the agents saw, together.
#[derive(Debug)]
pub struct Tally {
    accepted: AtomicU64,
    stale: AtomicU64,
    stopped: AtomicU64,
    sessions_anew: AtomicU64,
    late_beats: AtomicU64,
    beats: AtomicU64,
    connected: AtomicUsize,
    /// When jobs were assigned, while somebody wants to know.
    watched: Mutex<Option<HashMap<JobId, Duration>>>,
    /// From the result that freed an only slot to the next assignment, in ms.
    freed: Mutex<Vec<f64>>,
    watch: Stopwatch,
}

impl Tally {
    fn new() -> Self {
        Self {
            accepted: AtomicU64::default(),
            stale: AtomicU64::default(),
            stopped: AtomicU64::default(),
            sessions_anew: AtomicU64::default(),
            late_beats: AtomicU64::default(),
            beats: AtomicU64::default(),
            connected: AtomicUsize::default(),
            watched: Mutex::default(),
            freed: Mutex::default(),
            watch: Stopwatch::start(),
        }
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::Acquire)
    }

    /// Attempts that agents were told to stop.
    pub fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sessions that began after an agent's first one: that was lost, or forgotten.
    pub fn sessions_anew(&self) -> u64 {
        self.sessions_anew.load(Ordering::Acquire)
    }

    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Acquire)
    }

    /// Heartbeats that were not acknowledged before the next one was due.
    pub fn late_beats(&self) -> u64 {
        self.late_beats.load(Ordering::Acquire)
    }

    /// Agents that have been welcomed on the connection that they have.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::Acquire)
    }

    /// Since this tally began; what [`Tally::assigned_at`] counts in.
    pub fn now(&self) -> Duration {
        self.watch.read()
    }

    /// Notes from now on when jobs are assigned; what was noted before is forgotten.
    pub fn watch(&self) {
        *lock(&self.watched) = Some(HashMap::new());
    }

    /// When the first of these jobs was assigned.
    pub fn assigned_at(&self, jobs: &[JobId]) -> Option<Duration> {
        let watched = lock(&self.watched);
        let times = watched.as_ref()?;
        jobs.iter().filter_map(|job| times.get(job)).min().copied()
    }

    pub fn freed(&self) -> usize {
        lock(&self.freed).len()
    }

    /// Waits between freed slots and next assignments, in ms.
    pub fn take_freed(&self) -> Vec<f64> {
        std::mem::take(&mut *lock(&self.freed))
    }

    fn saw(&self, job: JobId) {
        if let Some(times) = lock(&self.watched).as_mut() {
            times.entry(job).or_insert_with(|| self.watch.read());
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts agents; they end with `tasks`.
///
/// # Errors
/// More slots than a heartbeat can list, or a name that is none.
pub fn start(door: &Door, crowd: &Crowd, tasks: &Tasks) -> anyhow::Result<Arc<Tally>> {
    let tally = Arc::new(Tally::new());
    let held_max = u32::try_from(HELD_ATTEMPTS_MAX)?;
    anyhow::ensure!(
        crowd.slots <= held_max,
        "a heartbeat lists at most {held_max} attempts: ask for fewer slots"
    );
    for number in 0..crowd.agents {
        let name = WorkerId::new(&format!("{}-{number}", crowd.name))?;
        let key = door.fleet.worker_key(&name, 1);
        let agent = Agent::new(key, door.clone(), number, crowd, Arc::clone(&tally));
        let stopping = tasks.stopping().clone();
        tasks.spawn("simulated agent", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                ended = agent.run() => {
                    if let Err(error) = ended {
                        eprintln!("a simulated agent ended: {error:#}");
                    }
                }
            }
        });
    }
    Ok(tally)
}

/// As [`start`], and waits until the API shows them.
///
/// # Errors
/// They do not come.
pub async fn start_ready(
    door: &Door,
    crowd: &Crowd,
    client: &Client,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Tally>> {
    let tally = start(door, crowd, tasks)?;
    client.wait_for_workers(crowd.agents).await?;
    Ok(tally)
}
