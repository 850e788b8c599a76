//! The connection to the engine, and its errors in words.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as EngineError;

/// Where an engine listens unless told otherwise.
pub const SOCKET_DEFAULT: &str = "/var/run/docker.sock";

/// What it tells of a containerd that does not answer it.
const CONTAINERD_AWAY: &str = "N/A";

/// Longest silence in one call. Creating and starting took half a second at the worst; a machine under load needs more.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A path to the engine's socket, from the setting, `DOCKER_HOST` or the default.
pub fn socket_path(setting: Option<&Path>) -> PathBuf {
    setting.map_or_else(
        || {
            std::env::var("DOCKER_HOST")
                .ok()
                .and_then(|host| host.strip_prefix("unix://").map(PathBuf::from))
                .unwrap_or_else(|| PathBuf::from(SOCKET_DEFAULT))
        },
        Path::to_path_buf,
    )
}

/// The engine, whether it answers or not: the client is made when the socket is first there.
#[derive(Debug)]
pub struct Engine {
    pub socket: PathBuf,
    client: OnceLock<Docker>,
}

impl Engine {
    pub fn at(socket: PathBuf) -> Self {
        Self {
            socket,
            client: OnceLock::new(),
        }
    }

    /// The client. The API's version is the lowest that we need, which every engine of the last years speaks, so that
    /// nothing has to be negotiated.
    ///
    /// # Errors
    /// When the socket was never there yet.
    pub fn client(&self) -> Result<&Docker, EngineError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let version = bollard::ClientVersion {
            major_version: 1,
            minor_version: 41,
        };
        let client =
            Docker::connect_with_unix(&self.socket.to_string_lossy(), CALL_TIMEOUT.as_secs(), &version)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// Whether it could start and end containers now.
    ///
    /// # Errors
    /// When it does not answer at all.
    pub async fn health(&self) -> Result<Health, EngineError> {
        let info = self.client()?.info().await?;
        let containerd = info.containerd_commit.and_then(|commit| commit.id);
        Ok(match containerd.as_deref() {
            Some(CONTAINERD_AWAY) => Health::WithoutContainerd,
            Some(_) | None => Health::Whole,
        })
    }
}

/// Of an engine that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    Whole,
    /// It goes on answering, and can neither start nor end a container.
    WithoutContainerd,
}

pub fn is_not_found(error: &EngineError) -> bool {
    status(error) == Some(404)
}

/// The engine is at it already.
pub fn is_conflict(error: &EngineError) -> bool {
    status(error) == Some(409)
}

fn status(error: &EngineError) -> Option<u16> {
    if let EngineError::DockerResponseServerError { status_code, .. } = error {
        Some(*status_code)
    } else {
        None
    }
}

/// The engine's own words, or those of the way there.
pub fn words(error: &EngineError) -> String {
    if let EngineError::DockerResponseServerError { message, .. } = error {
        return message.clone();
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
