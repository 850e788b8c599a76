//! How far a transfer is: a bar on stderr where a terminal listens, else nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::sanitise::line;
use super::stderr_is_terminal;

#[derive(Debug, Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// For `bytes` in all; none where that is not known.
    pub fn new(what: &str, bytes: Option<u64>, quiet: bool) -> Self {
        if quiet || !stderr_is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = match bytes {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::new_spinner(),
        };
        let template = match bytes {
            Some(_) => "{msg}  {bar:24}  {bytes}/{total_bytes}  {bytes_per_sec}",
            None => "{msg}  {spinner}  {bytes}  {bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(line(what));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
