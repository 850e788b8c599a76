//! Where it ran, and what ran beside it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::process;
use crate::stats::Stopwatch;

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_mib: u64,
    pub kernel: String,
    /// Of the Docker Engine; none where none answers.
    pub engine: Option<String>,
}

impl Machine {
    pub fn look() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = info.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.map_or_else(
                || std::env::consts::ARCH.to_owned(),
                |name| name.trim_start_matches([' ', '\t', ':']).to_owned(),
            ),
            memory_mib: kib_of(
                &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
                "MemTotal:",
            ) / 1_024,
            kernel: said(Command::new("uname").arg("-r"))
                .and_then(|release| release.split('-').next().map(str::to_owned))
                .unwrap_or_default(),
            engine: said(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"])),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let engine = self.engine.as_deref().unwrap_or("none");
        write!(
            f,
            "{} cores ({}), {} MiB, Linux {}, Docker Engine {engine}",
            self.cores, self.processor, self.memory_mib, self.kernel
        )
    }
}

/// The commit, with a mark where the tree differed from it.
pub fn commit() -> String {
    let hash = said(git().args(["rev-parse", "--short=10", "HEAD"]));
    let changed = said(git().args(["status", "--porcelain", "--untracked-files=no"]));
    match (hash, changed) {
        (Some(hash), Some(_)) => format!("{hash}, with changes"),
        (Some(hash), None) => hash,
        (None, _) => "unknown".to_owned(),
    }
}

fn git() -> Command {
    let mut command = Command::new("git");
    command.args(["-C", env!("CARGO_MANIFEST_DIR")]);
    command
}

/// The value in KiB of a line of /proc/meminfo or /proc/N/status.
pub fn kib_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Others' use of the machine: programs that worked meanwhile, and the load before and after.
#[derive(Debug)]
pub struct Beside {
    load: String,
    watch: Stopwatch,
    before: BTreeMap<u32, Used>,
}

/// A process and the processor time that it has used, in seconds.
#[derive(Debug)]
struct Used {
    program: String,
    seconds: f64,
}

/// Programs that used less of one processor are not worth a word.
const PERCENT_TOLD: f64 = 5.0;

impl Beside {
    pub fn begin() -> Self {
        Self {
            load: load(),
            watch: Stopwatch::start(),
            before: processes(),
        }
    }

    /// As a sentence. What began and ended meanwhile shows in the load alone.
    pub fn end(self) -> String {
        let took = self.watch.read().as_secs_f64().max(0.001);
        let mut percents: BTreeMap<String, f64> = BTreeMap::new();
        for (pid, now) in processes() {
            let before = self.before.get(&pid).map_or(0.0, |used| used.seconds);
            *percents.entry(now.program).or_default() += (now.seconds - before) / took * 100.0;
        }
        let told = percents.iter().filter(|(_, percent)| **percent >= PERCENT_TOLD);
        let told: Vec<String> = told
            .map(|(program, percent)| format!("{program} {percent:.0} %"))
            .collect();
        let told = if told.is_empty() {
            "nothing".to_owned()
        } else {
            told.join(", ")
        };
        format!(
            "load {} before and {} after; worked beside it (of one core): {told}",
            self.load,
            load()
        )
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// All processes but this one.
fn processes() -> BTreeMap<u32, Used> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let used = |pid: u32| {
        let program = fs::read_to_string(format!("/proc/{pid}/comm"))
            .ok()?
            .trim()
            .to_owned();
        let seconds = process::cpu_seconds(pid);
        Some((pid, Used { program, seconds }))
    };
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(used)
        .collect()
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.stderr(std::process::Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_by_its_key() {
        assert_eq!(kib_of("VmPeak:  9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), 1_234);
        assert_eq!(kib_of("", "VmRSS:"), 0);
    }
}
