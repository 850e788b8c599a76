//! What the parts say while they run: on stderr, for people on a terminal, as JSON otherwise. `RUST_LOG` decides how
//! much; without it, warnings, and who did what (the target `audit`).

use tracing_subscriber::EnvFilter;

use crate::output::stderr_is_terminal;

/// Begins. A second call, such as from a test, changes nothing.
pub fn begin() {
    let named = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::builder().parse_lossy(named.as_deref().unwrap_or("warn,audit=info"));
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
