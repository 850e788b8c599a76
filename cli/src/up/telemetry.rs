//! What the parts say while they run: on stderr, for people on a terminal, as JSON otherwise. `RUST_LOG` decides how
//! much; without it, warnings.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::output::stderr_is_terminal;

/// Begins. A second call, such as from a test, changes nothing.
pub fn begin() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    let writer = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // one that was set before stays
    let _ = if stderr_is_terminal() {
        writer.with_target(false).try_init()
    } else {
        writer.json().flatten_event(true).try_init()
    };
}
