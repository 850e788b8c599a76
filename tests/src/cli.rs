//! The shell, as a person or a script uses it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::client::Client;
use crate::process::program;

/// `jobworker` with a configuration folder of its own.
#[derive(Debug)]
pub struct Shell {
    config: TempDir,
    server: Option<String>,
    token: Option<String>,
}

/// What a command left.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Shell {
    /// Nobody is signed in.
    ///
    /// # Errors
    /// When there is no temporary folder.
    pub fn new() -> Result<Self> {
        Ok(Self {
            config: tempfile::tempdir()?,
            server: None,
            token: None,
        })
    }

    /// Speaks with the client's server, in its name.
    ///
    /// # Errors
    /// When there is no temporary folder.
    pub fn of(client: &Client) -> Result<Self> {
        Ok(Self {
            server: Some(client.base()),
            token: Some(client.token().to_owned()),
            ..Self::new()?
        })
    }

    pub fn config(&self) -> &Path {
        self.config.path()
    }

    /// A new file in a folder of the shell's own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.config.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The command, to be changed before it runs.
    ///
    /// # Errors
    /// When the program was not built.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Command> {
        let mut command = Command::new(program("jobworker")?);
        command
            .env_remove("JOBWORKER_SERVER")
            .env_remove("JOBWORKER_TOKEN")
            .env_remove("JOBWORKER_STATE")
            .env("JOBWORKER_CONFIG", self.config.path())
            .env("NO_COLOR", "1")
            .args(arguments)
            .stdin(Stdio::null());
        if let Some(server) = &self.server {
            command.env("JOBWORKER_SERVER", server);
        }
        if let Some(token) = &self.token {
            command.env("JOBWORKER_TOKEN", token);
        }
        Ok(command)
    }

    /// Runs it to its end, whatever that is, without standing in the test's own way.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<Said> {
        finish(self.command(arguments)?).await
    }
}

/// Runs a prepared command to its end.
///
/// # Errors
/// When it cannot be started.
pub async fn finish(mut command: Command) -> Result<Said> {
    let shown = format!("{command:?}");
    let output = tokio::task::spawn_blocking(move || command.output())
        .await?
        .with_context(|| format!("{shown} could not be started"))?;
    Ok(Said::of(&output))
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}
