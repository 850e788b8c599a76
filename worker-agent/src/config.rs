//! What an agent has to be told, parsed once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::config::LeaseTimes;
use common::ids::PoolName;
use common::protocol::token::WorkerKey;
use common::protocol::{FILES_PATH_PREFIX, WEBSOCKET_PATH};
use common::worker::Capacity;

/// The audience of worker tokens where nobody configured another.
pub const AUDIENCE_DEFAULT: &str = "jobworker";

#[derive(Debug, Clone)]
pub struct Config {
    pub key: WorkerKey,
    pub server: ServerUrl,
    pub audience: String,
    /// Journal, spools and inputs; locked by this agent.
    pub state_folder: PathBuf,
    pub pool: PoolName,
    pub labels: BTreeMap<String, String>,
    pub capacity: Capacity,
    pub link: LinkTimes,
    pub on_stop: OnStop,
    pub limits: AgentLimits,
}

impl Config {
    /// With the defaults for everything that need not be said; the capacity is this machine's.
    pub fn new(key: WorkerKey, server: ServerUrl, state_folder: PathBuf) -> Self {
        let capacity = crate::machine::capacity(&state_folder);
        Self {
            key,
            server,
            audience: AUDIENCE_DEFAULT.into(),
            state_folder,
            pool: PoolName::default(),
            labels: BTreeMap::new(),
            capacity,
            link: LinkTimes::from(&LeaseTimes::REAL),
            on_stop: OnStop::Leave,
            limits: AgentLimits::default(),
        }
    }
}

/// What the agent needs to know before the control plane tells it the other times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkTimes {
    pub ping: Duration,
    pub pong_deadline: Duration,
    pub backoff_max: Duration,
    pub handshake: Duration,
}

impl From<&LeaseTimes> for LinkTimes {
    fn from(times: &LeaseTimes) -> Self {
        Self {
            ping: times.ping,
            pong_deadline: times.pong_deadline,
            backoff_max: times.backoff_max,
            handshake: times.handshake,
        }
    }
}

/// What becomes of running jobs when the agent is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// They run on, and the next start adopts them.
    Leave,
    /// Nothing new is taken; what still runs after this long is ended and reported, to be tried elsewhere.
    Drain { within: Duration },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentLimits {
    /// How long a report waits for the log's chunks to be stored, counted from the last sign of progress while
    /// connected. Then it is sent without: the gateway finds what is missing.
    pub log_wait: Duration,
    /// A report that was not acknowledged for this long while connected is sent again.
    pub result_resend: Duration,
    /// A container of this life that the journal does not know is removed when it is older.
    pub creation_grace: Duration,
    /// How often the executor is asked for its condition.
    pub condition_every: Duration,
    /// How often containers are looked through for orphans.
    pub orphans_every: Duration,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            log_wait: Duration::from_secs(30),
            result_resend: Duration::from_secs(15),
            creation_grace: Duration::from_secs(600),
            condition_every: Duration::from_secs(10),
            orphans_every: Duration::from_secs(300),
        }
    }
}

/// Where the control plane's worker gateway listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerUrlError {
    #[error("expected ws://host:port, found `{0}`")]
    Malformed(String),
    #[error(
        "this build speaks no TLS: let a tunnel or proxy on this host speak it, and give its address as ws://127.0.0.1:port"
    )]
    NoTls,
    #[error(
        "ws:// to another host sends jobs and tokens in the clear: give a loopback address, or allow it with --insecure-dev"
    )]
    InTheClear,
}

impl ServerUrl {
    /// Reads `ws://host:port` (or `http://`, the same thing). Without `insecure_dev` only loopback is accepted.
    ///
    /// # Errors
    /// [`ServerUrlError`], a sentence that says what to give instead.
    pub fn parse(text: &str, insecure_dev: bool) -> Result<Self, ServerUrlError> {
        let malformed = || ServerUrlError::Malformed(text.to_owned());
        let url: http::Uri = text.trim().parse().map_err(|_| malformed())?;
        match url.scheme_str() {
            Some("ws" | "http") => {}
            Some("wss" | "https") => return Err(ServerUrlError::NoTls),
            _ => return Err(malformed()),
        }
        let authority = url.authority().ok_or_else(malformed)?;
        let path_good = matches!(url.path(), "/" | "" | WEBSOCKET_PATH) && url.query().is_none();
        if !path_good || authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(malformed());
        }
        if !insecure_dev && !is_loopback(authority.host()) {
            return Err(ServerUrlError::InTheClear);
        }
        Ok(Self {
            authority: authority.as_str().to_owned(),
        })
    }

    pub fn websocket(&self) -> String {
        format!("ws://{}{WEBSOCKET_PATH}", self.authority)
    }

    /// Of a path below [`FILES_PATH_PREFIX`].
    pub fn file(&self, file: common::ids::FileId) -> String {
        format!("http://{}{FILES_PATH_PREFIX}{file}", self.authority)
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for good in [
            "ws://127.0.0.1:8080",
            "ws://localhost:1",
            "ws://[::1]:8080/",
            "http://127.0.0.1:9/ws/worker",
        ] {
            assert!(ServerUrl::parse(good, false).is_ok(), "{good}");
        }
        assert_eq!(
            ServerUrl::parse("ws://example.org:80", false),
            Err(ServerUrlError::InTheClear)
        );
        assert!(ServerUrl::parse("ws://example.org:80", true).is_ok());
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_a_reason() {
        assert_eq!(
            ServerUrl::parse("wss://127.0.0.1", true),
            Err(ServerUrlError::NoTls)
        );
        for bad in [
            "",
            "127.0.0.1",
            "ftp://127.0.0.1",
            "ws://127.0.0.1/x",
            "ws://u@127.0.0.1",
        ] {
            assert!(
                matches!(ServerUrl::parse(bad, true), Err(ServerUrlError::Malformed(_))),
                "{bad}"
            );
        }
    }
}
