//! Archives that nobody may send, and some that anybody may: each hostile one is refused by its own rule, naming the
//! entry, soon, and with little memory; each good one comes out as it went in.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails as the test does"
)]

mod build;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use common::archive::{ArchiveError, ArchiveLimits, ArchiveSummary, Rule, Sink, unpack};
use common::time::{Clock, SystemClock};
use proptest::prelude::*;

use self::build::{Tar, Zip, gz, gz_of_zeros, tar, tar_gz, zip, zip_with_count, zip_with_one_inside_another};

/// What is promised for the worst of them, of the processor's time: a machine where everything runs at once takes longer
/// by the clock, and no more of this.
const JUDGED_WITH: Duration = Duration::from_secs(5);

/// By the clock, for what waits instead of working.
const JUDGED_WITHIN: Duration = Duration::from_secs(30);

/// Counts what it is given, and keeps what is small.
#[derive(Default)]
struct Kept {
    folders: usize,
    bytes: u64,
    files: BTreeMap<String, (bool, Vec<u8>)>,
}

const KEPT_BYTES_MAX: u64 = 1 << 20;

impl Sink for Kept {
    fn folder(&mut self, _path: &str) -> io::Result<()> {
        self.folders += 1;
        Ok(())
    }

    fn file(&mut self, path: &str, executable: bool, content: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.bytes += content.take(KEPT_BYTES_MAX).read_to_end(&mut bytes)? as u64;
        self.bytes += io::copy(content, &mut io::sink())?;
        let before = self.files.insert(path.to_owned(), (executable, bytes));
        assert!(before.is_none(), "{path} was given twice");
        for part in path.split('/') {
            assert!(!matches!(part, "" | "." | ".."), "{path}");
        }
        Ok(())
    }
}

fn open(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// The processor's time that this thread has used.
fn worked() -> Duration {
    let read = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(read.tv_sec).unwrap(),
        u32::try_from(read.tv_nsec).unwrap(),
    )
}

fn judge(bytes: &[u8]) -> (Result<ArchiveSummary, ArchiveError>, Kept) {
    let mut kept = Kept::default();
    let mut file = open(bytes);
    let (began, worked_before) = (SystemClock.mono(), worked());
    let judged = unpack(&mut file, &ArchiveLimits::DEFAULT, &mut kept);
    let took = worked().saturating_sub(worked_before);
    assert!(took < JUDGED_WITH, "{took:?} of the processor's time: {judged:?}");
    assert!(SystemClock.mono().since(began) < JUDGED_WITHIN, "{judged:?}");
    assert!(kept.bytes <= ArchiveLimits::DEFAULT.bytes_max);
    (judged, kept)
}

/// The rule, the entry that is named, and how many bytes of content were given by then.
#[track_caller]
fn refusal(bytes: &[u8]) -> (Rule, Option<String>, u64) {
    match judge(bytes) {
        (Err(ArchiveError::Refused(refusal)), kept) => (refusal.rule, refusal.entry, kept.bytes),
        (other, _) => panic!("not refused: {other:?}"),
    }
}

#[track_caller]
fn refused(bytes: &[u8], rule: Rule, entry: &str) {
    assert_eq!(refusal(bytes), (rule, Some(entry.to_owned()), 0));
}

#[track_caller]
fn refused_whole(bytes: &[u8], rule: Rule) {
    let (found, entry, _) = refusal(bytes);
    assert_eq!((found, entry), (rule, None));
}

/// One file of this name, in both formats.
fn named(name: impl AsRef<[u8]>) -> [Vec<u8>; 2] {
    let path = Tar::pax(&[("path", name.as_ref())]);
    [
        zip(&[Zip::file(&name, "x")]),
        tar_gz(&[path, Tar::file("short", "x")]),
    ]
}

