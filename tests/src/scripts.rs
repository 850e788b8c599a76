//! Runs the project's own scripts, as a person at a shell would, and tells what they said when they fail.

use std::ffi::OsStr;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::tidy::root;

/// A script of `scripts/`, ready for arguments and variables of the environment.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(root().join("scripts").join(name));
    command.current_dir(root());
    command
}

/// The docker client, at the engine of this Unix socket or, without one, at the engine in use.
pub fn docker(socket: Option<&str>) -> Command {
    let mut command = Command::new("docker");
    if let Some(socket) = socket {
        command.env("DOCKER_HOST", format!("unix://{socket}"));
    }
    command
}

/// Runs it to its end; an error carries all that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        bail!("{command:?} ended with {}:\n{out}{err}", output.status);
    }
    Ok(out.into_owned())
}

/// Runs it to its end, whatever that is.
pub fn output(command: &mut Command) -> Result<Output> {
    command.stdin(std::process::Stdio::null());
    command
        .output()
        .with_context(|| format!("{command:?} could not be started"))
}

/// A value of `scripts/images.env`.
pub fn image(variable: &str) -> Result<String> {
    let text = include_str!("../../scripts/images.env");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    value
        .map(str::to_owned)
        .with_context(|| format!("scripts/images.env does not set {variable}"))
}

/// An engine of a test's own (`scripts/engine`), stopped when the test ends, however it ends.
pub struct PrivateEngine {
    folder: tempfile::TempDir,
}

impl PrivateEngine {
    pub fn start() -> Result<Self> {
        // Not `TMPDIR`: the addresses of sockets below the folder have room for about a hundred bytes.
        let folder = tempfile::Builder::new().prefix("jwe").tempdir_in("/tmp")?;
        let engine = Self { folder };
        engine.tell("start")?;
        Ok(engine)
    }

    pub fn socket(&self) -> String {
        self.folder
            .path()
            .join("docker.sock")
            .to_string_lossy()
            .into_owned()
    }

    /// `start`, `stop` or `status` of `scripts/engine`.
    pub fn tell(&self, verb: &str) -> Result<String> {
        // The engine lives longer than this script: it must not hold the pipes that a test reads to their end.
        let output = output(script("engine").args([OsStr::new(verb), self.folder.path().as_os_str()]))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            bail!("engine {verb}: {said}");
        }
        Ok(said)
    }

    /// The process that answers at the socket.
    pub fn pid(&self) -> Result<i32> {
        let text = std::fs::read_to_string(self.folder.path().join("dockerd.pid"))?;
        text.trim()
            .parse()
            .with_context(|| format!("dockerd.pid holds `{text}`"))
    }

    /// The containerd that this engine has started for itself, and no other program.
    ///
    /// # Errors
    /// When none runs: dockerd uses the machine's own where there is one.
    pub fn containerd(&self) -> Result<i32> {
        let file = self.folder.path().join("exec/containerd/containerd.pid");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{}: the engine runs no containerd of its own", file.display()))?;
        let pid = text.trim();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let ours = command.contains("containerd") && command.contains(&*self.folder.path().to_string_lossy());
        if !ours {
            bail!("{pid} is not this engine's containerd: {command:?}");
        }
        pid.parse()
            .with_context(|| format!("containerd.pid holds `{pid}`"))
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        if let Err(error) = self.tell("stop") {
            eprintln!("the test's engine could not be stopped: {error:#}");
        }
    }
}
