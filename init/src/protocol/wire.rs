//! Frames as bytes: `00 | length, 2 bytes | stuffed body`.
//!
//! The body is `version, kind, payload, CRC-32 of what stands before it`, stuffed so that it holds no zero, and
//! the length (of the stuffed body) is two digits of base 255, each raised by one, for the same reason. So a zero
//! byte on the wire *is* the beginning of a frame and nothing else can be: an attacher that comes in the middle
//! skips to the next zero, and a job that writes bytes that look like a frame cannot have them taken for one,
//! wherever the attacher came in. Use a fresh [`FrameDecoder`] for each attachment.

use super::{
    PROTOCOL_VERSION,
    frame::{Data, Frame, Stream},
    stuffing::{find_zero, stuff, stuffed_len_max, unstuff},
};

/// The most bytes of output in one data frame, which is one log chunk: half of what a pipe holds, so that a
/// flood makes few chunks and a chunk fits well into every message on its way.
pub const CHUNK_BYTES_MAX: usize = 32 * 1024;

/// `seq`, `stream` and `stream_seq` before the bytes of a data frame.
const DATA_HEAD: usize = 8 + 1 + 8;
/// Version and kind.
const BODY_HEAD: usize = 2;
const CRC: usize = 4;
/// Data frames are the largest; all others are small JSON objects.
const PAYLOAD_MAX: usize = DATA_HEAD + CHUNK_BYTES_MAX;
const STUFFED_MAX: usize = stuffed_len_max(BODY_HEAD + PAYLOAD_MAX + CRC);
/// Mark and length.
const WIRE_HEAD: usize = 3;
/// The largest frame on the wire; a decoder holds no more than this.
pub const WIRE_FRAME_BYTES_MAX: usize = WIRE_HEAD + STUFFED_MAX;
/// What [`find_zero`] finds, and no stuffed byte is.
const MARK: u8 = 0;
/// Digits of the length: 1 to 255, never the mark.
const BASE: usize = 255;
const _: () = assert!(STUFFED_MAX < BASE * BASE, "the length must fit into two digits");

const KIND_READY: u8 = 1;
const KIND_STARTED: u8 = 2;
const KIND_DATA: u8 = 3;
const KIND_EXIT: u8 = 4;
const KIND_NOT_STARTED: u8 = 5;

/// A data frame with more than [`CHUNK_BYTES_MAX`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTooLarge {
    pub payload_bytes: usize,
}

impl std::fmt::Display for FrameTooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a frame's payload of {} bytes is larger than {PAYLOAD_MAX}",
            self.payload_bytes
        )
    }
}

impl std::error::Error for FrameTooLarge {}

/// The frame as it goes over the wire.
pub fn encode_frame(frame: &Frame) -> Result<Vec<u8>, FrameTooLarge> {
    let mut body = vec![PROTOCOL_VERSION];
    match frame {
        Frame::Ready(ready) => json_body(&mut body, KIND_READY, ready),
        Frame::Started(started) => json_body(&mut body, KIND_STARTED, started),
        Frame::Data(data) => data_body(&mut body, data),
        Frame::Exit(exit) => json_body(&mut body, KIND_EXIT, exit),
        Frame::NotStarted(not) => json_body(&mut body, KIND_NOT_STARTED, not),
    }
    let payload_bytes = body.len() - BODY_HEAD;
    if payload_bytes > PAYLOAD_MAX {
        return Err(FrameTooLarge { payload_bytes });
    }
    let crc = crc32fast::hash(&body);
    body.extend_from_slice(&crc.to_le_bytes());

    let mut wire = Vec::with_capacity(WIRE_HEAD + stuffed_len_max(body.len()));
    wire.extend_from_slice(&[MARK, MARK, MARK]);
    stuff(&body, &mut wire);
    let len = wire.len() - WIRE_HEAD;
    wire[1] = digit(len / BASE);
    wire[2] = digit(len % BASE);
    Ok(wire)
}

fn digit(value: usize) -> u8 {
    u8::try_from(value + 1).expect("a digit of base 255 is at most 254")
}

fn json_body<T: serde::Serialize>(body: &mut Vec<u8>, kind: u8, value: &T) {
    body.push(kind);
    serde_json::to_writer(body, value)
        .expect("plain structs of numbers and names always become JSON, and a Vec takes every write");
}

