//! PID 1 of a job's container: told over its standard input what to run, relays numbered output and the ending
//! with acknowledgement and replay, and ends everything when its deadline passes. See `README.md`.
//!
//! One thread, one `poll` loop. It holds nothing that a job can take: it is not dumpable, the job gets none of
//! its descriptors, and all of its memory is bounded. If it cannot even begin it says so on standard error and
//! exits with 70; wrong arguments are 64; 0 after `bye`, 75 when it left because nobody came.

mod event_loop;
mod job;
mod oom;
mod outbox;
mod reap;
mod settings;
mod spawn;
mod supervisor;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    // before anything else, so that no time exists at which the job's uid could look into this process
    sys::process::become_init();
    let settings = match settings::Settings::from_args(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("jobworker-init: {message}");
            return ExitCode::from(64);
        }
    };
    match event_loop::run(&settings) {
        Ok(leave) => leave.code(),
        Err(error) => {
            eprintln!("jobworker-init: {error}");
            ExitCode::from(70)
        }
    }
}
