//! What each program of ours does at its start: where its words go, what it runs on, and what ends it.

use std::fmt;
use std::future::Future;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use crate::tasks::Tasks;

/// The whole of a `main`: what keeps `start` from going on is said in one sentence on stderr, and ends the program
/// with status 1.
pub fn run<E: fmt::Display>(start: impl FnOnce() -> Result<(), E>) -> ExitCode {
    begin_log();
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With every cause behind it, where the error has some.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` to its end, on as many threads as there are cores.
///
/// # Errors
/// The system gives no threads; or what `work` says.
pub fn block_on<T, E: From<std::io::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// Log lines on stderr: JSON, one an event, so that what a peer sends can never look like a line of ours. `RUST_LOG`
/// decides how much; without it, everything from `info`. A second call, such as from a test, changes nothing.
pub fn begin_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .json()
        .flatten_event(true)
        .try_init();
}

/// TERM and Ctrl-C stop `tasks`; a second one ends nothing sooner, since nothing is lost by waiting.
///
/// # Errors
/// The system gives no handler.
pub fn stop_on_signals(tasks: &Tasks) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stopper = tasks.clone();
    tasks.spawn("signals", async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stopper.stopping().cancelled() => {}
        }
        stopper.stop();
    });
    Ok(())
}