#[test]
fn a_name_that_leads_out_is_refused() {
    for name in ["../out", "a/../../out", "..", "a/.."] {
        for archive in named(name) {
            refused(&archive, Rule::Parent, name);
        }
    }
    for archive in named("/etc/passwd") {
        refused(&archive, Rule::Absolute, "/etc/passwd");
    }
    refused(&tar_gz(&[Tar::file("../out", "x")]), Rule::Parent, "../out");
}

#[test]
fn a_name_that_is_not_a_plain_one_is_refused_and_shown_without_what_makes_it_so() {
    let names: [(&[u8], &str); 5] = [
        (b"a\0b", "a\u{fffd}b"),
        (b"a\x1b[2Jb", "a\u{fffd}[2Jb"),
        (b"a\nb", "a\u{fffd}b"),
        (b"..\\out", "..\\out"),
        (b"\xff\xfe", "\u{fffd}\u{fffd}"),
    ];
    for (name, shown) in names {
        for archive in named(name) {
            refused(&archive, Rule::BadName, shown);
        }
    }
    refused(&zip(&[Zip::file("", "x")]), Rule::BadName, "");
}

#[test]
fn a_name_too_long_or_too_deep_is_refused() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(32) + "f";
    for archive in named(&long) {
        refused(&archive, Rule::NameTooLong, &long[..120]);
    }
    for archive in named("p/".repeat(3_000) + "f") {
        assert_eq!(refusal(&archive).0, Rule::NameTooLong);
    }
    for archive in named(&deep) {
        refused(&archive, Rule::TooDeep, &deep);
    }
    for archive in named("n".repeat(255))
        .into_iter()
        .chain(named("d/".repeat(31) + "f"))
    {
        judge(&archive).0.unwrap();
    }
}

#[test]
fn links_and_devices_are_refused_before_what_stands_behind_them() {
    for (kind, rule) in [
        (b'1', Rule::Link),
        (b'2', Rule::Link),
        (b'3', Rule::Special),
        (b'4', Rule::Special),
        (b'6', Rule::Special),
        (b'S', Rule::Special),
        (b'V', Rule::Special),
        (b'Z', Rule::Special),
    ] {
        let odd = Tar {
            link: "/etc",
            ..Tar::of(kind, "out")
        };
        refused(&tar_gz(&[odd, Tar::file("out/passwd", "x")]), rule, "out");
    }
    for (mode, rule) in [
        (0o120_777, Rule::Link),
        (0o010_644, Rule::Special),
        (0o020_644, Rule::Special),
        (0o060_644, Rule::Special),
        (0o140_644, Rule::Special),
        (0o040_755, Rule::Special),
    ] {
        let odd = Zip {
            mode,
            ..Zip::file("out", "/etc")
        };
        refused(&zip(&[odd, Zip::file("out/passwd", "x")]), rule, "out");
    }
    let sparse = Tar::pax(&[("GNU.sparse.major", b"1")]);
    refused_whole(&tar_gz(&[sparse, Tar::file("s", "x")]), Rule::Special);
}

#[test]
fn a_name_comes_once() {
    let twice: [([&str; 2], Rule); 6] = [
        (["a", "a"], Rule::Duplicate),
        (["a", "./a"], Rule::Duplicate),
        (["a", "a/b"], Rule::Duplicate),
        (["a/b", "a"], Rule::Duplicate),
        (["a", "A"], Rule::CaseClash),
        (["ä/x", "Ä/y"], Rule::CaseClash),
    ];
    for ([first, second], rule) in twice {
        refused(&zip(&[Zip::file(first, ""), Zip::file(second, "")]), rule, second);
        refused(
            &tar_gz(&[Tar::file(first, ""), Tar::file(second, "")]),
            rule,
            second,
        );
    }
    judge(&tar_gz(&[
        Tar::of(b'5', "a/"),
        Tar::file("a/b", ""),
        Tar::of(b'5', "a"),
    ]))
    .0
    .unwrap();
}

