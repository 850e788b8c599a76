//! What one cluster has at the engine: its containers, found by its own agent's mark, and nobody else's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use common::ids::WorkerId;
use serde::Deserialize;

use crate::scripts::run;
use crate::wait::wait_for;

/// The label that names a container's agent, and, after a slash, its node.
const OWNER_LABEL: &str = "jobworker.owner";

#[derive(Debug, Clone)]
pub struct Docker {
    host: Option<String>,
    agent: Option<String>,
    /// Where its agent keeps the name of its node; without, containers of every node are its.
    node: Option<PathBuf>,
}

/// The part of `secrets.json` that is no secret.
#[derive(Deserialize)]
struct Named {
    worker: String,
}

impl Docker {
    /// The engine at `host` (the machine's own without), as the system in this state folder uses it.
    pub fn of(host: Option<String>, state: &Path) -> Self {
        let named = std::fs::read(state.join("secrets.json"))
            .ok()
            .and_then(|text| serde_json::from_slice::<Named>(&text).ok());
        Self {
            host,
            agent: named.map(|named| named.worker),
            node: None,
        }
    }

    /// The engine at `host` (the machine's own without), as the agent of this name with this state folder uses it.
    pub fn of_agent(worker: &WorkerId, state: &Path, host: Option<String>) -> Self {
        Self {
            host,
            agent: Some(worker.as_str().to_owned()),
            node: Some(state.join("node-id")),
        }
    }

    /// The docker client, at this engine.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    /// The ids of this cluster's containers, running or not.
    ///
    /// # Errors
    /// When the engine does not answer, or the cluster was never started.
    pub fn containers(&self) -> Result<Vec<String>> {
        let agent = self.agent.as_deref().context("the cluster has no agent")?;
        let format = format!("{{{{.ID}}}} {{{{.Label \"{OWNER_LABEL}\"}}}}");
        let filter = format!("label={OWNER_LABEL}");
        let list = [
            "ps",
            "--all",
            "--no-trunc",
            "--filter",
            &filter,
            "--format",
            &format,
        ];
        // before its first start an agent has neither a name for its node nor containers
        let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap_or_default();
        let wanted = self.node.as_ref().map(read);
        let ours = |line: &str| {
            let (id, owner) = line.split_once(' ')?;
            let (worker, node) = owner.split_once('/')?;
            let this_node = wanted.as_ref().is_none_or(|wanted| wanted.trim() == node);
            (worker == agent && this_node).then(|| id.to_owned())
        };
        Ok(run(self.command().args(list))?.lines().filter_map(ours).collect())
    }

    /// Of these containers, the one whose processes' command lines contain `mark`.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn container_with(&self, mark: &str, within: Duration) -> Result<String> {
        wait_for(within, &format!("a container that runs `{mark}`"), async || {
            let ids = self.containers().map_err(|error| format!("{error:#}"))?;
            for id in &ids {
                // one that is being created or removed has no processes
                let processes = run(self.command().args(["top", id, "-eo", "pid,args"])).unwrap_or_default();
                if processes.contains(mark) {
                    return Ok(id.clone());
                }
            }
            Err(format!("{} containers without it", ids.len()))
        })
        .await
    }

    /// Waits until none of this cluster's containers is left.
    ///
    /// # Errors
    /// Which are left.
    pub async fn none_left(&self, within: Duration) -> Result<()> {
        wait_for(within, "every container to be removed", async || {
            match self.containers() {
                Ok(ids) if ids.is_empty() => Ok(()),
                Ok(ids) => Err(format!("left: {}", ids.join(" "))),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await
    }

    /// Removes them all; for the end of a test.
    pub fn remove_all(&self) {
        if let Ok(ids) = self.containers()
            && !ids.is_empty()
        {
            let _ = run(self.command().args(["rm", "--force", "--volumes"]).args(ids));
        }
    }
}
