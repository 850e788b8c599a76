//! Follows a job's output over server-sent events, through lost connections and restarts of the server.
//!
//! Each chunk is delivered once: `Last-Event-ID` resumes after the last one, and what comes again is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use common::api_types::{AttemptEvent, EndEvent, EventId, LogChunkView, StateEvent, event, paths};
use common::ids::JobId;
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{Call, Client, Event, EventParser, errors};
use crate::failure::Failure;

/// The server sends a comment each 15 s: after three missed ones the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// About ten minutes at the longest pause: longer than a restart or an upgrade of the server takes.
const TRIES_MAX: u32 = 120;

/// What a follower sees.
#[derive(Debug)]
pub enum Followed {
    Log(LogChunkView, Vec<u8>),
    State(StateEvent),
    Attempt(AttemptEvent),
    /// The connection was lost; the next call tries again.
    Lost,
    /// Connected again.
    Back,
    End(EndEvent),
}

#[derive(Debug)]
pub struct Follower {
    client: Client,
    job: JobId,
    last: Option<EventId>,
    open: Option<(Response, EventParser)>,
    ready: VecDeque<Event>,
    was_open: bool,
    tries: u32,
}

impl Follower {
    pub fn new(client: Client, job: JobId) -> Self {
        Self {
            client,
            job,
            last: None,
            open: None,
            ready: VecDeque::new(),
            was_open: false,
            tries: 0,
        }
    }

    /// The next thing that happens. May be dropped and called again: nothing is lost by that.
    ///
    /// # Errors
    /// The server refuses, or does not come back.
    pub async fn next(&mut self) -> Result<Followed, Failure> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if let Some(followed) = self.understood(&event)? {
                    return Ok(followed);
                }
            }
            if self.open.is_some() {
                if !self.read().await {
                    self.open = None;
                    return Ok(Followed::Lost);
                }
            } else if self.connect().await? && std::mem::replace(&mut self.was_open, true) {
                return Ok(Followed::Back);
            }
        }
    }

    /// Whether the connection lives.
    async fn read(&mut self) -> bool {
        let Some((response, parser)) = &mut self.open else {
            return false;
        };
        let Ok(Ok(Some(bytes))) = tokio::time::timeout(SILENCE_MAX, response.chunk()).await else {
            return false;
        };
        self.tries = 0;
        let mut events = Vec::new();
        let sound = parser.push(&bytes, &mut events).is_ok();
        self.ready.extend(events);
        sound
    }

    /// Whether it is connected; false when it should be tried again.
    async fn connect(&mut self) -> Result<bool, Failure> {
        if self.tries > 0 {
            let doubled = BACKOFF_FIRST.saturating_mul(1 << self.tries.min(8));
            tokio::time::sleep(doubled.min(BACKOFF_MAX)).await;
        }
        self.tries += 1;
        let path = paths::job_logs_follow(self.job);
        let mut request = self.client.request(&Call::get(&path));
        if let Some(last) = self.last {
            request = request.header("last-event-id", last.to_string());
        }
        match request.send().await {
            Ok(response) if response.status().is_success() => {
                self.open = Some((response, EventParser::default()));
                Ok(true)
            }
            Ok(response) if !passes(response.status()) || !self.may_wait() => {
                self.client.accepted(Ok(response)).await.map(|_| true)
            }
            Err(error) if !self.may_wait() => Err(errors::transport(self.client.server(), error)),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    /// A server that was there a moment ago comes back; one that never was is told at once.
    const fn may_wait(&self) -> bool {
        self.was_open && self.tries < TRIES_MAX
    }

    fn understood(&mut self, event: &Event) -> Result<Option<Followed>, Failure> {
        let followed = match event.name.as_str() {
            event::LOG => {
                let chunk: LogChunkView = parse(event)?;
                let id = EventId {
                    attempt: chunk.attempt,
                    position: chunk.position,
                };
                let seen = |last: EventId| (last.attempt, last.position) >= (id.attempt, id.position);
                if self.last.is_some_and(seen) {
                    return Ok(None);
                }
                self.last = Some(event.id.as_deref().and_then(|id| id.parse().ok()).unwrap_or(id));
                let bytes = chunk
                    .bytes()
                    .ok_or_else(|| not_understood("a chunk that is not base64"))?;
                Followed::Log(chunk, bytes)
            }
            event::STATE => Followed::State(parse(event)?),
            event::ATTEMPT => Followed::Attempt(parse(event)?),
            event::END => Followed::End(parse(event)?),
            // of a newer server
            _ => return Ok(None),
        };
        Ok(Some(followed))
    }
}

/// A status that a restarting or loaded server gives for a moment.
fn passes(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

fn parse<T: DeserializeOwned>(event: &Event) -> Result<T, Failure> {
    serde_json::from_str(&event.data).map_err(not_understood)
}

fn not_understood(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new("the server's events were not understood")
        .source(error)
        .next("compare `jobworker --version` with the server's")
}