#[test]
fn ten_thousand_entries_are_the_most() {
    let files: Vec<Tar> = (0..10_001).map(|n| Tar::file(n.to_string(), "")).collect();
    judge(&tar_gz(&files[1..])).0.unwrap();
    refused_whole(&tar_gz(&files), Rule::TooManyEntries);
    let files: Vec<Zip> = (0..10_001).map(|n| Zip::file(n.to_string(), "")).collect();
    judge(&zip(&files[1..])).0.unwrap();
    refused_whole(&zip(&files), Rule::TooManyEntries);
}

#[test]
fn folders_that_are_only_implied_are_counted_too() {
    // each file is in thirty folders of its own
    let path = |n: usize| (0..30).map(|d| format!("{n}-{d}/")).collect::<String>() + "f";
    let files: Vec<Zip> = (0..2_000).map(|n| Zip::file(path(n), "")).collect();
    let (rule, entry, _) = refusal(&zip(&files));
    assert_eq!(rule, Rule::TooManyEntries);
    assert!(entry.is_some());
}

#[test]
fn a_header_that_lies_about_a_size_is_refused() {
    let content = "x".repeat(1_000);
    let lying = |size, local_size| Zip {
        size,
        local_size,
        ..Zip::file("liar", &content)
    };
    for size in [0, 999, 1_001] {
        let (rule, entry, given) = refusal(&zip(&[lying(Some(size), None)]));
        assert_eq!((rule, entry.as_deref()), (Rule::LyingSize, Some("liar")));
        assert!(given <= 1_000);
        refused(&zip(&[lying(None, Some(size))]), Rule::LyingSize, "liar");
        let stored = Zip {
            method: 0,
            ..lying(Some(size), None)
        };
        refused(&zip(&[stored]), Rule::LyingSize, "liar");
    }
    let folder = Zip {
        mode: 0o040_755,
        ..Zip::file("liar/", &content)
    };
    refused(&zip(&[folder]), Rule::LyingSize, "liar/");
    let folder = Tar {
        content: content.clone().into(),
        ..Tar::of(b'5', "liar")
    };
    refused(&tar_gz(&[folder]), Rule::LyingSize, "liar");
    let pax = Tar::pax(&[("size", b"7")]);
    refused(
        &tar_gz(&[pax, Tar::file("liar", &content)]),
        Rule::LyingSize,
        "liar",
    );
}

#[test]
fn a_tar_whose_size_reaches_into_the_next_header_or_past_the_end_is_refused() {
    let short = Tar {
        size: Some(5),
        ..Tar::file("a", "x".repeat(1_000))
    };
    refused_whole(&tar_gz(&[short, Tar::file("b", "y")]), Rule::Damaged);
    let long = Tar {
        size: Some(1_000_000),
        ..Tar::file("a", "x")
    };
    let (rule, entry, _) = refusal(&tar_gz(&[long]));
    assert_eq!((rule, entry.as_deref()), (Rule::Damaged, Some("a")));
}

#[test]
fn entries_of_a_zip_that_share_bytes_are_refused() {
    let content = vec![7; 10_000];
    let same = Zip {
        bytes_of: Some(0),
        ..Zip::file("a", &content)
    };
    // of the same name, so that the local header agrees, in a folder written otherwise
    let other = Zip {
        name: b"b".to_vec(),
        ..same.clone()
    };
    refused(&zip(&[Zip::file("a", &content), same]), Rule::Duplicate, "a");
    let (rule, _, given) = refusal(&zip(&[Zip::file("a", &content), other]));
    assert!(matches!(rule, Rule::Damaged | Rule::Overlap), "{rule:?}");
    assert_eq!(given, 0);
}

#[test]
fn an_entry_that_lies_inside_another_is_refused() {
    refused(&zip_with_one_inside_another(), Rule::Overlap, "outer");
}

#[test]
fn ten_gibibytes_of_zeros_are_refused_soon() {
    let head = |size| {
        gz(&Tar {
            size: Some(size),
            ..Tar::of(b'0', "zeros")
        }
        .bytes())
    };
    let zeros = gz_of_zeros(10 * 1_024);
    refused(&[head(10 << 30), zeros].concat(), Rule::TooLarge, "zeros");
    let zeros = gz_of_zeros(1_024);
    refused(&[head(1 << 30), zeros.clone()].concat(), Rule::Ratio, "zeros");
    // behind the end of the tar, where no header tells of them
    let hidden = [tar_gz(&[Tar::file("a", "x")]), zeros].concat();
    refused_whole(&hidden, Rule::Ratio);
}

