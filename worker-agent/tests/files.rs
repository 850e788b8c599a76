//! What goes into a workspace and what is taken out of it, with trees and archives that mean harm.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails as the test does"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::ids::FileId;
use common::job::InputFile;
use common::time::{Clock, SystemClock};
use tempfile::TempDir;
use worker_agent::executor::LocalInput;
use worker_agent::files::artifacts::{ArtifactLimits, Found, collect};
use worker_agent::files::inputs::{PlaceError, place};

const SECRET: &str = "the node's own secret";
const DISK_BYTES: u64 = 64 << 20;
/// For the largest of the trees, on a machine where everything runs at once.
const COLLECTED_WITHIN: Duration = Duration::from_secs(60);

/// A workspace, with a folder beside it that nothing may touch.
struct Place {
    all: TempDir,
}

impl Place {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        for folder in ["workspace", "outside", "fetched"] {
            std::fs::create_dir(all.path().join(folder)).unwrap();
        }
        std::fs::write(all.path().join("outside/secret"), SECRET).unwrap();
        Self { all }
    }

    fn workspace(&self) -> PathBuf {
        self.all.path().join("workspace")
    }

    fn outside(&self) -> PathBuf {
        self.all.path().join("outside")
    }

    fn input(&self, path: &str, bytes: &[u8], unpack: bool) -> LocalInput {
        let file = FileId::random();
        let local = self.all.path().join("fetched").join(file.to_string());
        std::fs::write(&local, bytes).unwrap();
        LocalInput {
            wanted: InputFile {
                file,
                path: path.to_owned(),
                unpack,
            },
            local,
        }
    }

    fn place(&self, inputs: &[LocalInput], disk_bytes: u64) -> Result<(), PlaceError> {
        let owner = rustix::process::geteuid().is_root().then_some((61_005, 61_005));
        place(&self.workspace(), inputs, None, owner, disk_bytes)
    }

    #[track_caller]
    fn outside_is_as_it_was(&self) {
        assert_eq!(
            tree(&self.outside()),
            BTreeMap::from([("secret".into(), SECRET.into())])
        );
        assert_eq!(std::fs::read_dir(self.all.path()).unwrap().count(), 3);
    }
}

/// Regular files below, by path; links are not followed.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path().strip_prefix(folder).unwrap().to_owned();
                let text = std::fs::read_to_string(entry.path()).unwrap();
                found.insert(path.to_str().unwrap().to_owned(), text);
            }
        }
    }
    found
}

