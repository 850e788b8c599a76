//! A log chunk as a document, and the running state of its attempt's log, which every chunk carries.
//!
//! `_id` is the attempt and the chunk's position, so positions are unique and in order; a second unique index is
//! (attempt, stream, seq). Each chunk holds what is known of both streams once it is stored: the last chunk of an
//! attempt is all that has to be read to go on, and no question needs all of them. A chunk is only ever stored at the
//! position after the last one, so positions have no holes and a reader never passes one that comes later.

use bytes::Bytes;
use common::ids::AttemptId;
use common::log::{LogChunk, Stream};
use common::store::{LogExtent, LogPosition, StoredChunk, StreamExtent};
use common::time::Timestamp;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, RawDocument, doc};

use super::super::trouble::Trouble;

/// What is known of a stream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamHead {
    pub(super) chunks: i64,
    pub(super) bytes: i64,
    /// The first number that is not stored, all before it being there.
    pub(super) next_seq: i64,
    /// The highest stored; -1 for none.
    pub(super) top_seq: i64,
    /// Every chunk came after all lower ones, so `start` holds.
    pub(super) ordered: bool,
}

/// Where an attempt's log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) next_position: i64,
    pub(super) streams: [StreamHead; 2],
}

impl Head {
    pub(super) const EMPTY: Self = {
        let stream = StreamHead {
            chunks: 0,
            bytes: 0,
            next_seq: 0,
            top_seq: -1,
            ordered: true,
        };
        Self {
            next_position: 0,
            streams: [stream, stream],
        }
    };

    /// As the last chunk of an attempt tells it.
    pub(super) fn after(chunk: &RawDocument) -> Result<Self, Trouble> {
        let mut head = Self {
            next_position: chunk.get_i64("position")?.saturating_add(1),
            ..Self::EMPTY
        };
        let both = chunk.get_document("after")?;
        for stream in Stream::ALL {
            let told = both.get_document(stream.as_str())?;
            head.streams[stream.index()] = StreamHead {
                chunks: told.get_i64("chunks")?,
                bytes: told.get_i64("bytes")?,
                next_seq: told.get_i64("next_seq")?,
                top_seq: told.get_i64("top_seq")?,
                ordered: told.get_bool("ordered")?,
            };
        }
        Ok(head)
    }

    fn document(&self) -> Document {
        let mut both = Document::new();
        for stream in Stream::ALL {
            let head = &self.streams[stream.index()];
            both.insert(
                stream.as_str(),
                doc! {
                    "chunks": head.chunks, "bytes": head.bytes, "next_seq": head.next_seq,
                    "top_seq": head.top_seq, "ordered": head.ordered,
                },
            );
        }
        both
    }

    /// The document of the next chunk, and the head after it. `beyond`: numbers of its stream from `next_seq` on that
    /// are stored already, asked for where a chunk may fill a hole.
    pub(super) fn append(
        &mut self,
        chunk: &LogChunk,
        seq: i64,
        now: Timestamp,
        beyond: impl Fn(i64) -> bool,
    ) -> Document {
        let (position, index) = (self.next_position, chunk.stream.index());
        let length = i64::try_from(chunk.bytes.len()).unwrap_or(i64::MAX);
        let start = self.streams[index].bytes;
        let head = &mut self.streams[index];
        head.ordered &= seq > head.top_seq;
        head.chunks += 1;
        head.bytes += length;
        if seq == head.next_seq {
            head.next_seq += 1;
            while head.next_seq <= head.top_seq && beyond(head.next_seq) {
                head.next_seq += 1;
            }
        }
        head.top_seq = head.top_seq.max(seq);
        self.next_position += 1;
        doc! {
            "_id": place(chunk.attempt, position),
            "attempt": chunk.attempt.to_string(),
            "position": position,
            "stream": chunk.stream.as_str(),
            "seq": seq,
            "start": start,
            "length": length,
            "stored_at": now.as_millis(),
            "data": Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: chunk.bytes.to_vec() }),
            "after": self.document(),
        }
    }

    pub(super) fn extent(&self) -> LogExtent {
        let of = |stream: Stream| {
            let head = &self.streams[stream.index()];
            StreamExtent {
                chunks: head.chunks.cast_unsigned(),
                bytes: head.bytes.cast_unsigned(),
                next_seq: head.next_seq.cast_unsigned(),
            }
        };
        LogExtent {
            stdout: of(Stream::Stdout),
            stderr: of(Stream::Stderr),
            end: LogPosition(self.next_position.cast_unsigned()),
        }
    }
}

/// The id of the chunk at a position: order of text is order of positions.
pub(super) fn place(attempt: AttemptId, position: i64) -> String {
    format!("{attempt}/{position:016x}")
}

/// All chunks of an attempt from a position on. `0` is the character after `/`.
pub(super) fn places(attempt: AttemptId, from: i64) -> Document {
    doc! { "$gte": place(attempt, from), "$lt": format!("{attempt}0") }
}

pub(super) fn stored(attempt: AttemptId, chunk: &RawDocument) -> Result<StoredChunk, Trouble> {
    let stream = match chunk.get_str("stream")? {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return Err(Trouble::unreadable("a chunk's stream")),
    };
    Ok(StoredChunk {
        position: LogPosition(chunk.get_i64("position")?.cast_unsigned()),
        stored_at: Timestamp::from_millis(chunk.get_i64("stored_at")?),
        chunk: LogChunk {
            attempt,
            stream,
            seq: chunk.get_i64("seq")?.cast_unsigned(),
            bytes: Bytes::copy_from_slice(chunk.get_binary("data")?.bytes),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_places_is_order_of_positions() {
        let attempt = AttemptId::random();
        let positions = [0, 1, 9, 10, 15, 16, 255, 256, i64::MAX];
        assert!(
            positions
                .windows(2)
                .all(|two| place(attempt, two[0]) < place(attempt, two[1]))
        );
        assert!(place(attempt, i64::MAX) < format!("{attempt}0"));
    }

    #[test]
    fn a_head_reads_back_as_itself_through_holes_and_disorder() {
        let attempt = AttemptId::random();
        let mut head = Head::EMPTY;
        let mut seqs: Vec<i64> = Vec::new();
        for seq in [2, 0, 4, 1, 3] {
            let chunk = LogChunk {
                attempt,
                stream: Stream::Stderr,
                seq: seq as u64,
                bytes: Bytes::from_static(b"xy"),
            };
            let document = head.append(&chunk, seq, Timestamp::from_millis(5), |seq| seqs.contains(&seq));
            seqs.push(seq);
            let raw = mongodb::bson::RawDocumentBuf::try_from(&document).unwrap();
            assert_eq!(Head::after(&raw).unwrap(), head);
            assert_eq!(stored(attempt, &raw).unwrap().chunk, chunk);
        }
        let stderr = head.streams[1];
        assert_eq!(
            (stderr.chunks, stderr.bytes, stderr.next_seq, stderr.top_seq),
            (5, 10, 5, 4)
        );
        assert!(!stderr.ordered);
        assert_eq!(head.extent().end, LogPosition(5));
    }
}
