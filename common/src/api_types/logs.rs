//! Output of attempts: pages and the events of a follower.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::StateName;
use crate::log::Stream;
use crate::store::StoredChunk;
use crate::time::Timestamp;

use super::OutcomeView;

/// Names of the events that `/jobs/{id}/logs/follow` sends.
pub mod event {
    /// Data: [`super::LogChunkView`]; its id resumes after it.
    pub const LOG: &str = "log";
    /// Data: [`super::StateEvent`], at the beginning and with each change.
    pub const STATE: &str = "state";
    /// Data: [`super::AttemptEvent`], before the first output of each attempt.
    pub const ATTEMPT: &str = "attempt";
    /// Data: [`super::EndEvent`]; nothing follows it.
    pub const END: &str = "end";
}

/// A piece of output, as the job wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChunkView {
    /// The attempt's number.
    #[schema(maximum = 4294967295u64)]
    pub attempt: u32,
    /// Its place among all chunks of the attempt, in the order of arrival.
    #[schema(maximum = 9007199254740991u64)]
    pub position: u64,
    pub stream: Stream,
    /// Its number in its stream, from 0; a gap is output that is missing.
    #[schema(maximum = 9007199254740991u64)]
    pub seq: u64,
    /// When it was stored.
    pub at: Timestamp,
    /// The bytes, in base64.
    #[schema(content_encoding = "base64")]
    pub data: String,
}

impl LogChunkView {
    pub fn of(attempt: u32, stored: &StoredChunk) -> Self {
        Self {
            attempt,
            position: stored.position.0,
            stream: stored.chunk.stream,
            seq: stored.chunk.seq,
            at: stored.stored_at,
            data: data_encoding::BASE64.encode(&stored.chunk.bytes),
        }
    }

    /// The bytes; none when `data` is not base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        data_encoding::BASE64.decode(self.data.as_bytes()).ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPageView {
    /// The attempt's number; absent where none was begun.
    #[schema(maximum = 4294967295u64)]
    pub attempt: Option<u32>,
    pub chunks: Vec<LogChunkView>,
    /// `from` of the next page.
    #[schema(maximum = 9007199254740991u64)]
    pub next: u64,
    /// True when the attempt has ended and nothing follows this page.
    pub complete: bool,
}

/// `id` of a `log` event, as `Last-Event-ID` brings it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    /// The attempt's number.
    pub attempt: u32,
    /// Of the last chunk received.
    pub position: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.attempt, self.position)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of an event, such as `1:42`")]
pub struct BadEventId;

impl FromStr for EventId {
    type Err = BadEventId;

    fn from_str(text: &str) -> Result<Self, BadEventId> {
        let (attempt, position) = text.split_once(':').ok_or(BadEventId)?;
        Ok(Self {
            attempt: attempt.parse().map_err(|_| BadEventId)?,
            position: position.parse().map_err(|_| BadEventId)?,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateEvent {
    pub state: StateName,
    /// Cancel was asked for and is not confirmed yet.
    pub cancelling: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptEvent {
    #[schema(maximum = 4294967295u64)]
    pub attempt: u32,
    pub worker: crate::ids::WorkerId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndEvent {
    pub state: StateName,
    pub outcome: Option<OutcomeView>,
    pub exit_code: Option<i32>,
}
