//! The programs under test: where they are, and children that never outlive the test.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

/// A program of this build, by its name.
///
/// # Errors
/// When it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("this test does not know where it is")?;
    // target/debug/deps/test-0123 → target/debug
    let folder = test
        .ancestors()
        .nth(2)
        .context("this test does not lie in a target folder")?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: run scripts/build first", path.display());
    }
    Ok(path)
}

/// A child that is killed, by its own number, when nobody holds it any more.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null());
        command
            .spawn()
            .map(Self)
            .with_context(|| format!("{command:?} could not be started"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a child has a number")?;
        Ok(kill_process(pid, signal)?)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn stop(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        self.wait(within).await
    }

    /// # Errors
    /// When it does not end in time.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let pid = self.pid();
        wait_for(
            within,
            &format!("the end of process {pid}"),
            async || match self.ended() {
                Ok(Some(status)) => Ok(status),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        )
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The processes of this machine, those in containers too, whose command line contains `mark`.
pub fn with_mark(mark: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(mark) && !ours(&entry.file_name())).then_some(line)
        })
        .collect()
}

fn ours(pid: &std::ffi::OsStr) -> bool {
    pid.to_str() == Some(&std::process::id().to_string())
}