fn data_body(body: &mut Vec<u8>, data: &Data) {
    body.push(KIND_DATA);
    body.extend_from_slice(&data.seq.to_le_bytes());
    body.push(match data.stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    });
    body.extend_from_slice(&data.stream_seq.to_le_bytes());
    body.extend_from_slice(&data.bytes);
}

fn parse_body(stuffed: &[u8]) -> Option<Frame> {
    let mut body = Vec::with_capacity(stuffed.len());
    unstuff(stuffed, &mut body)?;
    let (checked, crc) = body.split_last_chunk::<CRC>()?;
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (&[version, kind], payload) = checked.split_first_chunk::<BODY_HEAD>()?;
    if version != PROTOCOL_VERSION {
        return None;
    }
    match kind {
        KIND_READY => serde_json::from_slice(payload).ok().map(Frame::Ready),
        KIND_STARTED => serde_json::from_slice(payload).ok().map(Frame::Started),
        KIND_DATA => parse_data(payload).map(Frame::Data),
        KIND_EXIT => serde_json::from_slice(payload).ok().map(Frame::Exit),
        KIND_NOT_STARTED => serde_json::from_slice(payload).ok().map(Frame::NotStarted),
        _ => None,
    }
}

fn parse_data(payload: &[u8]) -> Option<Data> {
    let (seq, rest) = payload.split_first_chunk::<8>()?;
    let (stream, rest) = rest.split_first()?;
    let (stream_seq, bytes) = rest.split_first_chunk::<8>()?;
    if bytes.len() > CHUNK_BYTES_MAX {
        return None;
    }
    Some(Data {
        seq: u64::from_le_bytes(*seq),
        stream: match stream {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        },
        stream_seq: u64::from_le_bytes(*stream_seq),
        bytes: bytes.to_vec(),
    })
}

/// Finds the frames in a stream of bytes; one for each attachment.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    state: State,
    held: Vec<u8>,
    broken: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Skipping to the next mark.
    #[default]
    Hunting,
    /// Behind a mark, before the length.
    Head,
    /// The second digit of the length is missing.
    Length { high: usize },
    /// `len` stuffed bytes belong to this frame.
    Body { len: usize },
}

impl FrameDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes from `input` up to the end of the next whole frame. `None`: all of `input` is taken; come again
    /// with more. Call it until it says `None`.
    pub fn next_frame(&mut self, input: &mut &[u8]) -> Option<Frame> {
        while let Some((&first, tail)) = input.split_first() {
            match self.state {
                State::Hunting => match find_zero(input) {
                    Some(at) => {
                        *input = &input[at + 1..];
                        self.state = State::Head;
                    }
                    None => *input = &[],
                },
                State::Head | State::Length { .. } if first == MARK => {
                    *input = tail;
                    self.broken += 1;
                    self.state = State::Head;
                }
                State::Head => {
                    *input = tail;
                    self.state = State::Length {
                        high: usize::from(first) - 1,
                    };
                }
                State::Length { high } => {
                    *input = tail;
                    self.begin_body(high * BASE + usize::from(first) - 1);
                }
                State::Body { len } => {
                    if let Some(frame) = self.take_body(len, input) {
                        return Some(frame);
                    }
                }
            }
        }
        None
    }

    /// Frames that were cut short, damaged, or of a kind that this version does not know. An attacher that
    /// comes in the middle of a frame has none: what stands before the first mark is not counted.
    pub fn broken_frames(&self) -> u64 {
        self.broken
    }

    /// Bytes held at the moment, for the tests of the bound.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    fn begin_body(&mut self, len: usize) {
        self.held.clear();
        if len == 0 || len > STUFFED_MAX {
            self.broken += 1;
            self.state = State::Hunting;
        } else {
            self.state = State::Body { len };
        }
    }

    fn take_body(&mut self, len: usize, input: &mut &[u8]) -> Option<Frame> {
        let part = &input[..input.len().min(len - self.held.len())];
        if let Some(at) = find_zero(part) {
            // cut short: what follows is the next frame's
            *input = &input[at + 1..];
            self.broken += 1;
            self.state = State::Head;
            return None;
        }
        self.held.extend_from_slice(part);
        *input = &input[part.len()..];
        if self.held.len() < len {
            return None;
        }
        self.state = State::Hunting;
        let frame = parse_body(&self.held);
        self.held.clear();
        if frame.is_none() {
            self.broken += 1;
        }
        frame
    }
}
