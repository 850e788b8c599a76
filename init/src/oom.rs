//! How often the kernel's memory killer struck in this container, where that can be read.

/// cgroup v2 and v1, as an engine mounts them inside of a container.
const COUNTERS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// The count since the container was made; `None` where it cannot be read. Only PID 1 looks: elsewhere the files
/// speak of the whole machine.
pub fn kills_so_far(pid_1: bool) -> Option<u64> {
    if !pid_1 {
        return None;
    }
    COUNTERS
        .iter()
        .find_map(|path| parse(&std::fs::read_to_string(path).ok()?))
}

fn parse(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_versions_of_the_file_are_understood() {
        assert_eq!(
            parse("low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"),
            Some(2)
        );
        assert_eq!(parse("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(parse("oom_kill_disable 0\n"), None);
    }
}
