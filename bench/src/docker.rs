//! `docker run` as the yardstick, with the flags that the agent's own containers have: read off such a container, not
//! written down a second time, so that the two cannot drift apart.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use common::api_types::CancelRequestBody;
use serde_json::Value;
use tokio::process::Command;

use crate::client::job_of;
use crate::server::Server;
use crate::stats::Stopwatch;

/// For the container of a job that runs to show itself.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Flags of `docker run` that make a container like the agent's.
#[derive(Debug, Clone)]
pub struct Flags(Vec<String>);

impl Flags {
    /// Runs a job, looks at its container, and cancels it.
    ///
    /// # Errors
    /// No container shows itself.
    pub async fn of_the_agents_containers(server: &Server) -> anyhow::Result<Self> {
        let before = containers().await?;
        let id = server.client.submit(&job_of(&["sleep", "60"])).await?;
        let watch = Stopwatch::start();
        let found = loop {
            // one that was prepared before looks the same
            if let Some(new) = containers().await?.into_iter().find(|one| !before.contains(one)) {
                break new;
            }
            anyhow::ensure!(watch.read() < SHOWN_WITHIN, "no container of {id} shows itself");
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let text = said(&["inspect", &found]).await?;
        server.client.cancel(id, &CancelRequestBody::default()).await?;
        let _ = server.client.end_of(id).await?;
        let inspected: Vec<Value> = serde_json::from_str(&text)?;
        Ok(Self(flags_of(inspected.first().context("no such container")?)))
    }

    /// With another log driver.
    pub fn logging_by(&self, driver: &str) -> Self {
        let mut flags = self.0.clone();
        flags.retain(|flag| !flag.starts_with("--log-driver"));
        flags.push(format!("--log-driver={driver}"));
        Self(flags)
    }

    /// `docker run --rm FLAGS IMAGE ARGV`, its standard output to `out`.
    ///
    /// # Errors
    /// It fails.
    pub async fn run(&self, image: &str, argv: &[&str], out: Stdio) -> anyhow::Result<Duration> {
        let mut command = Command::new("docker");
        command.args(["run", "--rm"]).args(&self.0).arg(image).args(argv);
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let watch = Stopwatch::start();
        let output = command
            .spawn()
            .context("starting docker")?
            .wait_with_output()
            .await?;
        let took = watch.read();
        anyhow::ensure!(
            output.status.success(),
            "`docker run` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }
}

impl std::fmt::Display for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Mounts are left out: `docker run` gets no workspace, which only makes it quicker.
fn flags_of(container: &Value) -> Vec<String> {
    let (host, config) = (&container["HostConfig"], &container["Config"]);
    let mut flags = Vec::new();
    let mut flag = |name: &str, value: &str| {
        if !value.is_empty() {
            flags.push(format!("--{name}={value}"));
        }
    };
    if host["ReadonlyRootfs"] == Value::Bool(true) {
        flag("read-only", "true");
    }
    for (name, list) in [
        ("cap-drop", &host["CapDrop"]),
        ("security-opt", &host["SecurityOpt"]),
    ] {
        for value in list.as_array().into_iter().flatten() {
            flag(name, value.as_str().unwrap_or_default());
        }
    }
    let words = [
        ("network", &host["NetworkMode"]),
        ("ipc", &host["IpcMode"]),
        ("cgroupns", &host["CgroupnsMode"]),
        ("log-driver", &host["LogConfig"]["Type"]),
        ("user", &config["User"]),
        ("workdir", &config["WorkingDir"]),
    ];
    for (name, value) in words {
        flag(name, value.as_str().unwrap_or_default());
    }
    let numbers = [
        ("pids-limit", "PidsLimit"),
        ("memory", "Memory"),
        ("memory-swap", "MemorySwap"),
        ("cpu-shares", "CpuShares"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
    ];
    for (name, key) in numbers {
        if let Some(value) = host[key].as_i64().filter(|value| *value != 0) {
            flag(name, &value.to_string());
        }
    }
    if let Some(nano) = host["NanoCpus"].as_f64().filter(|nano| *nano > 0.0) {
        flag("cpus", &format!("{}", nano / 1e9));
    }
    for limit in host["Ulimits"].as_array().into_iter().flatten() {
        let name = limit["Name"].as_str().unwrap_or_default();
        flag("ulimit", &format!("{name}={}:{}", limit["Soft"], limit["Hard"]));
    }
    for (path, options) in host["Tmpfs"].as_object().into_iter().flatten() {
        flag(
            "tmpfs",
            &format!("{path}:{}", options.as_str().unwrap_or_default()),
        );
    }
    flags
}

/// Ids of all containers that run.
async fn containers() -> anyhow::Result<Vec<String>> {
    let text = said(&["ps", "--quiet", "--no-trunc"]).await?;
    Ok(text.lines().map(str::to_owned).collect())
}

async fn said(arguments: &[&str]) -> anyhow::Result<String> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let output = Command::new("docker")
        .args(&arguments)
        .output()
        .await
        .context("starting docker")?;
    anyhow::ensure!(
        output.status.success(),
        "docker {arguments:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_has_becomes_flags() {
        let container = serde_json::json!({
            "Config": { "User": "65532:65532", "WorkingDir": "/workspace" },
            "HostConfig": {
                "ReadonlyRootfs": true, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"],
                "NetworkMode": "none", "PidsLimit": 256, "Memory": 1024, "MemorySwap": 1024, "NanoCpus": 1_500_000_000i64,
                "CpuQuota": 0, "LogConfig": { "Type": "none" }, "Tmpfs": { "/tmp": "rw,noexec" },
                "Ulimits": [{ "Name": "nofile", "Soft": 1024, "Hard": 1024 }]
            }
        });
        let flags = Flags(flags_of(&container)).logging_by("json-file").to_string();
        for wanted in [
            "--read-only=true",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges:true",
            "--network=none",
            "--pids-limit=256",
            "--memory=1024",
            "--memory-swap=1024",
            "--cpus=1.5",
            "--ulimit=nofile=1024:1024",
            "--tmpfs=/tmp:rw,noexec",
            "--user=65532:65532",
            "--log-driver=json-file",
        ] {
            assert!(flags.contains(wanted), "{wanted} is missing in {flags}");
        }
        assert!(
            !flags.contains("=none --log") && !flags.contains("cpu-quota"),
            "{flags}"
        );
    }
}
