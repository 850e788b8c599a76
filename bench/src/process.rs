//! Processes of ours: where their programs are, and what memory they take.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::machine::kib_of;

/// A program of the same profile, which lies beside this one.
///
/// # Errors
/// It was not built.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let path = own.parent().unwrap_or(Path::new(".")).join(name);
    let flag = if cfg!(debug_assertions) { "" } else { " --release" };
    anyhow::ensure!(
        path.is_file(),
        "{} is not there: build it with `cargo build{flag} --workspace` first",
        path.display()
    );
    Ok(path)
}

/// The end of a program's log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Resident memory now, in MB (of 10^6 bytes).
pub fn rss_mb(pid: u32) -> f64 {
    status_mb(pid, "VmRSS:")
}

/// The most that it ever was.
pub fn rss_peak_mb(pid: u32) -> f64 {
    status_mb(pid, "VmHWM:")
}

fn status_mb(pid: u32, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a process's memory in KiB")]
    let kib = kib_of(&text, key) as f64;
    kib * 1_024.0 / 1e6
}

/// Processor time that a process has used, all its threads together, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = stat.rsplit_once(") ").map_or(0, |(_, rest)| {
        let fields = rest.split_whitespace().skip(11).take(2);
        fields.filter_map(|field| field.parse::<u32>().ok()).sum()
    });
    #[expect(clippy::cast_precision_loss, reason = "a hundred, everywhere")]
    let a_second = rustix::param::clock_ticks_per_second() as f64;
    f64::from(ticks) / a_second
}