fn tar_gz(files: &[(&str, u32, &str)]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    for (path, mode, text) in files {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(*mode);
        header.set_size(text.len() as u64);
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn zip(files: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, mode, text) in files {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*path, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[track_caller]
fn bad(placed: Result<(), PlaceError>, says: &str) {
    match placed {
        Err(PlaceError::Bad { message }) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn inputs_are_where_the_job_wants_them_and_its_users() {
    let place = Place::new();
    let files = [("run", 0o4755, "#!"), ("sub/data", 0o600, "1")];
    let inputs = [
        place.input("plain.txt", b"plain", false),
        place.input("deep/er/plain.txt", b"deeper", false),
        place.input("t", &tar_gz(&files), true),
        place.input("z/z", &zip(&files), true),
        place.input(".", &zip(&[("at-the-root", 0o644, "2")]), true),
    ];
    place.place(&inputs, DISK_BYTES).unwrap();
    let expected = [
        ("plain.txt", "plain"),
        ("deep/er/plain.txt", "deeper"),
        ("t/run", "#!"),
        ("t/sub/data", "1"),
        ("z/z/run", "#!"),
        ("z/z/sub/data", "1"),
        ("at-the-root", "2"),
    ];
    let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
    assert_eq!(tree(&place.workspace()), BTreeMap::from(expected));
    for (path, mode) in [
        ("t/run", 0o755),
        ("z/z/run", 0o755),
        ("t/sub/data", 0o644),
        ("plain.txt", 0o644),
    ] {
        let seen = std::fs::metadata(place.workspace().join(path)).unwrap();
        assert_eq!(seen.permissions().mode() & 0o7777, mode, "{path}");
    }
    if rustix::process::geteuid().is_root() {
        for path in ["t", "t/run", "t/sub", "deep", "deep/er/plain.txt"] {
            let seen = std::fs::metadata(place.workspace().join(path)).unwrap();
            assert_eq!((seen.uid(), seen.gid()), (61_005, 61_005), "{path}");
        }
    }
    place.outside_is_as_it_was();
}

#[test]
fn a_link_that_was_planted_in_the_workspace_leads_nowhere() {
    let link_to_folder = |place: &Place| symlink(place.outside(), place.workspace().join("link")).unwrap();
    let link_to_file = |place: &Place| {
        std::fs::create_dir(place.workspace().join("link")).unwrap();
        symlink(
            place.outside().join("secret"),
            place.workspace().join("link/secret"),
        )
        .unwrap();
        symlink(place.outside().join("new"), place.workspace().join("link/new")).unwrap();
    };
    for plant in [&link_to_folder as &dyn Fn(&Place), &link_to_file] {
        for name in ["secret", "new"] {
            let archived = format!("link/{name}");
            let files = [(archived.as_str(), 0o644, "overwritten")];
            let inputs: [&dyn Fn(&Place) -> LocalInput; 4] = [
                &|place| place.input(&archived, b"overwritten", false),
                &|place| place.input(".", &tar_gz(&files), true),
                &|place| place.input(".", &zip(&files), true),
                &|place| place.input("link", &zip(&[(name, 0o644, "overwritten")]), true),
            ];
            for input in inputs {
                let place = Place::new();
                plant(&place);
                let placed = place.place(&[input(&place)], DISK_BYTES);
                assert!(placed.is_err(), "{archived}");
                place.outside_is_as_it_was();
            }
        }
    }
}

#[test]
fn no_path_of_an_input_leads_out() {
    for path in ["../outside/new", "a/../../outside/new", "/../outside/new"] {
        for unpack in [false, true] {
            let place = Place::new();
            let input = place.input(path, &zip(&[("new", 0o644, "x")]), unpack);
            // an absolute one is taken as one below
            let _ = place.place(&[input], DISK_BYTES);
            place.outside_is_as_it_was();
        }
    }
}

#[test]
fn a_refused_archive_leaves_nothing_and_says_its_entry() {
    let place = Place::new();
    let hostile = tar_gz(&[("good", 0o644, "x"), ("../outside/new", 0o644, "x")]);
    let input = place.input("in", &hostile, true);
    bad(
        place.place(&[input], DISK_BYTES),
        "input `in`: the archive is refused at `../outside/new`",
    );
    assert_eq!(std::fs::read_dir(place.workspace()).unwrap().count(), 0);
    place.outside_is_as_it_was();
}

#[test]
fn two_inputs_of_one_name_are_said_to_be_so() {
    let place = Place::new();
    let inputs = [place.input("a", b"1", false), place.input("a", b"2", false)];
    bad(
        place.place(&inputs, DISK_BYTES),
        "input `a`: there is something of this name already",
    );
    assert_eq!(std::fs::read_to_string(place.workspace().join("a")).unwrap(), "1");
    let place = Place::new();
    let inputs = [place.input("a", b"1", false), place.input("a/b", b"2", false)];
    bad(
        place.place(&inputs, DISK_BYTES),
        "input `a/b`: a file stands where a folder is needed",
    );
}

#[test]
fn inputs_that_do_not_fit_the_jobs_disk_are_refused_together_too() {
    let text = "x".repeat(700_000);
    for unpack in [false, true] {
        let place = Place::new();
        let bytes = if unpack {
            zip(&[("f", 0o644, text.as_str())])
        } else {
            text.clone().into_bytes()
        };
        let one = [place.input("a", &bytes, unpack)];
        place.place(&one, 1 << 20).unwrap();
        let second = [place.input("b", &bytes, unpack), place.input("c", &bytes, unpack)];
        let says = if unpack {
            "unpacked it is too large"
        } else {
            "do not fit into 1 MiB"
        };
        bad(place.place(&second, 1 << 20), says);
    }
}

fn found(place: &Place, globs: &[&str], limits: &ArtifactLimits) -> Found {
    let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
    let began = SystemClock.mono();
    let found = collect(&place.workspace(), &globs, limits).unwrap();
    assert!(SystemClock.mono().since(began) < COLLECTED_WITHIN);
    for file in &found.files {
        let path = place.workspace().join(&file.path);
        assert!(path.symlink_metadata().unwrap().is_file());
        assert!(
            !String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(SECRET),
            "{path:?}"
        );
    }
    for refused in &found.refused {
        assert!(
            !refused
                .path
                .chars()
                .chain(refused.reason.chars())
                .any(char::is_control),
            "{refused:?}"
        );
    }
    found
}

fn taken(found: &Found) -> Vec<&str> {
    found.files.iter().map(|file| file.path.as_str()).collect()
}

#[track_caller]
fn refused(found: &Found, path: &str, reason: &str) {
    let seen = found.refused.iter().find(|refused| refused.path == path);
    let seen = seen.unwrap_or_else(|| panic!("{path} is not refused: {found:?}"));
    assert!(seen.reason.contains(reason), "{seen:?}");
}

#[test]
fn of_a_hostile_tree_only_its_own_plain_files_are_taken() {
    let place = Place::new();
    let workspace = place.workspace();
    let at = |path: &str| workspace.join(path);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/good.txt"), "good").unwrap();
    symlink(place.outside().join("secret"), at("link")).unwrap();
    symlink("/", at("root")).unwrap();
    symlink(place.outside(), at("sub/folder")).unwrap();
    symlink("sub/good.txt", at("inner-link")).unwrap();
    std::fs::hard_link(place.outside().join("secret"), at("hard")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    for name in [&b"new\nline"[..], b"escape\x1b[2J", b"\xff\xfe"] {
        std::fs::write(workspace.join(OsStr::from_bytes(name)), "odd").unwrap();
    }
    std::fs::create_dir(workspace.join(OsStr::from_bytes(b"odd\xff"))).unwrap();
    std::fs::write(workspace.join(OsStr::from_bytes(b"odd\xff/in")), "odd").unwrap();
    std::fs::create_dir_all(workspace.join("d/".repeat(1_000))).unwrap();
    std::fs::write(workspace.join("d/".repeat(1_000)).join("f"), "deep").unwrap();
    let device = rustix::fs::mknodat(
        rustix::fs::CWD,
        at("device"),
        rustix::fs::FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(1, 5),
    );

    let found = found(&place, &["**"], &ArtifactLimits::default());
    assert_eq!(taken(&found), ["sub/good.txt"]);
    for (path, reason) in [
        ("link", "a symbolic link"),
        ("root", "a symbolic link"),
        ("sub/folder", "a symbolic link"),
        ("inner-link", "a symbolic link"),
        ("hard", "more than one name"),
        ("socket", "a socket"),
        ("pipe", "a pipe"),
        ("sparse", "bytes; a file may have"),
        ("new\u{fffd}line", "control characters"),
        ("escape\u{fffd}[2J", "control characters"),
        ("\u{fffd}\u{fffd}", "not UTF-8"),
        ("odd\u{fffd}", "not UTF-8"),
        ("d/".repeat(63).as_str().trim_end_matches('/'), "nested deeper"),
    ] {
        if path.starts_with("d/") {
            assert!(
                found
                    .refused
                    .iter()
                    .any(|refused| refused.reason.contains(reason))
            );
        } else {
            refused(&found, path, reason);
        }
    }
    // where the machine lets one be made at all
    if device.is_ok() {
        refused(&found, "device", "a device");
    }
    place.outside_is_as_it_was();
}

#[test]
fn what_no_glob_names_is_not_mentioned() {
    let place = Place::new();
    symlink("/", place.workspace().join("root")).unwrap();
    std::fs::write(place.workspace().join("a.txt"), "a").unwrap();
    std::fs::write(place.workspace().join("b.log"), "b").unwrap();
    let found = found(
        &place,
        &["./*.txt", "root/**", "/etc/*", "../outside/*"],
        &ArtifactLimits::default(),
    );
    assert_eq!((taken(&found), found.refused.len()), (vec!["a.txt"], 0));
}

#[test]
fn a_tree_of_a_hundred_thousand_entries_is_walked_to_the_limit_and_no_further() {
    let place = Place::new();
    for n in 0..100_001 {
        std::fs::File::create(place.workspace().join(n.to_string())).unwrap();
    }
    let found = found(&place, &["*"], &ArtifactLimits::default());
    assert_eq!(found.files.len(), 1_000);
    // one line for each of the first, one for the others
    assert_eq!(found.refused.len(), 101);
    assert_eq!(found.refused.last().unwrap().reason, "98901 more were refused");
}

#[test]
fn count_size_and_walk_are_limited_each_with_its_reason() {
    let place = Place::new();
    for name in ["a", "b", "c"] {
        std::fs::write(place.workspace().join(name), "1234").unwrap();
    }
    std::fs::create_dir(place.workspace().join("e".repeat(200))).unwrap();
    let limits = ArtifactLimits::default();
    let reasons = |limits: ArtifactLimits| {
        let found = found(&place, &["**"], &limits);
        let reasons: Vec<String> = found
            .refused
            .iter()
            .map(|refused| refused.reason.clone())
            .collect();
        (found.files.len(), reasons.join("; "))
    };
    let (files, why) = reasons(ArtifactLimits {
        files_max: 2,
        ..limits
    });
    assert_eq!((files, why.as_str()), (2, "more than 2 files"));
    let (files, why) = reasons(ArtifactLimits {
        file_bytes_max: 3,
        ..limits
    });
    assert_eq!(
        (files, why.contains("4 bytes; a file may have 3")),
        (0, true),
        "{why}"
    );
    let (files, why) = reasons(ArtifactLimits {
        total_bytes_max: 9,
        ..limits
    });
    assert_eq!((files, why.as_str()), (2, "over 9 bytes in all"));
    let (files, why) = reasons(ArtifactLimits {
        entries_walked_max: 1,
        ..limits
    });
    assert!(files <= 1 && why.contains("more than 1 entries"), "{why}");
    let (files, why) = reasons(ArtifactLimits {
        path_bytes_max: 100,
        ..limits
    });
    assert_eq!((files, why.as_str()), (3, "the path is longer than 100 bytes"));
}