#[test]
fn a_zip_that_unpacks_to_a_thousand_times_its_size_is_refused() {
    let archive = zip(&[Zip::file("bomb", vec![0; 32 << 20])]);
    refused(&archive, Rule::Ratio, "bomb");
    let small = zip(&[Zip::file("zeros", vec![0; 4 << 20])]);
    assert_eq!(judge(&small).0.unwrap().bytes, 4 << 20);
}

#[test]
fn a_zip_of_more_than_may_be_is_refused_by_its_directory_alone() {
    // 100 entries of 12 MiB each, said to be packed to a hundredth: nothing is read of them
    let mut state = 1_u64;
    let filler: Vec<u8> = (0..120 << 10)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect();
    let entries: Vec<Zip> = (0..100)
        .map(|n| Zip {
            size: Some(12 << 20),
            ..Zip::file(n.to_string(), &filler)
        })
        .collect();
    let (rule, _, given) = refusal(&zip(&entries));
    assert_eq!((rule, given), (Rule::TooLarge, 0));
}

#[test]
fn zip64_and_other_all_ones_are_refused() {
    let huge = Zip {
        size: Some(u32::MAX),
        ..Zip::file("huge", "x")
    };
    refused(&zip(&[huge]), Rule::TooLarge, "huge");
    refused_whole(
        &zip_with_count(&[Zip::file("a", "x")], 65_535),
        Rule::TooManyEntries,
    );
}

#[test]
fn a_directory_that_counts_otherwise_is_refused() {
    for count in [0, 2, 9_999] {
        refused_whole(&zip_with_count(&[Zip::file("a", "x")], count), Rule::Damaged);
    }
}

#[test]
fn a_local_header_that_disagrees_with_the_directory_is_refused() {
    let other = Zip {
        local_name: Some("b"),
        ..Zip::file("a", "x")
    };
    refused(&zip(&[other]), Rule::Damaged, "a");
}

#[test]
fn encrypted_entries_and_unknown_methods_are_refused() {
    for flags in [1, 1 << 6 | 1, 1 << 13] {
        let secret = Zip {
            flags,
            ..Zip::file("secret", "x")
        };
        refused(&zip(&[secret]), Rule::Encrypted, "secret");
    }
    for method in [1, 9, 12, 14, 93, 99] {
        let odd = Zip {
            method,
            ..Zip::file("odd", "x")
        };
        refused(&zip(&[odd]), Rule::Method, "odd");
    }
}

#[test]
fn a_bad_checksum_is_refused() {
    let wrong = Zip {
        crc: Some(1),
        ..Zip::file("wrong", "content")
    };
    let (rule, entry, _) = refusal(&zip(&[wrong]));
    assert_eq!((rule, entry.as_deref()), (Rule::Damaged, Some("wrong")));
    // of the gzip around a tar
    let mut archive = tar_gz(&[Tar::file("a", "content")]);
    let crc_at = archive.len() - 8;
    archive[crc_at] ^= 1;
    refused_whole(&archive, Rule::Damaged);
    // of a tar's header
    let mut inside = tar(&[Tar::file("a", "content")]);
    inside[0] = b'b';
    refused_whole(&gz(&inside), Rule::Damaged);
}

#[test]
fn bytes_behind_the_packed_content_are_refused() {
    let padded = Zip {
        method: 8,
        ..Zip::file("a", "content")
    };
    let mut archive = zip(&[padded]);
    let central = archive.windows(4).position(|mark| mark == b"PK\x01\x02").unwrap();
    // eight bytes more between content and directory, which both headers count as packed
    archive.splice(central..central, [0xaa; 8]);
    for at in [18, central + 8 + 20] {
        archive[at] += 8;
    }
    let end = archive.len() - 22;
    archive[end + 16] += 8;
    let (rule, entry, _) = refusal(&archive);
    assert_eq!((rule, entry.as_deref()), (Rule::LyingSize, Some("a")));
}

