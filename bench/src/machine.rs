//! Where it ran, and what ran beside it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::Serialize;

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
            kernel: said(Command::new("uname").arg("-r")).unwrap_or_default(),
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
    let hash = said(Command::new("git").args(["rev-parse", "--short=10", "HEAD"]));
    let changed = said(Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]));
    match (hash, changed) {
        (Some(hash), Some(_)) => format!("{hash}, with changes"),
        (Some(hash), None) => hash,
        (None, _) => "unknown".to_owned(),
    }
}

/// The value in KiB of a line of /proc/meminfo or /proc/N/status.
pub fn kib_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Others' use of the machine: programs that were running, and the load, before and after.
#[derive(Debug)]
pub struct Beside {
    load: String,
    busy: BTreeMap<String, usize>,
}

impl Beside {
    pub fn begin() -> Self {
        Self {
            load: load(),
            busy: busy(),
        }
    }

    /// As a sentence.
    pub fn end(self) -> String {
        let mut busy = self.busy;
        for (name, count) in self::busy() {
            let before = busy.entry(name).or_default();
            *before = (*before).max(count);
        }
        let names: Vec<String> = busy
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let names = if names.is_empty() {
            "nothing else".to_owned()
        } else {
            names.join(", ")
        };
        format!(
            "load {} before and {} after; running beside it: {names}",
            self.load,
            load()
        )
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// Names of the other programs that want a processor at this moment.
fn busy() -> BTreeMap<String, usize> {
    let own = std::process::id().to_string();
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) || name.to_string_lossy() == own
        {
            continue;
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((program, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") "))
            && rest.starts_with('R')
        {
            *found.entry(program.to_owned()).or_default() += 1;
        }
    }
    found
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
