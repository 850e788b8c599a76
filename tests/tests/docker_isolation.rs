//! What a job sees and may do from inside its container: each row of the hardening table that a plain image can show.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{LimitsBody, ResourcesBody, SubmitJob};
use common::job::StateName;
use jobworker_e2e::client::{Client, brief, shell};
use jobworker_e2e::cluster::Cluster;
use jobworker_e2e::wait::LONG;

/// Runs the script and gives what it printed.
async fn said(client: &Client, job: &SubmitJob) -> Result<String> {
    let id = client.submit(job).await?.id;
    let ended = client.ended(id, LONG).await?;
    let out = client.stdout(id).await?;
    assert_eq!(ended.state, StateName::Succeeded, "{}\n{out}", brief(&ended));
    Ok(out)
}

/// Lines of `name<TAB>value`; a name that comes twice has both values.
fn facts(text: &str) -> BTreeMap<&str, String> {
    let mut facts: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('\t')) {
        let known = facts.entry(name).or_default();
        if !known.is_empty() {
            known.push('\n');
        }
        known.push_str(value.trim());
    }
    facts
}

/// Prints each fact; `refused` says how a command failed, so that a command that works shows as `no`.
const LOOK_AROUND: &str = r#"
fact() { printf '%s\t%s\n' "$1" "$2"; }
refused() { name=$1; shift; if message=$("$@" 2>&1); then fact "$name" no; else fact "$name" "yes ${message##*: }"; fi; }
status() { sed -n "s/^$1:[[:space:]]*//p" /proc/self/status; }
for c in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp; do fact $c "$(status $c)"; done
fact root "$([ "$(id -u)" = 0 ] && echo yes || echo no) $([ "$(id -g)" = 0 ] && echo yes || echo no)"
for f in /x /etc/x /bin/x; do refused "write $f" sh -c ": >$f"; done
for f in /proc/kcore /proc/timer_list /proc/keys; do [ ! -e $f ] || fact "mask $f" "$(stat -c '%F %t:%T' $f)"; done
fact firmware "$(ls -A /sys/firmware 2>/dev/null | wc -l)"
refused core_pattern sh -c 'echo x >/proc/sys/kernel/core_pattern'
refused sysrq sh -c 'echo b >/proc/sysrq-trigger'
refused mount mount -t tmpfs none /tmp
refused unshare unshare -U true
refused chroot chroot / true
refused mknod mknod /workspace/node b 8 0
fact net "$(ls /sys/class/net | tr '\n' ' ')"
refused connect wget -T 2 -qO /dev/null http://169.254.169.254/
fact socket "$(ls /var/run/docker.sock /run/docker.sock 2>/dev/null | wc -l) $(grep -c docker.sock /proc/self/mountinfo)"
refused init_environ cat /proc/1/environ
refused init_write sh -c ': >/proc/1/exe'
refused init_fds ls /proc/1/fd/
cp /bin/busybox /tmp/true; refused tmp_exec /tmp/true
fact tmp "$(awk '$2 == "/tmp" { print $4 }' /proc/mounts)"
fact workspace "$(awk '$2 == "/workspace" { print $4 }' /proc/mounts)"
fact nofile "$(ulimit -n)"
fact processes "$(ls -d /proc/[0-9]* | wc -l)"
ls /proc/$$/fd >/tmp/fds # not through a pipe, whose other end this shell may have open still
fact fds "$(tr '\n' ' ' </tmp/fds)"
fact stdin "$(wc -c)"
fact dir "$(pwd)"
value() { for f in "$@"; do [ ! -r "/sys/fs/cgroup/$f" ] || cat "/sys/fs/cgroup/$f"; done; }
fact pids_max "$(value pids.max pids/pids.max | head -n 1)"
fact memory_max "$(value memory.max memory/memory.limit_in_bytes | head -n 1)"
fact cpu_max "$(value cpu.max | head -n 1)$(value cpu/cpu.cfs_quota_us | head -n 1)"
fact swap_max "$(value memory.swap.max memory/memory.memsw.limit_in_bytes | head -n 1)"
env | sed 's/^/env\t/'
"#;

