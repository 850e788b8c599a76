//! What the kernel counted for a container, read from its control group while it is there.

use std::path::PathBuf;

/// Peak memory of the container in bytes, and how often the kernel killed for memory; none where it cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupFacts {
    pub memory_peak: Option<u64>,
    pub oom_kills: Option<u64>,
}

/// Four small reads at the most; the files are the kernel's and are never waited for.
pub fn read(container: &str) -> CgroupFacts {
    if container.is_empty() || !container.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return CgroupFacts::default();
    }
    CgroupFacts {
        memory_peak: first(container, &["memory.max_usage_in_bytes", "memory.peak"], |text| {
            text.trim().parse().ok()
        }),
        oom_kills: first(container, &["memory.oom_control", "memory.events"], |text| {
            text.lines()
                .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        }),
    }
}

/// The places by version of control groups and by the engine's driver for them.
fn first<T>(container: &str, files: &[&str; 2], parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let [v1, v2] = files;
    [
        format!("/sys/fs/cgroup/memory/docker/{container}/{v1}"),
        format!("/sys/fs/cgroup/memory/system.slice/docker-{container}.scope/{v1}"),
        format!("/sys/fs/cgroup/docker/{container}/{v2}"),
        format!("/sys/fs/cgroup/system.slice/docker-{container}.scope/{v2}"),
    ]
    .into_iter()
    .map(PathBuf::from)
    .find_map(|path| parse(&std::fs::read_to_string(path).ok()?))
}
