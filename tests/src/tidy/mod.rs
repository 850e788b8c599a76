//! The rules that the tree keeps about itself, as functions over texts.
//!
//! Each rule takes what it judges (files, a package list) and returns the problems it found as sentences; none reads
//! the disk itself, so each has unit tests with bad samples beside it. `tests/tidy.rs` and `tests/supply_chain.rs`
//! apply them to this repository. A problem names the place, what was found and what to do.

pub mod arrows;
pub mod docs;
pub mod licence;
pub mod packages;
pub mod sources;
pub mod supply;
pub mod tree;

use std::path::{Path, PathBuf};

/// What a rule found wrong; empty means that it holds.
pub type Problems = Vec<String>;

/// The repository's root folder.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in a folder of the repository")
        .to_path_buf()
}

/// Fails the calling test with all problems at once, so that one run shows everything there is to mend.
#[track_caller]
pub fn assert_none(rule: &str, problems: &[String]) {
    assert!(
        problems.is_empty(),
        "{rule}: {} problem(s)\n  {}",
        problems.len(),
        problems.join("\n  ")
    );
}
