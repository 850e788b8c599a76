//! Processes as `/proc` shows them.

use std::collections::HashSet;

use super::Of;

/// Digits of a container's id.
const CONTAINER_ID_LEN: usize = 64;

/// Every process of this machine, those in containers too.
pub fn processes() -> HashSet<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return HashSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The run that this process belongs to by its own command line, if it does.
pub fn marked(pid: u32, mark: &str) -> Option<Of> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let key = line
        .split(|&byte| byte == 0)
        .find_map(|word| word.strip_prefix(mark.as_bytes()))?;
    Some(Of {
        key: String::from_utf8_lossy(key).into_owned(),
        container: container_of(pid),
    })
}

/// The id in the path of its control group; empty outside of containers.
fn container_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    container_in(&text).unwrap_or_default().to_owned()
}

fn container_in(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .find(|word| word.len() == CONTAINER_ID_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_id_is_found_in_either_version_of_control_groups() {
        let id = "0123456789abcdef".repeat(4);
        for text in [
            format!("12:pids:/docker/{id}\n1:name=systemd:/docker/{id}\n0::/\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
        ] {
            assert_eq!(container_in(&text), Some(id.as_str()));
        }
        assert_eq!(container_in("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn this_process_is_there_and_carries_no_mark() {
        let pid = std::process::id();
        assert!(processes().contains(&pid));
        assert_eq!(marked(pid, "a mark that nobody has:"), None);
    }
}
