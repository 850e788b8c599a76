//! Much output of one job: from its standard output through agent, store and API to a client's file, against
//! `docker run … > file` with the engine's own logging and without any. Both sides write the same bytes, which is
//! checked by SHA-256.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use common::config::StoreConfig;
use common::identity::Account;
use common::ids::AccountId;
use common::time::{Clock, SystemClock};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::args::OutputArgs;
use crate::docker::Flags;
use crate::process;
use crate::report::{Findings, Row, number};
use crate::server::{Agent, Installation, Server, image};
use crate::stats::{Samples, Stopwatch};

pub const AGAINST_JSON_FILE_MIN: f64 = 1.0;
pub const AGAINST_NONE_MIN: f64 = 0.4;

/// A line of 64 bytes with its end.
const LINE: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopq\n";
const BLOCK: u64 = 64 * 1_024;
const MIB: u64 = 1_024 * 1_024;
/// The shell's memory is looked at so often while it runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Shape {
    name: &'static str,
    command: String,
    sha256: String,
}

/// What a run of ours took.
struct Ours {
    time: Duration,
    shell_mb: f64,
}

/// # Errors
/// A run failed, or other bytes arrived than were written.
pub async fn run(args: &OutputArgs) -> anyhow::Result<Findings> {
    let bytes = args.mib * MIB;
    let shapes = [
        Shape {
            name: "64-byte lines",
            command: format!("yes {} | head -c {bytes}", LINE.trim_end()),
            sha256: sha256_of(LINE.as_bytes(), bytes),
        },
        Shape {
            name: "64 KiB blocks",
            command: format!("dd if=/dev/zero bs={BLOCK} count={} 2>/dev/null", bytes / BLOCK),
            sha256: sha256_of(&[0; 4_096], bytes),
        },
    ];
    let installation = Installation::new()?;
    raise_log_cap(&installation.state().join("store"), bytes * 2).await?;
    let server = installation.start(Agent::Own).await?;
    server.client.wait_for_workers(1).await?;
    let flags = Flags::of_the_agents_containers(&server).await?;

    let mut rows = Vec::new();
    for shape in &shapes {
        measure(&installation, &server, &flags, shape, args, &mut rows).await?;
    }
    rows.push(Row::told(
        "peak memory of `jobworker up`",
        format!("{} MB", number(process::rss_peak_mb(server.pid))),
    ));
    server.stop().await?;
    Ok(Findings {
        title: "output of one job to a client's file, against `docker run > file`",
        counts: format!(
            "{} MiB each, {} runs each, taking turns; ratios of medians; equal by SHA-256; the account's log cap was raised",
            args.mib, args.rounds
        ),
        rows,
        notes: vec![
            "JobWorker: `jobworker run --shell 'COMMAND' > file`; it keeps the log beside, which `--log-driver none` does not."
                .to_owned(),
        ],
    })
}

/// The engine's two ways that ours is compared with: its log driver, what the report calls it, and the least ratio.
const DRIVERS: [(&str, &str, f64); 2] = [
    ("json-file", "json-file", AGAINST_JSON_FILE_MIN),
    ("none", "log-driver none", AGAINST_NONE_MIN),
];

/// MB/s of each run: ours, and with each of [`DRIVERS`].
#[derive(Default)]
struct Speeds {
    ours: Vec<f64>,
    theirs: [Vec<f64>; DRIVERS.len()],
}

async fn measure(
    installation: &Installation,
    server: &Server,
    flags: &Flags,
    shape: &Shape,
    args: &OutputArgs,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let file = installation.path().join("output");
    #[expect(clippy::cast_precision_loss, reason = "a few thousand MiB")]
    let speed = |time: Duration| (args.mib * MIB) as f64 / 1e6 / time.as_secs_f64();
    let (mut speeds, mut shell_mb) = (Speeds::default(), 0.0f64);
    // each way goes first in its turn: whoever follows another finds the machine as that one left it
    let ways = DRIVERS.len() + 1;
    for turn in (0..args.rounds as usize).flat_map(|round| (0..ways).map(move |place| (round + place) % ways))
    {
        let Some((driver, ..)) = DRIVERS.get(turn) else {
            let ours = run_ours(server, shape, &file).await?;
            check(&file, shape).context("through JobWorker")?;
            speeds.ours.push(speed(ours.time));
            shell_mb = shell_mb.max(ours.shell_mb);
            continue;
        };
        let out = File::create(&file)?.into();
        let argv = ["/bin/sh", "-c", &shape.command];
        let time = flags.logging_by(driver).run(&image(), &argv, out).await?;
        check(&file, shape).with_context(|| format!("through docker with {driver}"))?;
        speeds.theirs[turn].push(speed(time));
    }
    std::fs::remove_file(&file)?;
    speeds.tell(shape.name, rows);
    rows.push(Row::told(
        format!("{}: peak memory of the shell", shape.name),
        format!("{} MB", number(shell_mb)),
    ));
    Ok(())
}

