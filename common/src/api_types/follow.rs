//! What a follower of a job is told, and the frames of bytes that it travels in where a client asks for them.
//!
//! A browser gets server-sent events, which are text: output goes through them in base64 within JSON. A
//! client that sends `Accept: application/vnd.jobworker.follow` gets frames instead, in which output travels
//! as it is: `kind (1) | length (4) | payload`, numbers big-endian. The payload of a chunk is
//! `attempt (4) | position (8) | stream (1) | seq (8) | at (8) | bytes`, that of the other events their JSON.
//! A kind that is not known is passed over, so that later ones may come. A reader holds one frame at the
//! most.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;

use super::{AttemptEvent, EndEvent, EventId, LogChunkView, StateEvent};
use crate::log::{CHUNK_BYTES_MAX, Stream};
use crate::store::StoredChunk;
use crate::time::Timestamp;

pub const FRAMES_CONTENT_TYPE: &str = "application/vnd.jobworker.follow";

/// Largest payload that is taken: a chunk with its head, and room for what is to come.
pub const PAYLOAD_BYTES_MAX: usize = 4 * CHUNK_BYTES_MAX;

/// Kind and length.
const HEAD_LEN: usize = 1 + 4;
const CHUNK_HEAD_LEN: usize = 4 + 8 + 1 + 8 + 8;

