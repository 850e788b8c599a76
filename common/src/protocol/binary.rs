//! Log chunks as binary frames: a fixed head, then the bytes as they are.
//!
//! `kind (1) | job (16) | attempt (16) | stream (1) | seq (8) | bytes`, numbers big-endian.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{AttemptId, JobId};
use crate::log::{CHUNK_BYTES_MAX, LogChunk, Stream};

pub const HEAD_LEN: usize = 1 + 16 + 16 + 1 + 8;

const KIND_LOG_CHUNK: u8 = 1;

/// Why a binary frame is not a log chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    #[error("shorter than its head of {HEAD_LEN} bytes")]
    Short,
    #[error("of an unknown kind")]
    UnknownKind,
    #[error("names neither stdout nor stderr")]
    UnknownStream,
    #[error("carries more than {CHUNK_BYTES_MAX} bytes")]
    TooLong,
}

pub fn encode(job: JobId, chunk: &LogChunk) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_LEN + chunk.bytes.len());
    frame.put_u8(KIND_LOG_CHUNK);
    frame.put_u128(job.as_u128());
    frame.put_u128(chunk.attempt.as_u128());
    frame.put_u8(if chunk.stream == Stream::Stdout { 0 } else { 1 });
    frame.put_u64(chunk.seq);
    frame.put_slice(&chunk.bytes);
    frame.freeze()
}

/// # Errors
/// When the frame is not one that [`encode`] makes.
pub fn decode(frame: &Bytes) -> Result<(JobId, LogChunk), BinaryError> {
    let head: &[u8; HEAD_LEN] = frame.first_chunk().ok_or(BinaryError::Short)?;
    if head[0] != KIND_LOG_CHUNK {
        return Err(BinaryError::UnknownKind);
    }
    if frame.len() > HEAD_LEN + CHUNK_BYTES_MAX {
        return Err(BinaryError::TooLong);
    }
    let (job, attempt, seq) = (number(&head[1..17]), number(&head[17..33]), number(&head[34..42]));
    let stream = Stream::from_index(head[33]).ok_or(BinaryError::UnknownStream)?;
    let chunk = LogChunk {
        attempt: AttemptId::from_u128(attempt),
        stream,
        seq: u64::try_from(seq).expect("made of 8 bytes"),
        bytes: frame.slice(HEAD_LEN..),
    };
    Ok((JobId::from_u128(job), chunk))
}

fn number(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |value, &byte| (value << 8) | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_reads_back_as_itself(job: u128, attempt: u128, stderr: bool, seq: u64, bytes: Vec<u8>) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let chunk = LogChunk { attempt: AttemptId::from_u128(attempt), stream, seq, bytes: bytes.into() };
            prop_assert_eq!(decode(&encode(JobId::from_u128(job), &chunk)), Ok((JobId::from_u128(job), chunk)));
        }

        #[test]
        fn no_frame_panics(bytes: Vec<u8>) {
            let _ = decode(&bytes.into());
        }
    }
}
