//! A stage for faults: a control plane, real agents apart from it, jobs whose life the kernel tells of, and the
//! history of all that.
//!
//! `up --no-agent` stands behind a [`Door`], so that it may be killed and come back elsewhere. Jobs write random bytes
//! to both streams and say at their end what they wrote. Every look at the rows is part of the history, so that a wait
//! is an observation as well. [`Scene::settle`] collects the other witnesses; [`Scene::check`] holds the history to
//! its laws.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::JobView;
use common::ids::{JobId, WorkerId};
use common::job::StateName;
use common::tasks::Tasks;
use common::time::{Clock, SystemClock};

use crate::agents::{Agent, all_put_away};
use crate::client::{Client, brief};
use crate::cluster::{Cluster, Settings};
use crate::door::Door;
use crate::history::{Event, History, Invariant, Key, Recorder};
use crate::inside::Inside;
use crate::marked::{self, Foreign, patient, refused};
use crate::sim::{self, Simulated};
use crate::wait::{LONG, wait_for};
use crate::watcher::Watcher;

/// Generous, as every deadline here; a job is at most some twenty seconds long.
const ENDED_WITHIN: Duration = Duration::from_secs(100);

#[derive(Debug)]
pub struct Scene {
    // dropped in this order: who has things in the cluster's folder goes before it
    agents: BTreeMap<&'static str, Agent>,
    simulated: Option<Simulated>,
    foreign: Foreign,
    watcher: Watcher,
    pub cluster: Cluster,
    pub client: Client,
    pub recorder: Recorder,
    jobs: BTreeMap<Key, JobId>,
    refused_noted: usize,
    mark: String,
    door: Door,
    tasks: Tasks,
}

impl Scene {
    /// A control plane without agents, and somebody else's container beside it.
    ///
    /// # Errors
    /// When anything of it does not start.
    pub async fn open() -> Result<Self> {
        let cluster = Cluster::with(Settings {
            agent: false,
            arguments: vec!["--no-rate-limits".into()],
            ..Settings::default()
        })
        .await?;
        let mark = format!("jw-{:08x}", rand::random::<u32>());
        let recorder = Recorder::default();
        let tasks = Tasks::new();
        let scene = Self {
            client: cluster.client()?,
            door: Door::open(cluster.workers_address()?, &tasks).await?,
            watcher: Watcher::start(&mark, recorder.clone())?,
            foreign: Foreign::start(&mark)?,
            simulated: None,
            agents: BTreeMap::new(),
            jobs: BTreeMap::new(),
            refused_noted: 0,
            cluster,
            recorder,
            mark,
            tasks,
        };
        scene.note_foreign();
        Ok(scene)
    }

