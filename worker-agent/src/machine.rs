//! What this machine has, and how busy it is.

use std::path::Path;

use common::worker::{Capacity, Load};
use sysinfo::System;

/// The share of the memory that jobs may have; the rest is the system's and the agent's.
const MEMORY_SHARE: (u64, u64) = (8, 10);

/// More attempts than this at a time are a setting, not a guess.
const SLOTS_MAX_DEFAULT: u32 = 64;

const MIB: u64 = 1024 * 1024;

/// All CPUs, most of the memory, the free disk below `folder`.
pub fn capacity(folder: &Path) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1));
    let total = System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    let memory = total / MEMORY_SHARE.1 * MEMORY_SHARE.0 / MIB;
    Capacity {
        cpu_millis: cpus.saturating_mul(1_000),
        memory_mib: narrow(memory),
        disk_mib: disk_free_mib(folder),
        // Small jobs ask for a part of a CPU, so several fit to each.
        slots: cpus.saturating_mul(4).clamp(4, SLOTS_MAX_DEFAULT),
    }
}

/// Samples the load, from one heartbeat to the next.
#[derive(Debug)]
pub struct LoadMeter(Option<System>);

impl Default for LoadMeter {
    fn default() -> Self {
        Self(System::new().ok())
    }
}

impl LoadMeter {
    pub fn sample(&mut self, folder: &Path, running: usize) -> Load {
        let (cpu, memory_free) = self.0.as_mut().map_or((0.0, 0), |system| {
            system.refresh_cpu_usage();
            system.refresh_memory();
            (
                system.global_cpu_usage().clamp(0.0, 100.0),
                system.available_memory(),
            )
        });
        Load {
            // Between 0 and 100, so the cast neither cuts nor wraps.
            cpu_percent: cpu as u8,
            memory_free_mib: narrow(memory_free / MIB),
            disk_free_mib: disk_free_mib(folder),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            pulling: Vec::new(),
        }
    }
}

fn disk_free_mib(folder: &Path) -> u32 {
    // The folder may not be there yet; its parents are on the same disk, as a rule.
    folder
        .ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
        .map_or(0, |found| {
            narrow(found.f_bavail.saturating_mul(found.f_frsize) / MIB)
        })
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_something_to_give() {
        let found = capacity(Path::new("/tmp/not-there-yet"));
        assert!(
            found.cpu_millis > 0 && found.memory_mib > 0 && found.slots > 0,
            "{found:?}"
        );
    }
}