#[test]
fn an_archive_that_was_cut_off_is_refused_wherever_it_was() {
    let content: Vec<u8> = (0..3_000_u32).flat_map(u32::to_le_bytes).collect();
    for whole in [
        zip(&[Zip::file("a", &content), Zip::file("b", "x")]),
        tar_gz(&[Tar::file("a", &content), Tar::file("b", "x")]),
    ] {
        for length in (1..whole.len()).step_by(37) {
            let rule = refusal(&whole[..length]).0;
            assert!(
                matches!(rule, Rule::Damaged | Rule::NotAnArchive),
                "{length}: {rule:?}"
            );
        }
    }
}

#[test]
fn what_is_no_archive_is_said_to_be_none() {
    let not: [&[u8]; 5] = [b"", b"PK", b"hello, world", &[0; 4_096], b"\x7fELF\x02\x01"];
    for bytes in not {
        refused_whole(bytes, Rule::NotAnArchive);
    }
    refused_whole(&tar(&[Tar::file("a", "x")]), Rule::NotAnArchive);
    refused_whole(&gz(b"no tar in here"), Rule::Damaged);
    refused_whole(&gz(b""), Rule::NotAnArchive);
}

#[test]
fn extension_headers_are_bounded() {
    let long = Tar {
        content: vec![b'n'; 65 * 1_024],
        ..Tar::of(b'L', "././@LongLink")
    };
    refused_whole(&tar_gz(&[long, Tar::file("a", "x")]), Rule::NameTooLong);
    for records in [
        "",
        "x",
        "5 a",
        "99999999999999999999 a=b\n",
        "1 a=b\n",
        "6 a-b\n",
        "12 size=abc\n",
    ] {
        let odd = Tar {
            content: records.into(),
            ..Tar::of(b'x', "PaxHeader")
        };
        let judged = judge(&tar_gz(&[odd, Tar::file("a", "x")])).0;
        assert_eq!(judged.is_ok(), records.is_empty(), "{records}: {judged:?}");
    }
}

#[test]
fn of_a_mode_only_the_executable_bit_is_kept() {
    let tar_entry = Tar {
        mode: 0o6755,
        ..Tar::file("run", "#!")
    };
    let zip_entry = Zip {
        mode: 0o106_755,
        ..Zip::file("run", "#!")
    };
    for archive in [tar_gz(&[tar_entry]), zip(&[zip_entry])] {
        let (judged, kept) = judge(&archive);
        judged.unwrap();
        // a sink is told nothing else of a mode
        assert_eq!(kept.files["run"], (true, b"#!".to_vec()));
    }
}

fn good_files() -> Vec<(String, bool, Vec<u8>)> {
    let noise: Vec<u8> = (0..200_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(30));
    vec![
        ("run.sh".into(), true, b"#!/bin/sh\n".to_vec()),
        ("empty".into(), false, Vec::new()),
        ("data/noise.bin".into(), false, noise),
        ("data/ünïcode – ☃".into(), false, b"snow".to_vec()),
        (long, false, vec![0; 70_000]),
    ]
}

fn as_kept(files: &[(String, bool, Vec<u8>)]) -> BTreeMap<String, (bool, Vec<u8>)> {
    files
        .iter()
        .map(|(path, executable, bytes)| (path.clone(), (*executable, bytes.clone())))
        .collect()
}

