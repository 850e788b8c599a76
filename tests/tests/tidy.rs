//! The tree keeps its own rules. Each rule, and the proof that it can fail, stands in `tests/src/tidy/`.

use jobworker_e2e::tidy::tree::{self, TextFile};
use jobworker_e2e::tidy::{arrows, assert_none, docs, packages::Metadata, root, sources};

fn files() -> Vec<TextFile> {
    let files = tree::read(&root()).expect("the repository can be read");
    assert!(
        files.iter().any(|file| file.path == "Cargo.toml"),
        "this is not the repository's root"
    );
    files
}

fn text_of(files: &[TextFile], path: &str) -> String {
    files
        .iter()
        .find(|file| file.path == path)
        .map_or_else(String::new, |file| file.text.clone())
}

#[test]
fn packages_use_each_other_only_along_the_arrows() {
    let metadata = Metadata::of_workspace(&root()).expect("cargo metadata answers");
    assert!(metadata.packages.len() > 1, "cargo metadata lists the workspace");
    assert_none("arrows between packages", &arrows::check_manifests(&metadata));
}

#[test]
fn only_the_programs_beginnings_choose_a_store() {
    assert_none(
        "who names storage",
        &arrows::check_storage_is_named_at_the_edge(&files()),
    );
}

#[test]
fn every_module_says_what_it_is_for() {
    assert_none("module docs", &sources::check_module_docs(&files()));
}

#[test]
fn no_file_outgrows_one_purpose() {
    assert_none("file sizes", &sources::check_sizes(&files()));
}

#[test]
fn tests_wait_for_facts_and_none_is_switched_off() {
    assert_none("tests", &sources::check_tests_wait_for_facts(&files()));
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    assert_none(
        "unfinished marks",
        &sources::check_nothing_is_left_undone(&files()),
    );
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    let checkout = root().to_string_lossy().into_owned();
    assert_none(
        "machine paths",
        &sources::check_no_machine_paths(&files(), &checkout),
    );
}

#[test]
fn the_map_names_every_folder_and_module() {
    let files = files();
    assert_none(
        "the map",
        &docs::check_map(&text_of(&files, "docs/ARCHITECTURE.md"), &files),
    );
}

#[test]
fn every_decision_has_its_number_headings_and_line_in_the_index() {
    assert_none("decisions", &docs::check_decisions(&files()));
}

#[test]
fn every_command_that_is_told_exists_and_is_explained() {
    let files = files();
    assert_none(
        "commands",
        &docs::check_commands(&text_of(&files, "Makefile"), &files),
    );
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    assert_none("links", &docs::check_links(&files()));
}
