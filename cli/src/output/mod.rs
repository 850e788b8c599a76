//! What people and programs see. Results go to stdout, everything else to stderr.

pub mod job_page;
pub mod progress;
pub mod sanitise;
pub mod stream;
pub mod table;
pub mod why_page;

use std::io::{IsTerminal, Write};

use crate::exit::Exit;
use crate::failure::{Failure, io};

/// Writes a result to stdout. A reader that has gone away ends the program quietly, as with other programs.
///
/// # Errors
/// Stdout cannot be written.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(unwritten)
}

/// As [`print()`], with a line feed behind.
///
/// # Errors
/// As [`print()`].
pub fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
}

/// The API's JSON, as it came but for its layout.
///
/// # Errors
/// As [`print()`].
pub fn print_json(bytes: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(value) => print_line(&format!("{value:#}")),
        Err(_) => print(bytes),
    }
}

/// A message beside the result. That it cannot be told changes nothing.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

pub fn unwritten(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Failure::silent(Exit::BROKEN_PIPE)
    } else {
        io("write to the standard output", error)
    }
}
