//! Agents as programs of their own: real `jobworker-agent` processes that are killed, stopped, let go on and started
//! again on the same folder, apart from the control plane.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use common::ids::WorkerId;
use rustix::process::Signal;
use worker_agent::journal::{self, State};

use crate::cluster::Cluster;
use crate::disk::unmount_below;
use crate::docker::Docker;
use crate::history::{Event, History, Recorder};
use crate::process::{Running, program};
use crate::sim::fleet;
use crate::wait::{LONG, wait_for};

const LOG_LINES_SHOWN: usize = 40;

#[derive(Debug)]
pub struct Agent {
    worker: WorkerId,
    /// The control plane, at an address that stays.
    server: SocketAddr,
    slots: u32,
    key: String,
    folder: PathBuf,
    place: Place,
    process: Option<Running>,
    ended_well: bool,
}

/// Where an agent runs, if not plainly on this machine.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The engine's address; without, the machine's own.
    pub docker_host: Option<String>,
    /// A network namespace, by its name: the control plane is then not on the agent's own host.
    pub namespace: Option<String>,
}

impl Agent {
    /// Starts the agent `worker` with a fresh state folder called `folder`, which is below the cluster's own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        cluster: &Cluster,
        server: SocketAddr,
        worker: &WorkerId,
        folder: &str,
        slots: u32,
    ) -> Result<Self> {
        let key = fleet(cluster)?.worker_key(worker, 1).to_text().expose().clone();
        let folder = cluster.folder().join(folder);
        Self::start_at(Place::default(), server, (worker, key), folder, slots)
    }

    /// Starts an agent of any installation with a fresh state folder in `folder`, which must not be there yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_at(
        place: Place,
        server: SocketAddr,
        (worker, key): (&WorkerId, String),
        folder: PathBuf,
        slots: u32,
    ) -> Result<Self> {
        // it looks for it beside itself, and says so only when a job comes
        program("jobworker-init")?;
        std::fs::create_dir(&folder)?;
        let mut agent = Self {
            worker: worker.clone(),
            server,
            slots,
            key,
            folder,
            place,
            process: None,
            ended_well: false,
        };
        agent.start_again()?;
        Ok(agent)
    }

    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("the agent {} runs already", self.worker);
        }
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = match &self.place.namespace {
            None => Command::new(program("jobworker-agent")?),
            Some(namespace) => {
                // It becomes the agent: the process keeps its number. Not `ip netns exec`, which has mounts of its own,
                // so that the engine would not see the workspaces.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}"));
                command.arg(program("jobworker-agent")?).arg("--insecure-dev");
                command
            }
        };
        if let Some(host) = &self.place.docker_host {
            command.env("DOCKER_HOST", host);
        }
        command.env("JOBWORKER_WORKER_KEY", &self.key);
        command.env("RUST_LOG", "info").env("NO_COLOR", "1");
        command.args(["--scaled-times", "--server", &format!("ws://{}", self.server)]);
        command.args(["--slots", &self.slots.to_string()]);
        command.arg("--state").arg(self.state());
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(Running::start(&mut command)?);
        Ok(())
    }

    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// SIGKILL: its containers are on their own.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// SIGSTOP: it stands still and knows nothing of it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time, or not well.
    pub async fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            self.ended_well = true;
            return Ok(());
        };
        let status = process.stop(Duration::from_secs(40)).await?;
        if !status.success() {
            bail!("the agent {} ended with {status} after a SIGTERM", self.worker);
        }
        self.ended_well = true;
        Ok(())
    }

    /// Nobody wants its last words.
    pub fn forget(mut self) {
        self.ended_well = true;
    }

    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// While it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Running::pid)
    }

    /// What its journal says.
    ///
    /// # Errors
    /// When there is none.
    pub fn journal(&self) -> Result<State> {
        let path = self.state().join("journal.jsonl");
        let text = std::fs::read(&path).with_context(|| format!("no journal of {}", self.worker))?;
        Ok(journal::replay(&text))
    }

    /// What is its own at the engine.
    pub fn docker(&self) -> Docker {
        Docker::of_agent(&self.worker, &self.state(), self.place.docker_host.clone())
    }

    /// All that it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The end of what it said.
    pub fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn running(&mut self) -> Result<&mut Running> {
        self.process
            .as_mut()
            .with_context(|| format!("the agent {} does not run", self.worker))
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("agent.log")
    }
}

/// Waits until agents that run have put everything away, then notes what each holds and what is at the engine.
///
/// # Errors
/// What is still there.
pub async fn all_put_away(agents: &[&Agent], recorder: &Recorder) -> Result<()> {
    let used = |history: &History| -> BTreeSet<String> {
        history.runs().into_iter().map(|run| run.container).collect()
    };
    let looked = wait_for(LONG, "the agents to put everything away", async || {
        let (mut holds, mut ids) = (Vec::new(), Vec::new());
        for agent in agents.iter().filter(|agent| agent.runs()) {
            let state = agent.journal().map_err(|error| format!("{error:#}"))?;
            if !state.held.is_empty() {
                return Err(format!("{} holds {:?}", agent.worker(), state.held.keys()));
            }
            holds.push((agent.worker().clone(), state));
            let there = agent.docker().containers();
            ids.extend(there.map_err(|error| format!("{error:#}"))?);
        }
        let used = used(&recorder.history());
        if ids.iter().any(|id| used.contains(id)) {
            return Err("containers of jobs that have ended are still there".to_owned());
        }
        Ok((holds, ids))
    });
    let (holds, ids) = looked.await?;
    for (worker, state) in holds {
        let containers = state.held.values().filter_map(|held| held.container.clone());
        recorder.note(Event::Holds {
            worker,
            attempts: state.held.keys().copied().collect(),
            containers: containers.map(|container| container.0).collect(),
        });
    }
    recorder.note(Event::Containers { ids });
    Ok(())
}

impl Drop for Agent {
    fn drop(&mut self) {
        // first the process, so that it starts nothing new
        self.process = None;
        self.docker().remove_all();
        unmount_below(&self.folder);
        if !self.ended_well {
            println!(
                "---- the last lines of the agent {}\n{}",
                self.worker,
                self.last_lines()
            );
        }
    }
}
