//! Output that no terminal likes, and more of it than anybody keeps.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{InputBody, LogPageView, SubmitJob, paths};
use common::job::StateName;
use common::log::{CHUNK_BYTES_MAX, LOG_BYTES_MAX_DEFAULT, Stream};
use jobworker_e2e::client::{brief, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::text::sha256;
use jobworker_e2e::wait::wait_for;

/// What a flood prints without more being asked for: ten times what is kept.
const FLOOD_BYTES: u64 = 10 * LOG_BYTES_MAX_DEFAULT;

/// Slow machines print 10 MB a second through everything, and five gigabytes have to be printed too.
const FLOOD_WITHIN: Duration = Duration::from_secs(900);

/// What a flood may add to the memory of server and agent together, which are one process here: buffers, and the
/// store's caches, which fill once.
const GROWTH_MAX: u64 = 128 * 1024 * 1024;

/// A flood takes minutes of a busy machine; nobody's lease is the subject.
async fn cluster() -> Result<Cluster> {
    Cluster::with(Settings {
        real_times: true,
        ..Settings::default()
    })
    .await
}

/// 200 KB without a single end of a line: every byte but that, broken UTF-8, NULs, and the sequences that terminals
/// obey.
fn unpleasant() -> Vec<u8> {
    let mut bytes = Vec::new();
    for round in 0..700u32 {
        bytes.extend((0..=255u8).filter(|byte| *byte != b'\n'));
        bytes.extend(b"\x1b]0;owned\x07\x1b[2J\x1b[31m\x1b]8;;http://x\x07\x9b2J\xc3\x28\xf0\x9f\x92\0\r");
        bytes.extend(round.to_string().as_bytes());
    }
    bytes
}

#[tokio::test]
async fn bytes_that_no_terminal_likes_are_stored_as_they_were_written() -> Result<()> {
    let cluster = cluster().await?;
    let client = cluster.client()?;
    let pattern = unpleasant();
    assert!(pattern.len() > 200_000 && !pattern.contains(&b'\n'));
    let file = client.upload("p", pattern.clone()).await?;
    let job = client
        .submit(&SubmitJob {
            inputs: vec![InputBody {
                file: file.id,
                path: "p".into(),
                unpack: false,
            }],
            ..shell("cat p; tail -c 100000 p >&2")
        })
        .await?;
    let ended = client.ended(job.id, FLOOD_WITHIN).await?;
    assert_eq!(ended.state, StateName::Succeeded, "{}", brief(&ended));
    let out = client.log(job.id, Stream::Stdout).await?;
    let err = client.log(job.id, Stream::Stderr).await?;
    assert_eq!((out.len(), sha256(&out)), (pattern.len(), sha256(&pattern)));
    assert_eq!(sha256(&err), sha256(&pattern[pattern.len() - 100_000..]));
    let attempt = ended.attempts.first().context("it ran")?;
    assert!(!attempt.log_truncated && !attempt.log_incomplete, "{attempt:?}");
    // Nothing of it is in our own log, nor an escape sequence of anybody's.
    let log = cluster.log();
    assert!(!log.contains("owned") && !log.contains("\u{1b}]0;"), "{log}");
    cluster.stop().await
}

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    resident: u64,
    disk: u64,
}

impl Use {
    fn now(pid: u32, state: &Path) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib: u64 = line
            .and_then(|line| line.split_whitespace().nth(1))
            .context("a process has memory")?
            .parse()?;
        Ok(Self {
            resident: kib * 1024,
            disk: on_disk(state),
        })
    }

    fn most(&mut self, other: Self) {
        self.resident = self.resident.max(other.resident);
        self.disk = self.disk.max(other.disk);
    }
}

/// What a folder takes on the disk; what vanishes meanwhile takes nothing. Workspaces are the jobs' own.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name() != "workspaces")
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => on_disk(&entry.path()),
            Ok(about) => about.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// `JOBWORKER_FLOOD_BYTES` makes it larger: `make flood` prints five gigabytes.
#[tokio::test]
async fn of_a_flood_head_and_tail_are_kept_with_a_visible_gap_and_nothing_grows() -> Result<()> {
    let flood: u64 = match std::env::var("JOBWORKER_FLOOD_BYTES") {
        Ok(text) => text.parse().context("JOBWORKER_FLOOD_BYTES is a number")?,
        Err(_) => FLOOD_BYTES,
    };
    let cap = LOG_BYTES_MAX_DEFAULT;
    let cluster = cluster().await?;
    let client = cluster.client()?;
    let warm = client.submit(&shell("yes | head -c 1000000")).await?;
    client.ended(warm.id, FLOOD_WITHIN).await?;
    let (pid, state) = (cluster.pid()?, cluster.state());
    let before = Use::now(pid, &state)?;
    let mut most = before;
    let line = format!("echo the beginning; yes | head -c {flood}; echo the end");
    let job = client.submit(&shell(&line)).await?;
    let ended = wait_for(FLOOD_WITHIN, "the flood to end", async || {
        let look = async {
            most.most(Use::now(pid, &state)?);
            client.job(job.id).await
        };
        match look.await {
            Ok(job) if job.state.is_terminal() => Ok(job),
            Ok(job) => Err(format!("{} with {most:?}", brief(&job))),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await?;
    let attempt = ended.attempts.first().context("it ran")?;
    let timings = attempt.timings.context("it ended")?;
    eprintln!(
        "flood: {flood} bytes in {:?} ms; before {before:?}, at most {most:?}",
        timings.run_ms
    );
    assert_eq!(
        (ended.state, ended.exit_code),
        (StateName::Succeeded, Some(0)),
        "{}",
        brief(&ended)
    );

    // What was printed is counted whole; what was dropped is one range, and says how much.
    let total = flood + "the beginning\nthe end\n".len() as u64;
    let logs = attempt.logs.context("it printed")?;
    let dropped = logs.stdout.dropped.context("more than the cap")?;
    assert!(attempt.log_truncated && !attempt.log_incomplete, "{attempt:?}");
    assert_eq!(logs.stdout.bytes, total);
    let kept = client.log(job.id, Stream::Stdout).await?;
    assert_eq!(kept.len() as u64, total - dropped.bytes);
    let slack = 2 * CHUNK_BYTES_MAX as u64;
    assert!(
        kept.len() as u64 <= cap + slack && kept.len() as u64 >= cap * 3 / 4,
        "{} bytes are kept",
        kept.len()
    );
    assert!(kept.starts_with(b"the beginning\ny\n") && kept.ends_with(b"y\nthe end\n"));

    // A reader of chunks sees the gap by their numbers.
    let (mut from, mut next, mut gaps) = (0, 0, Vec::new());
    loop {
        let path = format!("{}?from={from}&limit_bytes=1048576", paths::job_logs(job.id));
        let page: LogPageView = client.get(&path).await?;
        for chunk in page.chunks.iter().filter(|chunk| chunk.stream == Stream::Stdout) {
            if chunk.seq != next {
                gaps.push((next, chunk.seq));
            }
            next = chunk.seq + 1;
        }
        from = page.next;
        if page.complete {
            break;
        }
    }
    assert_eq!(gaps, [(dropped.from, dropped.until)]);

    let (memory, disk) = (
        most.resident.saturating_sub(before.resident),
        most.disk.saturating_sub(before.disk),
    );
    assert!(
        memory <= GROWTH_MAX,
        "{memory} bytes more memory: {before:?}, then {most:?}"
    );
    assert!(
        disk <= 2 * cap,
        "{disk} bytes more on the disk: {before:?}, then {most:?}"
    );
    cluster.stop().await
}
