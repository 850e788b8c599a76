//! The README is the command line's, verb by verb and flag by flag; and the command line is sound.

use clap::CommandFactory;
use jobworker::args::Cli;

const README: &str = include_str!("../README.md");

/// The README's part about a verb: from the heading that names it to the next one.
fn section(verb: &str) -> &'static str {
    let named = format!("`{verb}`");
    let mut parts = README.split("\n### ");
    parts
        .find(|part| {
            part.lines()
                .next()
                .is_some_and(|heading| heading.contains(&named))
        })
        .expect("cli/README.md has a heading for each verb")
}

#[test]
fn the_command_line_contradicts_itself_nowhere() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_and_flag_is_in_the_readme() {
    let command = Cli::command();
    for verb in command.get_subcommands() {
        let mut text = section(verb.get_name()).to_owned();
        if verb.get_name() == "submit" {
            text.push_str(section("run"));
        }
        let nested = verb.get_subcommands().flat_map(|verb| verb.get_arguments());
        for argument in verb.get_arguments().chain(nested).filter(|a| !a.is_hide_set()) {
            if let Some(long) = argument.get_long() {
                assert!(
                    text.contains(&format!("--{long}")),
                    "`{} --{long}` is not in cli/README.md",
                    verb.get_name()
                );
            }
        }
        for nested in verb.get_subcommands() {
            assert!(
                text.contains(&format!("`{}", nested.get_name())),
                "`{}`",
                nested.get_name()
            );
        }
    }
    for argument in command.get_arguments() {
        if let Some(long) = argument.get_long() {
            assert!(README.contains(&format!("`--{long}")), "--{long}");
        }
    }
}

#[test]
fn every_flag_explains_itself() {
    fn check(command: &clap::Command) {
        assert!(
            command.get_about().is_some(),
            "`{}` says nothing of itself",
            command.get_name()
        );
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(
                argument.get_help().is_some(),
                "{}: {}",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}