impl Speeds {
    fn tell(&self, name: &str, rows: &mut Vec<Row>) {
        let each_run = |who: &str, speeds: &[f64]| {
            let all: Vec<String> = speeds.iter().map(|speed| number(*speed)).collect();
            Row::told(
                format!("{name}: {who}, each run"),
                format!("{} MB/s", all.join(", ")),
            )
        };
        for ((_, what, wanted), theirs) in DRIVERS.into_iter().zip(&self.theirs) {
            let ratio = median(&self.ours) / median(theirs);
            rows.push(Row::at_least(
                format!("{name}: against {what}"),
                wanted,
                ratio,
                "",
            ));
        }
        rows.push(each_run("JobWorker", &self.ours));
        for ((driver, ..), theirs) in DRIVERS.into_iter().zip(&self.theirs) {
            rows.push(each_run(&format!("docker {driver}"), theirs));
        }
    }
}

fn median(values: &[f64]) -> f64 {
    Samples::new(values.to_vec()).summary().median
}

async fn run_ours(server: &Server, shape: &Shape, file: &Path) -> anyhow::Result<Ours> {
    let mut command = Command::new(process::sibling("jobworker")?);
    command
        .args(["run", "--quiet", "--shell", "--", &shape.command])
        .env("JOBWORKER_SERVER", &server.client.base)
        .env("JOBWORKER_TOKEN", &server.token)
        .stdin(Stdio::null())
        .stdout(File::create(file)?)
        .kill_on_drop(true);
    let watch = Stopwatch::start();
    let mut child = command.spawn().context("starting `jobworker run`")?;
    let pid = child.id().unwrap_or(0);
    let mut shell_mb = 0.0f64;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(LOOK_EVERY) => shell_mb = shell_mb.max(process::rss_peak_mb(pid)),
        }
    };
    let time = watch.read();
    anyhow::ensure!(status.success(), "`jobworker run` ended with {status}");
    Ok(Ours { time, shell_mb })
}

/// The first start finds its account there, with room for the whole output.
async fn raise_log_cap(store: &Path, log_bytes_max: u64) -> anyhow::Result<()> {
    let clock = SystemClock;
    let config = StoreConfig::Embedded {
        folder: PathBuf::from(store),
    };
    let opened = storage::open_closable(&config, std::sync::Arc::new(clock)).await?;
    let account = Account {
        id: AccountId::new("default")?,
        name: "Default".to_owned(),
        plan: "standard".to_owned(),
        weight: 1,
        log_bytes_max,
        running_max: None,
        waiting_max: None,
        created_at: clock.now(),
    };
    opened.stores.identity.create_account(&account).await?;
    opened.closing.close().await;
    Ok(())
}

fn check(file: &Path, shape: &Shape) -> anyhow::Result<()> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let (mut file, mut bytes) = (File::open(file)?, 0u64);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    let found = data_encoding::HEXLOWER.encode(&hash.finalize());
    anyhow::ensure!(
        found == shape.sha256,
        "{} arrived otherwise ({bytes} bytes)",
        shape.name
    );
    Ok(())
}

/// Of `piece` again and again, `bytes` in all.
fn sha256_of(piece: &[u8], bytes: u64) -> String {
    let mut hash = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        hash.update(&piece[..now]);
        left -= now as u64;
    }
    data_encoding::HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_64_bytes_and_a_repeated_piece_hashes_as_one_text() {
        assert_eq!(LINE.len(), 64);
        let whole = Sha256::digest(&b"abcabcab"[..]);
        assert_eq!(sha256_of(b"abc", 8), data_encoding::HEXLOWER.encode(&whole));
    }
}
