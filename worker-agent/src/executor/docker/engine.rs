//! The connection to the engine, and its errors in words.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::{RemoveContainerOptions, WaitContainerOptions};
use futures_util::StreamExt as _;

/// Where an engine listens unless told otherwise.
pub const SOCKET_DEFAULT: &str = "/var/run/docker.sock";

/// What it tells of a containerd that does not answer it.
const CONTAINERD_AWAY: &str = "N/A";

/// How long somebody else's removal of a container is waited for.
const REMOVAL_MAX: Duration = Duration::from_secs(10);

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

    /// Kills and removes a container with its anonymous volumes. One that is gone is no error: it answers whether there
    /// was one.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn remove(&self, container: &str) -> Result<bool, EngineError> {
        let client = self.client()?;
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        let mut outcome = client.remove_container(container, Some(options.clone())).await;
        let was_there = !outcome.as_ref().is_err_and(is_not_found);
        if outcome.as_ref().is_err_and(is_conflict) {
            // The engine is at it already, and may fail: when that is over it is asked again, which tells.
            let condition = WaitContainerOptions {
                condition: "removed".to_owned(),
            };
            let mut removed = std::pin::pin!(client.wait_container(container, Some(condition)));
            let _over = tokio::time::timeout(REMOVAL_MAX, removed.next()).await;
            outcome = client.remove_container(container, Some(options)).await;
        }
        match outcome {
            Err(error) if !is_not_found(&error) => Err(error),
            Ok(()) | Err(_) => Ok(was_there),
        }
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

/// Whether the engine may have done, or may yet do, what it was asked for: it has neither said no, nor was it out of
/// reach.
pub fn may_be_done(error: &EngineError) -> bool {
    let was_reached = !matches!(error, EngineError::HyperLegacyError { err } if err.is_connect());
    status(error).is_none() && was_reached
}

/// The engine is at it already.
fn is_conflict(error: &EngineError) -> bool {
    status(error) == Some(409)
}

const fn status(error: &EngineError) -> Option<u16> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const IN_PROGRESS: (&str, &str) = (
        "409 Conflict",
        r#"{"message":"removal of container c is already in progress"}"#,
    );
    const REMOVED: (&str, &str) = ("200 OK", r#"{"StatusCode":137}"#);

    /// Answers one request after the other, and tells what was asked.
    async fn answer(listener: UnixListener, answers: &[(&str, &str)]) -> Vec<String> {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let line = String::from_utf8_lossy(&request[..length]);
            let words: Vec<&str> = line.split([' ', '?']).take(2).collect();
            asked.push(words.join(" ").replace("/v1.41", ""));
            let head = "content-type: application/json\r\nconnection: close";
            let answer = format!(
                "HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    }

    #[tokio::test]
    async fn what_was_not_answered_may_be_done_and_what_was_refused_or_could_not_be_asked_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let engine = Engine::at(socket.clone());
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = async || engine.client().unwrap().info().await.unwrap_err();
        let hangs_up = async {
            drop(listener.accept().await.unwrap());
            let no = ("500 Internal Server Error", r#"{"message":"no"}"#);
            answer(listener, &[no]).await
        };
        let ((unanswered, refused), _) = tokio::join!(async { (asked().await, asked().await) }, hangs_up);
        let unreached = asked().await;
        for (error, expected) in [(unanswered, true), (refused, false), (unreached, false)] {
            assert_eq!(may_be_done(&error), expected, "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_removal_that_is_in_progress_is_waited_for_and_then_asked_about() {
        let gone = ("404 Not Found", r#"{"message":"No such container: c"}"#);
        let failed = ("500 Internal Server Error", r#"{"message":"device busy"}"#);
        for (last, ends_well) in [(gone, true), (failed, false)] {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let engine = Engine::at(socket);
            let answers = [IN_PROGRESS, REMOVED, last];
            let (removed, asked) = tokio::join!(engine.remove("c"), answer(listener, &answers));
            assert_eq!(removed.is_ok_and(|was_there| was_there), ends_well);
            let expected = [
                "DELETE /containers/c",
                "POST /containers/c/wait",
                "DELETE /containers/c",
            ];
            assert_eq!(asked, expected);
        }
    }
}