#[test]
fn what_a_real_tar_packed_comes_out_as_it_went_in() {
    let files = good_files();
    for header in [::tar::Header::new_gnu(), ::tar::Header::new_ustar()] {
        let mut builder = ::tar::Builder::new(Vec::new());
        let mut folder = header.clone();
        folder.set_entry_type(::tar::EntryType::Directory);
        folder.set_mode(0o755);
        folder.set_size(0);
        builder.append_data(&mut folder, "data/", io::empty()).unwrap();
        for (path, executable, bytes) in &files {
            let mut header = header.clone();
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        let (judged, kept) = judge(&gz(&builder.into_inner().unwrap()));
        assert_eq!(judged.unwrap().files, files.len());
        assert_eq!((kept.folders, kept.files), (1, as_kept(&files)));
    }
}

#[test]
fn what_a_real_zip_packed_comes_out_as_it_went_in() {
    let files = good_files();
    for method in [
        ::zip::CompressionMethod::Stored,
        ::zip::CompressionMethod::Deflated,
    ] {
        let mut writer = ::zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = ::zip::write::SimpleFileOptions::default().compression_method(method);
        writer.add_directory("data/", options).unwrap();
        for (path, executable, bytes) in &files {
            let mode = if *executable { 0o755 } else { 0o644 };
            writer
                .start_file(path.as_str(), options.unix_permissions(mode))
                .unwrap();
            writer.write_all(bytes).unwrap();
        }
        let (judged, kept) = judge(&writer.finish().unwrap().into_inner());
        assert_eq!(judged.unwrap().files, files.len());
        assert_eq!((kept.folders, kept.files), (1, as_kept(&files)));
    }
}

/// What is on the machine's path packs too, where it is there.
#[test]
fn what_the_machines_own_tools_packed_comes_out_as_it_went_in() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let files = good_files();
    for (path, executable, bytes) in &files {
        let path = folder.path().join("in").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let mode = if *executable { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let lines = [
        "tar -C in -czf out .",
        "tar -C in --format=pax -czf out data empty run.sh folder*",
        "cd in && zip -q -r ../out . && mv ../out.zip ../out",
        "cd in && python3 -c 'import shutil; shutil.make_archive(\"../made\", \"zip\", \".\")' && mv ../made.zip ../out",
        "cd in && python3 -c 'import shutil; shutil.make_archive(\"../made\", \"gztar\", \".\")' && mv ../made.tar.gz ../out",
    ];
    let mut packed = 0;
    for line in lines {
        let made = std::process::Command::new("sh")
            .args(["-c", line])
            .current_dir(folder.path())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        if !made.success() {
            continue;
        }
        packed += 1;
        let (judged, kept) = judge(&std::fs::read(folder.path().join("out")).unwrap());
        judged.unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(kept.files == as_kept(&files), "{line}");
    }
    assert!(packed > 0, "not even tar is there");
}

fn good_archives() -> Arc<[Vec<u8>]> {
    let noise: Vec<u8> = (0..2_000_u32).flat_map(u32::to_le_bytes).collect();
    [
        zip(&[
            Zip::file("a/b", &noise),
            Zip {
                method: 0,
                ..Zip::file("c", "stored")
            },
        ]),
        tar_gz(&[
            Tar::of(b'5', "a/"),
            Tar::pax(&[("path", b"a/long"), ("mtime", b"1.5")]),
            Tar::file("short", &noise),
        ]),
        tar(&[
            Tar::pax(&[("path", b"a/long")]),
            Tar::file("short", &noise),
            Tar::file("b", "x"),
        ]),
    ]
    .into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_panic(
        mark in prop::sample::select(vec![&b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08\0"]),
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let _ = judge(&[mark, &bytes].concat());
        // past the gzip, into the tar itself
        let _ = judge(&gz(&bytes));
    }

    #[test]
    fn a_good_archive_with_some_bytes_changed_is_no_panic(
        which in 0_usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        whether_cut: bool,
    ) {
        let mut archive = good_archives()[which].clone();
        for (place, byte) in changes {
            let place = place.index(archive.len());
            archive[place] = byte;
        }
        if whether_cut {
            archive.truncate(cut.index(archive.len()));
        }
        // the third is a bare tar, so that its headers are reached
        let archive = if which == 2 { gz(&archive) } else { archive };
        let _ = judge(&archive);
    }
}
