//! Follows a job's output, through lost connections and restarts of the server: in frames of bytes, or by server-sent
//! events where a server or something before it knows no frames.
//!
//! Each chunk is delivered once: `Last-Event-ID` resumes after the last one, and what comes again is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use common::api_types::{
    AttemptEvent, BadFrame, EndEvent, EventId, FRAMES_CONTENT_TYPE, FollowEvent, FollowedChunk, FrameReader,
    LogChunkView, StateEvent, event, paths,
};
use common::ids::JobId;
use reqwest::{Response, StatusCode, header};
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
    Log(FollowedChunk),
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
    open: Option<(Response, Parser)>,
    ready: VecDeque<FollowEvent>,
    was_open: bool,
    /// To be told, once what came before is.
    lost: bool,
    tries: u32,
}

/// By what the server answered with.
#[derive(Debug)]
enum Parser {
    Frames(FrameReader),
    Events(EventParser),
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
            lost: false,
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
                if let Some(followed) = self.followed(event) {
                    return Ok(followed);
                }
            }
            if std::mem::take(&mut self.lost) {
                return Ok(Followed::Lost);
            }
            if self.open.is_some() {
                if !self.read().await? {
                    self.open = None;
                    self.lost = true;
                }
            } else if self.connect().await? && std::mem::replace(&mut self.was_open, true) {
                return Ok(Followed::Back);
            }
        }
    }

    /// Whether the connection lives.
    async fn read(&mut self) -> Result<bool, Failure> {
        let Some((response, parser)) = &mut self.open else {
            return Ok(false);
        };
        let Ok(Ok(Some(bytes))) = tokio::time::timeout(SILENCE_MAX, response.chunk()).await else {
            return Ok(false);
        };
        let sound = match parser {
            Parser::Frames(reader) => take_frames(reader, bytes, &mut self.ready)?,
            Parser::Events(parser) => {
                let mut events = Vec::new();
                let sound = parser.push(&bytes, &mut events).is_ok();
                for event in &events {
                    self.ready.extend(understood(event)?);
                }
                sound
            }
        };
        if sound {
            self.tries = 0;
        } else if self.tries >= TRIES_MAX {
            return Err(not_understood("what it sends is cut or garbled each time"));
        } else {
            // or what is broken each time would be asked for without a pause
            self.tries = self.tries.max(1);
        }
        Ok(sound)
    }

    /// Whether it is connected; false when it should be tried again.
    async fn connect(&mut self) -> Result<bool, Failure> {
        if self.tries > 0 {
            let doubled = BACKOFF_FIRST.saturating_mul(1 << self.tries.min(8));
            tokio::time::sleep(doubled.min(BACKOFF_MAX)).await;
        }
        self.tries += 1;
        let path = paths::job_logs_follow(self.job);
        let accepted = format!("{FRAMES_CONTENT_TYPE}, text/event-stream;q=0.5");
        let mut request = self
            .client
            .request(&Call::get(&path))
            .header(header::ACCEPT, accepted);
        if let Some(last) = self.last {
            request = request.header("last-event-id", last.to_string());
        }
        match request.send().await {
            Ok(response) if response.status().is_success() => {
                let parser = parser_of(&response);
                self.open = Some((response, parser));
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

    /// None for output that was there before.
    fn followed(&mut self, event: FollowEvent) -> Option<Followed> {
        Some(match event {
            FollowEvent::Log(chunk) => {
                let id = chunk.id();
                let seen = |last: EventId| (last.attempt, last.position) >= (id.attempt, id.position);
                if self.last.is_some_and(seen) {
                    return None;
                }
                self.last = Some(id);
                Followed::Log(chunk)
            }
            FollowEvent::State(state) => Followed::State(state),
            FollowEvent::Attempt(attempt) => Followed::Attempt(attempt),
            FollowEvent::End(end) => Followed::End(end),
        })
    }
}

fn parser_of(response: &Response) -> Parser {
    let content_type = response.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes() == FRAMES_CONTENT_TYPE.as_bytes()) {
        Parser::Frames(FrameReader::default())
    } else {
        Parser::Events(EventParser::default())
    }
}

/// Whether what follows can be read: frames that break off are a connection's fault, and another one begins anew.
fn take_frames(
    reader: &mut FrameReader,
    bytes: Bytes,
    ready: &mut VecDeque<FollowEvent>,
) -> Result<bool, Failure> {
    reader.push(bytes);
    loop {
        match reader.next_event() {
            Ok(Some(event)) => ready.push_back(event),
            Ok(None) => return Ok(true),
            Err(BadFrame::TooLong | BadFrame::CutShort | BadFrame::UnknownStream) => return Ok(false),
            Err(error @ BadFrame::NotJson(_)) => return Err(not_understood(error)),
        }
    }
}

fn understood(event: &Event) -> Result<Option<FollowEvent>, Failure> {
    Ok(Some(match event.name.as_str() {
        event::LOG => {
            let chunk = parse::<LogChunkView>(event)?.into_chunk();
            FollowEvent::Log(chunk.ok_or_else(|| not_understood("a chunk that is not base64"))?)
        }
        event::STATE => FollowEvent::State(parse(event)?),
        event::ATTEMPT => FollowEvent::Attempt(parse(event)?),
        event::END => FollowEvent::End(parse(event)?),
        // of a newer server
        _ => return Ok(None),
    }))
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

#[cfg(test)]
mod tests {
    use common::job::StateName;
    use common::log::Stream;

    use super::*;

    #[test]
    fn a_broken_frame_ends_the_connection_after_what_came_before_and_one_of_bad_json_the_command() {
        let state = FollowEvent::State(StateEvent {
            state: StateName::Running,
            cancelling: false,
        });
        let whole = common::api_types::frame(&state).unwrap().concat();
        let after = |broken: &[u8]| {
            let bytes = Bytes::from([&whole[..], broken].concat());
            let mut ready = VecDeque::new();
            let sound = take_frames(&mut FrameReader::default(), bytes, &mut ready);
            assert_eq!(ready, std::slice::from_ref(&state));
            sound
        };
        assert!(after(&whole[..3]).unwrap(), "the rest is to come");
        assert!(!after(&[1, 0xff, 0xff, 0xff, 0xff]).unwrap(), "too long");
        assert!(!after(&[1, 0, 0, 0, 1, 0]).unwrap(), "a chunk without its head");
        let mut unknown = [0; 5 + 29];
        (unknown[0], unknown[4], unknown[5 + 12]) = (1, 29, 9);
        assert!(!after(&unknown).unwrap(), "an unknown stream");
        after(&[2, 0, 0, 0, 1, b'{']).unwrap_err();
    }

    #[test]
    fn events_of_a_server_without_frames_say_the_same() {
        let event = |name: &str, data: &str| Event {
            name: name.to_owned(),
            data: data.to_owned(),
            id: None,
        };
        let log = r#"{"attempt":1,"position":7,"stream":"stderr","seq":3,"at":5,"data":"AP8="}"#;
        match understood(&event(event::LOG, log)).unwrap() {
            Some(FollowEvent::Log(chunk)) => {
                assert_eq!(
                    (chunk.id().to_string().as_str(), chunk.stream, chunk.seq),
                    ("1:7", Stream::Stderr, 3)
                );
                assert_eq!(&chunk.bytes[..], [0, 255]);
            }
            other => panic!("{other:?}"),
        }
        let state = event(event::STATE, r#"{"state":"running","cancelling":false}"#);
        assert!(matches!(understood(&state).unwrap(), Some(FollowEvent::State(_))));
        assert!(understood(&event("of a newer server", "")).unwrap().is_none());
        assert!(understood(&event(event::LOG, "{}")).is_err());
    }
}