const KIND_IDLE: u8 = 0;
const KIND_LOG: u8 = 1;
const KIND_STATE: u8 = 2;
const KIND_ATTEMPT: u8 = 3;
const KIND_END: u8 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowEvent {
    /// At the beginning and with each change.
    State(StateEvent),
    /// Before the first output of each attempt.
    Attempt(AttemptEvent),
    Log(FollowedChunk),
    /// Nothing follows it.
    End(EndEvent),
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedChunk {
    /// The attempt's number.
    pub attempt: u32,
    /// Among all chunks of the attempt, in the order of arrival.
    pub position: u64,
    pub stream: Stream,
    /// In its stream.
    pub seq: u64,
    /// When it was stored.
    pub at: Timestamp,
    pub bytes: Bytes,
}

impl FollowedChunk {
    pub fn of(attempt: u32, stored: &StoredChunk) -> Self {
        Self {
            attempt,
            position: stored.position.0,
            stream: stored.chunk.stream,
            seq: stored.chunk.seq,
            at: stored.stored_at,
            bytes: stored.chunk.bytes.clone(),
        }
    }

    /// What brings a follower back to right after it.
    pub const fn id(&self) -> EventId {
        EventId {
            attempt: self.attempt,
            position: self.position,
        }
    }

    pub fn view(&self) -> LogChunkView {
        LogChunkView {
            attempt: self.attempt,
            position: self.position,
            stream: self.stream,
            seq: self.seq,
            at: self.at,
            data: data_encoding::BASE64.encode(&self.bytes),
        }
    }
}

impl LogChunkView {
    /// None when `data` is not base64.
    pub fn into_chunk(self) -> Option<FollowedChunk> {
        let bytes = self.bytes()?.into();
        Some(FollowedChunk {
            attempt: self.attempt,
            position: self.position,
            stream: self.stream,
            seq: self.seq,
            at: self.at,
            bytes,
        })
    }
}

/// The frame of an event, in two parts so that output need not be copied.
///
/// # Errors
/// An event that is no JSON.
pub fn frame(event: &FollowEvent) -> Result<[Bytes; 2], serde_json::Error> {
    let (kind, payload) = match event {
        FollowEvent::Log(chunk) => return Ok(chunk_frame(chunk)),
        FollowEvent::State(state) => (KIND_STATE, serde_json::to_vec(state)?),
        FollowEvent::Attempt(attempt) => (KIND_ATTEMPT, serde_json::to_vec(attempt)?),
        FollowEvent::End(end) => (KIND_END, serde_json::to_vec(end)?),
    };
    Ok([head(kind, payload.len(), 0).freeze(), payload.into()])
}

/// Says nothing but that the server lives.
pub const fn idle_frame() -> Bytes {
    Bytes::from_static(&[KIND_IDLE, 0, 0, 0, 0])
}

fn chunk_frame(chunk: &FollowedChunk) -> [Bytes; 2] {
    let mut head = head(KIND_LOG, CHUNK_HEAD_LEN + chunk.bytes.len(), CHUNK_HEAD_LEN);
    head.put_u32(chunk.attempt);
    head.put_u64(chunk.position);
    head.put_u8(if chunk.stream == Stream::Stdout { 0 } else { 1 });
    head.put_u64(chunk.seq);
    head.put_i64(chunk.at.as_millis());
    [head.freeze(), chunk.bytes.clone()]
}

fn head(kind: u8, payload: usize, more: usize) -> BytesMut {
    let mut head = BytesMut::with_capacity(HEAD_LEN + more);
    head.put_u8(kind);
    head.put_u32(u32::try_from(payload).expect("chunks and events are far below 4 GiB"));
    head
}

/// Why bytes are no frames.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of more than {PAYLOAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("a chunk that is cut short")]
    CutShort,
    #[error("a chunk of neither stdout nor stderr")]
    UnknownStream,
    #[error("an event that is not understood")]
    NotJson(#[from] serde_json::Error),
}

/// Reads frames from bytes as they arrive; output that arrives in one piece is not copied.
#[derive(Debug, Default)]
pub struct FrameReader {
    input: Bytes,
    /// The beginning of a frame whose end has not come.
    held: BytesMut,
}

impl FrameReader {
    /// Takes bytes. Everything before was read: [`FrameReader::next_event`] has said `None`.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.input.is_empty(), "bytes that were not read would be lost");
        self.input = bytes;
    }

    /// The next event; none when more bytes have to come first.
    ///
    /// # Errors
    /// [`BadFrame`]; nothing that follows can be read.
    pub fn next_event(&mut self) -> Result<Option<FollowEvent>, BadFrame> {
        while let Some((kind, payload)) = self.next_frame()? {
            if let Some(event) = parse(kind, payload)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, BadFrame> {
        if self.held.is_empty()
            && let Some(len) = frame_len(&self.input)?
            && self.input.len() >= len
        {
            return Ok(Some(opened(self.input.split_to(len))));
        }
        self.hold_until(HEAD_LEN);
        let Some(len) = frame_len(&self.held)? else {
            return Ok(None);
        };
        self.hold_until(len);
        Ok((self.held.len() == len).then(|| opened(self.held.split().freeze())))
    }

    fn hold_until(&mut self, len: usize) {
        let missing = len.saturating_sub(self.held.len());
        let part = self.input.split_to(missing.min(self.input.len()));
        self.held.reserve(missing);
        self.held.extend_from_slice(&part);
    }
}

/// Of the frame that these bytes begin with, if its head is there.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, BadFrame> {
    let Some(mut head) = bytes.get(1..HEAD_LEN) else {
        return Ok(None);
    };
    let payload = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
    if payload > PAYLOAD_BYTES_MAX {
        return Err(BadFrame::TooLong);
    }
    Ok(Some(HEAD_LEN + payload))
}

fn opened(mut frame: Bytes) -> (u8, Bytes) {
    let kind = frame[0];
    frame.advance(HEAD_LEN);
    (kind, frame)
}

fn parse(kind: u8, payload: Bytes) -> Result<Option<FollowEvent>, BadFrame> {
    fn json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, BadFrame> {
        Ok(serde_json::from_slice(payload)?)
    }
    Ok(Some(match kind {
        KIND_LOG => FollowEvent::Log(parse_chunk(payload)?),
        KIND_STATE => FollowEvent::State(json(&payload)?),
        KIND_ATTEMPT => FollowEvent::Attempt(json(&payload)?),
        KIND_END => FollowEvent::End(json(&payload)?),
        // nothing to tell, or of a newer server
        _ => return Ok(None),
    }))
}

fn parse_chunk(mut payload: Bytes) -> Result<FollowedChunk, BadFrame> {
    if payload.len() < CHUNK_HEAD_LEN {
        return Err(BadFrame::CutShort);
    }
    Ok(FollowedChunk {
        attempt: payload.get_u32(),
        position: payload.get_u64(),
        stream: Stream::from_index(payload.get_u8()).ok_or(BadFrame::UnknownStream)?,
        seq: payload.get_u64(),
        at: Timestamp::from_millis(payload.get_i64()),
        bytes: payload,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::StateName;

    fn any_event() -> impl Strategy<Value = FollowEvent> {
        let chunk = (
            any::<u32>(),
            any::<u64>(),
            any::<bool>(),
            any::<u64>(),
            any::<i64>(),
            any::<Vec<u8>>(),
        );
        let chunk = chunk.prop_map(|(attempt, position, stderr, seq, at, bytes)| {
            FollowEvent::Log(FollowedChunk {
                attempt,
                position,
                stream: if stderr { Stream::Stderr } else { Stream::Stdout },
                seq,
                at: Timestamp::from_millis(at),
                bytes: bytes.into(),
            })
        });
        let state = any::<bool>().prop_map(|cancelling| {
            FollowEvent::State(StateEvent {
                state: StateName::Running,
                cancelling,
            })
        });
        let end = any::<Option<i32>>().prop_map(|exit_code| {
            FollowEvent::End(EndEvent {
                state: StateName::Failed,
                outcome: None,
                exit_code,
            })
        });
        prop_oneof![chunk, state, end]
    }

    proptest! {
        #[test]
        fn events_read_back_as_themselves_wherever_the_network_cuts(
            events in proptest::collection::vec(any_event(), 0..6),
            cuts in proptest::collection::vec(1usize..60, 0..60),
        ) {
            let mut wire = Vec::new();
            for event in &events {
                wire.extend_from_slice(&idle_frame());
                for part in frame(event).unwrap() {
                    wire.extend_from_slice(&part);
                }
                // of a newer server
                wire.extend_from_slice(&[200, 0, 0, 0, 2, 7, 7]);
            }
            let (mut rest, mut reader, mut found) = (Bytes::from(wire), FrameReader::default(), Vec::new());
            let last = [usize::MAX];
            for cut in cuts.iter().chain(&last) {
                reader.push(rest.split_to(rest.len().min(*cut)));
                while let Some(event) = reader.next_event().unwrap() {
                    found.push(event);
                }
            }
            prop_assert_eq!(found, events);
        }

        #[test]
        fn no_bytes_panic_or_are_held_without_end(
            kind: u8,
            fill: u8,
            rest: Vec<u8>,
            piece in 1_000..3 * PAYLOAD_BYTES_MAX,
        ) {
            let mut largest = vec![kind];
            largest.put_u32(PAYLOAD_BYTES_MAX.try_into().unwrap());
            largest.resize(HEAD_LEN + PAYLOAD_BYTES_MAX, fill);
            let mut wire = Bytes::from([&largest[..], &largest, &rest].concat());
            let mut reader = FrameReader::default();
            while !wire.is_empty() {
                reader.push(wire.split_to(piece.min(wire.len())));
                let last = loop {
                    match reader.next_event() {
                        Ok(Some(_)) => {}
                        last => break last,
                    }
                };
                prop_assert!(reader.held.len() < HEAD_LEN + PAYLOAD_BYTES_MAX);
                if last.is_err() {
                    break;
                }
            }
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_it_is_held() {
        let mut reader = FrameReader::default();
        reader.push(Bytes::from_static(&[KIND_LOG, 0xff, 0xff, 0xff, 0xff]));
        assert!(matches!(reader.next_event(), Err(BadFrame::TooLong)));
        assert!(reader.held.capacity() <= 64);
        reader = FrameReader::default();
        reader.push(Bytes::from_static(&[KIND_LOG, 0, 0, 0, 1, 0]));
        assert!(matches!(reader.next_event(), Err(BadFrame::CutShort)));
    }
}
