//! Killing everything of the job, wherever it hid.

use crate::sys::process::{self, Pid};

/// Kills every process but this one. As PID 1 that is one call, atomic in the kernel: a process that forks at
/// that moment dies with its child unborn. Elsewhere (in tests) the descendants are found in `/proc`; the caller
/// repeats until no child is left.
pub fn kill_everything(pid_1: bool) {
    if pid_1 {
        process::signal(-1, libc::SIGKILL);
    } else {
        for pid in descendants(process::own_pid(), &parents()) {
            process::signal(pid, libc::SIGKILL);
        }
    }
}

/// (process, parent) of everything in `/proc`.
fn parents() -> Vec<(Pid, Pid)> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // the name, in parentheses, may itself hold anything; state and parent follow the last one
            let stat = std::fs::read(entry.path().join("stat")).ok()?;
            let stat = String::from_utf8_lossy(&stat);
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

fn descendants(of: Pid, parents: &[(Pid, Pid)]) -> Vec<Pid> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(pid, p)| *p == parent && *pid != of)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

#[cfg(test)]
mod tests {
    use super::descendants;

    #[test]
    fn only_descendants_are_found_at_any_depth() {
        assert_eq!(
            descendants(5, &[(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 5)]),
            vec![6, 9, 7]
        );
    }
}
