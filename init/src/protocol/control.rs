//! Control lines: what the agent tells init, one JSON object a line.
//!
//! Each line begins *and* ends with a newline: the first ends whatever a dead attacher left half-written, the
//! second says that the line is whole. A line that is too long or cannot be parsed is dropped and reading goes
//! on behind it; at most [`LINE_BYTES_MAX`] bytes are ever held.

use serde::{Deserialize, Serialize};

/// The longest control line. `run` is the largest: an encoded specification (at most 48 KiB) plus the image's
/// environment, and JSON's escapes may take six bytes for one.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

/// The cap on a job's own grace where `run` names none: the fleet's G, after which a lease counts as over.
pub const GRACE_MAX_DEFAULT_MS: u64 = 10_000;

/// One line: a command and the attach generation it was given under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlLine {
    /// Raised by the agent each time that it attaches, kept in its journal; init drops what is older than the
    /// highest it has seen.
    pub generation: u64,
    pub command: Command,
}

/// What the agent may ask of init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Start the job. Once: a second one is ignored, so an agent that does not know may repeat it.
    Run(Box<Run>),
    /// The new absolute end, in milliseconds of init's `CLOCK_BOOTTIME`. Before `run`: how long to wait for it.
    Deadline { at_ms: u64 },
    /// End the job: stop signal, grace, kill of everything.
    Stop { why: StopReason },
    /// Everything up to and including `seq` is safe with the agent and may be forgotten.
    Ack { seq: u64 },
    /// A new attacher: send `ready` (and `started`) again, then everything after `seq` that is still held.
    /// `seq` 0 is everything, for numbers begin at 1.
    Resume { seq: u64 },
    /// The ending is in the agent's journal (or nothing was ever run): leave. Ignored while a job runs.
    Bye,
}

/// What to run. Image semantics (entry point, environment, directory) are resolved by the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `argv[0]` without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<String>,
    /// `KEY=VALUE` entries; the job gets these and nothing else.
    pub env: Vec<String>,
    /// Absolute working directory; it must exist.
    pub dir: String,
    /// The job's own grace between the stop signal and the kill of everything.
    pub grace_ms: u64,
    /// The cap on `grace_ms` (the fleet's G).
    #[serde(default = "grace_max_default")]
    pub grace_max_ms: u64,
    /// Signal number (1 to 64); anything else counts as `SIGTERM`.
    pub stop_signal: i32,
    /// The first absolute deadline, in milliseconds of init's `CLOCK_BOOTTIME`.
    pub deadline_ms: u64,
}

fn grace_max_default() -> u64 {
    GRACE_MAX_DEFAULT_MS
}

/// Why the agent asked for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    Cancelled,
    RunTimeout,
    LeaseLost,
    Drain,
}

/// The command does not fit into one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTooLong {
    pub bytes: usize,
}

impl std::fmt::Display for LineTooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a control line of {} bytes is longer than {LINE_BYTES_MAX}",
            self.bytes
        )
    }
}

impl std::error::Error for LineTooLong {}

/// The bytes to write to init's standard input for one command, both newlines included.
pub fn encode_line(generation: u64, command: &Command) -> Result<Vec<u8>, LineTooLong> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        generation: u64,
        command: &'a Command,
    }
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, &Borrowed { generation, command })
        .expect("plain strings and numbers always become JSON, and a Vec takes every write");
    let bytes = line.len() - 1;
    if bytes > LINE_BYTES_MAX {
        return Err(LineTooLong { bytes });
    }
    line.push(b'\n');
    Ok(line)
}

/// Why a line was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    TooLong,
    NotUnderstood,
}

/// Finds the lines in a stream of bytes.
#[derive(Debug, Default)]
pub struct LineDecoder {
    line: Vec<u8>,
    overlong: bool,
}

impl LineDecoder {
    /// Takes from `input` up to the end of the next line. `None`: all of `input` is taken and no line is whole.
    pub fn next_line(&mut self, input: &mut &[u8]) -> Option<Result<ControlLine, Dropped>> {
        loop {
            let Some(end) = input.iter().position(|b| *b == b'\n') else {
                self.keep(input);
                *input = &[];
                return None;
            };
            let (head, tail) = (&input[..end], &input[end + 1..]);
            *input = tail;
            self.keep(head);
            if std::mem::take(&mut self.overlong) {
                self.line = Vec::new();
                return Some(Err(Dropped::TooLong));
            }
            if self.line.is_empty() {
                continue;
            }
            let parsed = serde_json::from_slice(&self.line).map_err(|_| Dropped::NotUnderstood);
            self.line = Vec::new();
            return Some(parsed);
        }
    }

    /// Bytes held at the moment, for the tests of the bound.
    pub fn held_bytes(&self) -> usize {
        self.line.len()
    }

    fn keep(&mut self, part: &[u8]) {
        if self.overlong || self.line.len() + part.len() > LINE_BYTES_MAX {
            self.overlong = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(part);
        }
    }
}

/// Obeys the highest generation: an attacher that was replaced has nothing more to say.
#[derive(Debug, Default, Clone, Copy)]
pub struct Gate {
    highest: u64,
}

impl Gate {
    pub fn admit(&mut self, generation: u64) -> bool {
        if generation < self.highest {
            return false;
        }
        self.highest = generation;
        true
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }
}