#[tokio::test]
async fn a_job_sees_only_what_is_its_own() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let job = SubmitJob {
        env: [("DECLARED".to_owned(), "by the job".to_owned())].into(),
        ..shell(LOOK_AROUND)
    };
    let text = said(&client, &job).await?;
    let seen = facts(&text);
    let fact = |name: &str| seen.get(name).map_or("", String::as_str);

    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(fact(set), "0000000000000000", "{set}\n{text}");
    }
    assert_eq!((fact("NoNewPrivs"), fact("Seccomp")), ("1", "2"), "{text}");
    assert_eq!(fact("root"), "no no");
    for refused in [
        "write /x",
        "write /etc/x",
        "write /bin/x",
        "core_pattern",
        "sysrq",
        "mount",
        "unshare",
        "chroot",
        "mknod",
        "connect",
        "init_environ",
        "init_write",
        "init_fds",
        "tmp_exec",
    ] {
        assert!(
            fact(refused).starts_with("yes"),
            "{refused} was not refused\n{text}"
        );
    }
    for read_only in ["write /x", "write /etc/x", "core_pattern"] {
        assert!(
            fact(read_only).contains("Read-only file system"),
            "{read_only}\n{text}"
        );
    }
    for masked in seen.keys().filter(|name| name.starts_with("mask ")) {
        assert_eq!(fact(masked), "character special file 1:3", "{masked}\n{text}");
    }
    assert_eq!(fact("firmware"), "0");
    assert_eq!(fact("net"), "lo");
    assert_eq!(fact("socket"), "0 0");
    for flag in ["noexec", "nosuid", "nodev", "size=65536k"] {
        assert!(
            fact("tmp").split(',').any(|option| option == flag),
            "{flag}\n{text}"
        );
    }
    for flag in ["nosuid", "nodev"] {
        assert!(
            fact("workspace").split(',').any(|option| option == flag),
            "{flag}\n{text}"
        );
    }
    assert_eq!(fact("nofile"), "1024");
    assert!(fact("processes").parse::<u32>()? <= 6, "{text}");
    assert_eq!((fact("stdin"), fact("dir")), ("0", "/workspace"));
    // 10 is where the shell keeps its own output meanwhile.
    assert!(matches!(fact("fds"), "0 1 2" | "0 1 10 2"), "{text}");

    assert!(fact("pids_max").parse::<u32>()? <= 256, "{text}");
    // what init keeps unacknowledged is added to what the job asked for
    let memory: u64 = fact("memory_max").parse()?;
    assert!((32 << 20..=34 << 20).contains(&memory), "{text}");
    assert!(matches!(fact("cpu_max"), "50000 100000" | "50000"), "{text}");
    assert!(fact("swap_max").is_empty() || fact("swap_max") == "0" || fact("swap_max") == memory.to_string());

    let declared: Vec<&str> = fact("env")
        .lines()
        .map(|line| line.split('=').next().unwrap_or(line))
        .collect();
    for name in &declared {
        assert!(
            matches!(
                *name,
                "DECLARED" | "PATH" | "HOME" | "HOSTNAME" | "PWD" | "SHLVL" | "OLDPWD" | "_"
            ),
            "{name} was not declared\n{text}"
        );
    }
    assert!(declared.contains(&"DECLARED"), "{text}");
    cluster.stop().await
}

#[tokio::test]
async fn a_full_workspace_is_the_jobs_own_trouble() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let fill = "dd if=/dev/zero of=big bs=64k 2>err; grep -o 'No space left on device' err; \
                n=$(stat -c %s big); [ $n -gt 8000000 ] && [ $n -le 16777216 ] && echo within";
    let filling = SubmitJob {
        artifacts: vec!["err".into()],
        ..shell(fill)
    };
    assert_eq!(
        said(&client, &filling).await?,
        "No space left on device\nwithin\n"
    );
    assert_eq!(
        said(
            &client,
            &shell("df -m /workspace | awk 'NR == 2 { print ($3 < 4) }'")
        )
        .await?,
        "1\n"
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_container_and_its_agent_goes_on() -> Result<()> {
    let cluster = Cluster::start().await?;
    let client = cluster.client()?;
    let bomb = SubmitJob {
        limits: LimitsBody {
            run_ms: Some(4_000),
            grace_ms: Some(200),
            ..LimitsBody::default()
        },
        resources: ResourcesBody {
            memory_mib: Some(128),
            ..shell("").resources
        },
        ..shell("bomb() { bomb | bomb & }; bomb; while true; do sleep 1; done")
    };
    let bomb = client.submit(&bomb).await?;
    client
        .job_when(bomb.id, LONG, "it to run", |job| job.started_at.is_some())
        .await?;
    // beside it, on the same node
    assert_eq!(said(&client, &shell("echo beside")).await?, "beside\n");
    let ended = client.ended(bomb.id, Duration::from_secs(90)).await?;
    let told = ended.outcome.as_ref().with_context(|| brief(&ended))?;
    assert!(
        matches!(
            told.kind.as_str(),
            "run_timeout" | "exited" | "oom_killed" | "signaled"
        ),
        "{}",
        brief(&ended)
    );
    assert_eq!(said(&client, &shell("echo after")).await?, "after\n");
    cluster.stop().await
}
