//! Archives that mean harm, sent as a user sends them: each is refused before a byte of it is written, and soon.

#[path = "../../common/tests/archive_corpus/build.rs"]
#[allow(
    clippy::unwrap_used,
    dead_code,
    reason = "the corpus of another crate's tests"
)]
mod build;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use common::api_types::{InputBody, SubmitJob};
use common::attempt::NotStartedReason;
use common::job::StateName;
use jobworker_e2e::client::{brief, shell};
use jobworker_e2e::cluster::{Cluster, Settings};
use jobworker_e2e::wait::LONG;

use self::build::{Tar, Zip, gz, gz_of_zeros, tar_gz, zip, zip_with_one_inside_another};

/// Fetched, judged and refused, on a machine where everything runs at once; by itself each takes far less than five.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// What a refusal may leave on the disk: the journal's lines and the rows.
const DISK_MAX: u64 = 10 * 1024 * 1024;

fn link(kind: u8, name: &str, to: &'static str) -> Tar {
    Tar {
        link: to,
        ..Tar::of(kind, name)
    }
}

/// Each with a word of the sentence that refuses it.
fn corpus() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let head = |size| {
        gz(&Tar {
            size: Some(size),
            ..Tar::of(b'0', "zeros")
        }
        .bytes())
    };
    let many: Vec<Zip> = (0..10_001).map(|n| Zip::file(n.to_string(), "")).collect();
    let mut liar = zip(&[Zip::file("liar", "x".repeat(1_000))]);
    // The size in the directory, behind the local header and the content.
    let directory = liar
        .windows(4)
        .position(|window| window == b"PK\x01\x02")
        .unwrap_or_default();
    liar[directory + 24..directory + 28].copy_from_slice(&10_u32.to_le_bytes());
    vec![
        (
            "../ in a zip",
            zip(&[Zip::file("../../../../tmp/jw-escaped", "x")]),
            "..",
        ),
        ("../ in a tar", tar_gz(&[Tar::file("a/../../x", "x")]), ".."),
        (
            "an absolute name",
            zip(&[Zip::file("/etc/jw-escaped", "x")]),
            "/etc",
        ),
        (
            "a link and a file behind it",
            tar_gz(&[link(b'2', "out", "/tmp"), Tar::file("out/jw-escaped", "x")]),
            "out",
        ),
        (
            "a hard link",
            tar_gz(&[link(b'1', "shadow", "/etc/shadow")]),
            "shadow",
        ),
        ("a device", tar_gz(&[Tar::of(b'3', "null")]), "null"),
        ("a fifo", tar_gz(&[Tar::of(b'6', "fifo")]), "fifo"),
        (
            "a name twice",
            zip(&[Zip::file("a", "1"), Zip::file("a", "2")]),
            "a",
        ),
        (
            "two cases of a name",
            zip(&[Zip::file("a", "1"), Zip::file("A", "2")]),
            "A",
        ),
        (
            "an entry inside another",
            zip_with_one_inside_another(),
            "overlaps",
        ),
        ("10,001 entries", zip(&many), "entries"),
        ("a size that lies", liar, "liar"),
        (
            "ten gibibytes of zeros",
            [head(10 << 30), gz_of_zeros(10 * 1_024)].concat(),
            "zeros",
        ),
        (
            "a gibibyte packed a thousandfold",
            [head(1 << 30), gz_of_zeros(1_024)].concat(),
            "zeros",
        ),
        ("no archive at all", b"PK not a zip".to_vec(), ""),
    ]
}

fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => on_disk(&entry.path()),
            Ok(about) => about.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test]
async fn each_hostile_archive_is_refused_by_name_soon_and_leaves_nothing() -> Result<()> {
    // Packed before anything is connected: it takes longer than a server keeps an idle connection.
    let corpus = corpus();
    let cluster = Cluster::with(Settings {
        slots: 1,
        // Bombs of ten mebibytes are packed and sent here; nobody's lease is the subject.
        real_times: true,
        ..Settings::default()
    })
    .await?;
    let client = cluster.client()?;
    let mut slowest = (0, "none");
    for (what, archive, word) in corpus {
        let file = client.upload("archive", archive).await.context(what)?;
        let before = on_disk(&cluster.state());
        let job = client
            .submit(&SubmitJob {
                inputs: vec![InputBody {
                    file: file.id,
                    path: ".".into(),
                    unpack: true,
                }],
                ..shell("echo ran")
            })
            .await?;
        let ended = client.ended(job.id, LONG).await.context(what)?;
        let told = ended.outcome.as_ref().with_context(|| brief(&ended))?;
        assert_eq!(ended.state, StateName::Failed, "{what}: {}", brief(&ended));
        assert_eq!(told.reason, Some(NotStartedReason::BadInputs), "{what}: {told:?}");
        let message = told.message.clone().unwrap_or_default();
        assert!(message.contains(word), "{what}: {message}");
        assert_eq!(ended.attempts_total, 1, "{what}: it would not go better again");
        let attempt = ended.attempts.first().context(what)?;
        let took = attempt.ended_at.context(what)?.since(attempt.assigned_at);
        assert!(took < REFUSED_WITHIN, "{what}: {took:?}");
        slowest = slowest.max((took.as_millis(), what));
        let grown = on_disk(&cluster.state()).saturating_sub(before);
        assert!(grown < DISK_MAX, "{what}: {grown} bytes more on the disk");
        assert!(client.stdout(job.id).await?.is_empty(), "{what}");
    }
    eprintln!("slowest refusal: {slowest:?} ms");
    for escaped in ["/tmp/jw-escaped", "/etc/jw-escaped"] {
        assert!(!Path::new(escaped).exists(), "{escaped}");
    }
    cluster.docker().none_left(LONG).await?;
    cluster.stop().await
}
