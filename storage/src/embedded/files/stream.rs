//! A file's bytes as a stream of bounded chunks.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use common::store::ByteStream;
use futures_util::stream;

use super::super::readers::blocking;
use super::super::sqlite::{corrupt, io};

/// Bytes in memory at a time, each reader.
const CHUNK: u64 = 64 * 1024;

pub(super) fn of(file: File, start: u64, end: u64) -> ByteStream {
    Box::pin(stream::try_unfold((file, start), move |(file, at)| async move {
        if at >= end {
            return Ok(None);
        }
        let length = (end - at).min(CHUNK);
        let read = move || {
            let mut chunk = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut chunk, at)
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => corrupt("a file that is shorter than its record"),
                    _ => io(error),
                })?;
            Ok((Bytes::from(chunk), file))
        };
        let (chunk, file) = blocking(read).await?;
        Ok(Some((chunk, (file, at + length))))
    }))
}
