//! A job's two streams, each to its own end of this program.
//!
//! Where a terminal listens, control sequences other than colours are taken out unless the user asks for them; a file
//! or a pipe gets the bytes as the job wrote them.

use std::borrow::Cow;
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
    /// To this program's own outputs; `raw` passes control sequences on to terminals too.
    pub fn new(raw: bool) -> Self {
        Self::onto([stdout_is_terminal(), stderr_is_terminal()], raw)
    }

    /// `terminals` says, by stream, whether a terminal listens there.
    fn onto(terminals: [bool; 2], raw: bool) -> Self {
        let filter = |terminal: bool| (terminal && !raw).then(Sanitiser::default);
        Self {
            filters: terminals.map(filter),
            expected: [0; 2],
            attempt: 0,
            terminal: terminals == [true; 2],
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
        let shown = self.shown(stream, bytes);
        if let Some(last) = shown.last() {
            self.mid_line = *last != b'\n';
        }
        write(stream, &shown)
    }

    /// What of a stream's next bytes goes out.
    fn shown<'a>(&mut self, stream: Stream, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match &mut self.filters[stream.index()] {
            Some(filter) => {
                let mut harmless = Vec::new();
                filter.push(bytes, &mut harmless);
                Cow::Owned(harmless)
            }
            None => Cow::Borrowed(bytes),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const CLEARS_THE_SCREEN: &[u8] = b"a\x1b[2Jb\x1b[31mred\n";
    const HARMLESS: &[u8] = b"ab\x1b[31mred\n";

    #[test]
    fn a_terminal_gets_harmless_bytes_unless_they_are_asked_for_raw_and_a_pipe_gets_them_all() {
        let all = CLEARS_THE_SCREEN;
        for (terminals, raw, shown) in [
            ([true, true], false, [HARMLESS, HARMLESS]),
            ([true, false], false, [HARMLESS, all]),
            ([false, true], false, [all, HARMLESS]),
            ([false, false], false, [all, all]),
            ([true, true], true, [all, all]),
            ([false, false], true, [all, all]),
        ] {
            let mut output = JobOutput::onto(terminals, raw);
            for stream in Stream::ALL {
                assert_eq!(
                    &*output.shown(stream, all),
                    shown[stream.index()],
                    "{terminals:?}, raw {raw}: {stream:?}"
                );
            }
        }
    }

    #[test]
    fn a_sequence_cut_by_a_chunk_is_taken_out_and_the_other_stream_does_not_finish_it() {
        let mut output = JobOutput::onto([true, true], false);
        let shown = [
            output.shown(Stream::Stdout, b"a\x1b[").into_owned(),
            output.shown(Stream::Stderr, b"2Jx").into_owned(),
            output.shown(Stream::Stdout, b"2Jb").into_owned(),
        ];
        assert_eq!(shown, [b"a".to_vec(), b"2Jx".to_vec(), b"b".to_vec()]);
    }
}
