//! What is built in keeps the policy of `deny.toml`: licences, sources, bans, duplicates.
//!
//! Advisories are not checked here: their database changes daily. `cargo deny check advisories` does it where
//! cargo-deny is installed.

use std::fs;

use jobworker_e2e::tidy::packages::Metadata;
use jobworker_e2e::tidy::supply::{self, Policy};
use jobworker_e2e::tidy::{assert_none, root};

fn policy() -> Policy {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml is there");
    supply::parse(&text).expect("deny.toml is valid")
}

fn everything() -> Metadata {
    let metadata =
        Metadata::of_everything(&root()).expect("cargo metadata answers, and Cargo.lock is in step");
    assert!(
        metadata.resolved().iter().any(|package| package.source.is_some()),
        "the graph holds more than ourselves"
    );
    metadata
}

#[test]
fn every_licence_is_one_that_we_accept() {
    assert_none(
        "licences",
        &supply::check_licences(&policy(), &everything().resolved()),
    );
}

#[test]
fn everything_comes_from_the_registry_of_record() {
    assert_none(
        "sources",
        &supply::check_sources(&policy(), &everything().resolved()),
    );
}

#[test]
fn nothing_banned_is_built_in() {
    assert_none("bans", &supply::check_bans(&policy(), &everything().resolved()));
}

#[test]
fn a_package_is_built_in_once_or_the_reason_is_written_down() {
    assert_none(
        "duplicates",
        &supply::check_duplicates(&policy(), &everything().resolved()),
    );
}

#[test]
fn every_ban_and_every_excuse_gives_its_reason() {
    assert_none("reasons", &supply::check_reasons(&policy()));
}