    /// Starts an agent and waits until it takes jobs.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start_agent(&mut self, name: &'static str, slots: u32) -> Result<()> {
        let worker = WorkerId::new(&format!("{name}-{}", self.mark))?;
        self.start_agent_as(name, &worker, slots)?;
        self.client
            .worker_when("to be ready", |view| view.id == worker && view.ready)
            .await?;
        Ok(())
    }

    /// Another machine that has the key of `original`, and nothing of its state.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_twin(&mut self, name: &'static str, original: &str, slots: u32) -> Result<()> {
        let worker = self.worker(original)?.clone();
        self.start_agent_as(name, &worker, slots)
    }

    fn start_agent_as(&mut self, name: &'static str, worker: &WorkerId, slots: u32) -> Result<()> {
        let agent = Agent::start(&self.cluster, self.door.address(), worker, name, slots)?;
        self.agents.insert(name, agent);
        Ok(())
    }

    /// # Errors
    /// When there is none of this name.
    pub fn agent(&mut self, name: &str) -> Result<&mut Agent> {
        self.agents
            .get_mut(name)
            .with_context(|| format!("no agent `{name}`"))
    }

    /// The whole machine goes, with its containers.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn destroy(&mut self, name: &str) -> Result<()> {
        self.fault(&format!("the machine of {name} is destroyed"));
        let mut agent = self
            .agents
            .remove(name)
            .with_context(|| format!("no agent `{name}`"))?;
        agent.kill()?;
        agent.docker().remove_all();
        agent.forget();
        Ok(())
    }

    /// # Errors
    /// When there is none of this name.
    pub fn worker(&self, name: &str) -> Result<&WorkerId> {
        let agent = self
            .agents
            .get(name)
            .with_context(|| format!("no agent `{name}`"))?;
        Ok(agent.worker())
    }

    /// Submits a job in a container that takes `fifths` fifths of a second, or longer where the machine is busy.
    ///
    /// # Errors
    /// When it is not acknowledged.
    pub async fn submit(&mut self, key: &str, fifths: u32) -> Result<JobId> {
        let job = marked::job(&self.mark, key, fifths);
        let id = self.recorder.submit(&self.client, key, &job).await?;
        self.jobs.insert(key.to_owned(), id);
        Ok(id)
    }

    /// Submits several under `prefix`; the names that they got.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn submit_some(&mut self, prefix: &str, count: usize, fifths: u32) -> Result<Vec<Key>> {
        let keys: Vec<Key> = (1..=count).map(|number| format!("{prefix}-{number}")).collect();
        for key in &keys {
            self.submit(key, fifths).await?;
        }
        Ok(keys)
    }

    /// Jobs without containers, which load the control plane meanwhile.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn submit_simulated(&mut self, count: usize) -> Result<()> {
        self.submit_simulated_as("simulated", count).await
    }

    /// As [`Scene::submit_simulated`], under names of their own.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn submit_simulated_as(&mut self, prefix: &str, count: usize) -> Result<()> {
        if self.simulated.is_none() {
            let runs_for = Duration::from_millis(300);
            self.simulated = Some(Simulated::start(&self.cluster, self.door.address(), 8, runs_for)?);
            // a job that no registered worker could run is refused
            self.client.worker_ready(sim::POOL).await?;
        }
        for number in 1..=count {
            let key = format!("{prefix}-{number}");
            self.recorder
                .submit(&self.client, &key, &patient(sim::job()))
                .await?;
        }
        Ok(())
    }

    /// # Errors
    /// The refusal.
    pub async fn cancel(&self, key: &str) -> Result<JobView> {
        let job = self.jobs.get(key).with_context(|| format!("no job `{key}`"))?;
        self.recorder.cancel(&self.client, *job).await
    }

    /// Waits until each of these runs, by its row and by the kernel's word.
    ///
    /// # Errors
    /// When one does not, in time.
    pub async fn running(&self, keys: &[Key]) -> Result<()> {
        let wanted: BTreeSet<&Key> = keys.iter().collect();
        self.until("these jobs to run", |history, jobs| {
            let runs = history.runs();
            let missing: Vec<String> = jobs
                .iter()
                .filter(|job| job.name.as_ref().is_some_and(|name| wanted.contains(name)))
                .filter(|job| {
                    let alive = |run: &crate::history::Run| {
                        Some(&run.key) == job.name.as_ref() && run.ended.is_none()
                    };
                    job.state != StateName::Running || !runs.iter().any(alive)
                })
                .map(brief)
                .collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(missing.join("; "))
            }
        })
        .await
    }

    /// Waits until each of these has begun, by the kernel's word; it may have ended since.
    ///
    /// # Errors
    /// When one has not, in time.
    pub async fn begun(&self, keys: &[Key]) -> Result<()> {
        self.until("these jobs to begin", |history, _| {
            let runs = history.runs();
            match keys.iter().find(|&key| !runs.iter().any(|run| run.key == *key)) {
                None => Ok(()),
                Some(key) => Err(format!("{key} has not")),
            }
        })
        .await
    }

    /// Waits until no process of these is left, whatever the rows say: they may be out of reach.
    ///
    /// # Errors
    /// When one lives on.
    pub async fn no_process_of(&self, keys: &[Key]) -> Result<()> {
        wait_for(ENDED_WITHIN, "the processes of some jobs to end", async || {
            let history = self.recorder.history();
            let alive: Vec<_> = keys
                .iter()
                .flat_map(|key| history.runs_of(key))
                .filter(|run| run.ended.is_none())
                .collect();
            if alive.is_empty() {
                Ok(())
            } else {
                Err(format!("{alive:?}"))
            }
        })
        .await
    }

    /// Reads the rows again and again until `good` says so of them and of the history so far.
    ///
    /// # Errors
    /// What `good` said last.
    pub async fn until(
        &self,
        what: &str,
        good: impl Fn(&History, &[JobView]) -> Result<(), String>,
    ) -> Result<()> {
        wait_for(ENDED_WITHIN, what, async || {
            let rows = self.recorder.read_rows(&self.client).await;
            let rows = rows.map_err(|error| format!("{error:#}"))?;
            good(&self.recorder.history(), &rows)
        })
        .await
    }

    pub fn fault(&self, what: &str) {
        self.recorder.note(Event::Fault {
            what: what.to_owned(),
        });
    }

    /// SIGKILL of the control plane.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_control_plane(&mut self) -> Result<()> {
        self.fault("the control plane is killed");
        self.cluster.kill()
    }

    /// # Errors
    /// When it does not come back.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        self.cluster.start_again().await?;
        self.door.lead_to(self.cluster.workers_address()?);
        Ok(())
    }

    /// Waits until every job that has not ended has an owner: what a lost session held has none until the next sweep.
    ///
    /// # Errors
    /// Which jobs have none.
    pub async fn nobody_is_orphaned(&self) -> Result<()> {
        wait_for(LONG, "every job to have an owner", async || {
            let inside = Inside::of(&self.cluster).await;
            let orphans = inside.map_err(|error| format!("{error:#}"))?.orphans();
            if orphans.is_empty() {
                Ok(())
            } else {
                Err(format!("{orphans:?}"))
            }
        })
        .await
    }

    /// # Errors
    /// When the store cannot be looked into.
    pub async fn inside(&self) -> Result<Inside> {
        Inside::of(&self.cluster).await
    }

    /// Waits until this agent was not heard for so long.
    ///
    /// # Errors
    /// When it is heard.
    pub async fn out_of_contact(&self, name: &str, silent: Duration) -> Result<()> {
        let worker = self.worker(name)?;
        self.client
            .worker_when("that is silent", |view| {
                view.id == *worker && SystemClock.now().since(view.heard_at) >= silent
            })
            .await?;
        Ok(())
    }

    /// The faults are over: from here on all has to end by itself, a new job too.
    ///
    /// # Errors
    /// When the new job is not acknowledged.
    pub async fn heal(&mut self) -> Result<()> {
        self.recorder.note(Event::Healed);
        self.submit("canary", 1).await?;
        Ok(())
    }

    /// Waits until every job has ended, and hears all witnesses.
    ///
    /// # Errors
    /// When a job does not end, or a witness cannot be heard.
    pub async fn settle(&mut self) -> Result<()> {
        self.until("every job to end", |_, jobs| {
            let left: Vec<String> = jobs
                .iter()
                .filter(|job| !job.state.is_terminal())
                .map(brief)
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(left.join("; "))
            }
        })
        .await?;
        let agents: Vec<&Agent> = self.agents.values().collect();
        all_put_away(&agents, &self.recorder).await?;
        let jobs = self.recorder.read_rows(&self.client).await?;
        let keys: Vec<Key> = self.jobs.keys().cloned().collect();
        self.no_process_of(&keys).await?;
        self.note_output(&jobs).await?;
        let refused = refused(&self.cluster.log());
        for attempt in refused.iter().skip(self.refused_noted) {
            self.recorder.note(Event::Refused { attempt: *attempt });
        }
        self.refused_noted = refused.len();
        self.note_foreign();
        // what has ended has to stay as it is
        self.recorder.read_rows(&self.client).await?;
        Ok(())
    }

    async fn note_output(&self, jobs: &[JobView]) -> Result<()> {
        for (key, id) in &self.jobs {
            if !jobs
                .iter()
                .any(|job| job.id == *id && job.state == StateName::Succeeded)
            {
                continue;
            }
            marked::note_output(&self.recorder, &self.client, key, *id).await?;
        }
        Ok(())
    }

    /// # Errors
    /// Every violation of these laws.
    pub fn check(&self, laws: &[Invariant]) -> Result<()> {
        let history = self.recorder.history();
        history.check(laws)?;
        let (jobs, runs, refused) = (
            history.rows().len(),
            history.runs().len(),
            history.refused().len(),
        );
        println!(
            "{jobs} jobs, {runs} runs in containers (known to within {:?}), {refused} late results refused: all laws hold",
            self.watcher.resolution()
        );
        Ok(())
    }

    /// The end of a test that has passed: everybody ends well, and nothing is left at the engine.
    ///
    /// # Errors
    /// Who does not, and what is left.
    pub async fn close(mut self) -> Result<()> {
        if let Some(simulated) = self.simulated.take() {
            simulated.stop().await?;
        }
        for agent in self.agents.values_mut() {
            agent.terminate().await?;
        }
        for agent in self.agents.values() {
            agent.docker().none_left(LONG).await?;
        }
        self.agents.clear();
        self.tasks.stop();
        self.cluster.stop().await
    }

    fn note_foreign(&self) {
        self.recorder.note(self.foreign.seen());
    }
}
