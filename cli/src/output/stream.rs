//! A job's two streams, each to its own end of this program.
//!
//! Where a terminal listens, control sequences other than colours are taken out unless the user asks for them; a file
//! or a pipe gets the bytes as the job wrote them.

use std::io::Write;

use common::log::Stream;

use super::sanitise::Sanitiser;
use super::{note, stderr_is_terminal, stdout_is_terminal, unwritten};
use crate::failure::Failure;

#[derive(Debug)]
pub struct JobOutput {
    filters: [Option<Sanitiser>; 2],
    /// The number of the chunk that comes next, by stream: what is missing between is told.
    expected: [u64; 2],
    attempt: u32,
    terminal: bool,
    /// Whether the last byte on the terminal was not a line feed.
    mid_line: bool,
}

impl JobOutput {
    pub fn new(raw: bool) -> Self {
        let filter = |terminal: bool| (terminal && !raw).then(Sanitiser::default);
        Self {
            filters: [filter(stdout_is_terminal()), filter(stderr_is_terminal())],
            expected: [0; 2],
            attempt: 0,
            terminal: stdout_is_terminal() && stderr_is_terminal(),
            mid_line: false,
        }
    }

    /// Chunk `seq` of a stream. What is missing before it is told on stderr, at its place.
    ///
    /// # Errors
    /// The stream cannot be written.
    pub fn chunk(&mut self, attempt: u32, stream: Stream, seq: u64, bytes: &[u8]) -> Result<(), Failure> {
        if attempt != self.attempt {
            self.attempt = attempt;
            self.expected = [0; 2];
        }
        let expected = std::mem::replace(&mut self.expected[stream.index()], seq.saturating_add(1));
        if seq > expected {
            self.break_line();
            let missing = seq - expected;
            note(&format!(
                "[{missing} pieces of {} are missing here]",
                stream.as_str()
            ));
        }
        self.bytes(stream, bytes)
    }

    /// # Errors
    /// The stream cannot be written.
    pub fn bytes(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
        let mut shown = Vec::new();
        let shown = match &mut self.filters[stream.index()] {
            Some(filter) => {
                filter.push(bytes, &mut shown);
                shown.as_slice()
            }
            None => bytes,
        };
        if let Some(last) = shown.last() {
            self.mid_line = *last != b'\n';
        }
        write(stream, shown)
    }

    /// Before a message: on a terminal it begins a line of its own.
    pub fn break_line(&mut self) {
        if self.terminal && std::mem::take(&mut self.mid_line) {
            let _ = std::io::stderr().lock().write_all(b"\n");
        }
    }

    /// # Errors
    /// A stream cannot be written.
    pub fn finish(&mut self) -> Result<(), Failure> {
        for stream in Stream::ALL {
            let mut rest = Vec::new();
            if let Some(filter) = &mut self.filters[stream.index()] {
                filter.finish(&mut rest);
            }
            write(stream, &rest)?;
        }
        Ok(())
    }
}

fn write(stream: Stream, bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = match stream {
        Stream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Stderr => std::io::stderr().lock().write_all(bytes),
    };
    written.map_err(unwritten)
}
