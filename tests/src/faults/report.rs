//! Writes how the rows went into `docs/reliability.md`, between its marks; everything else there is written by hand.
//! A row that was not played stays as it is.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::play::Played;
use super::rows::ROWS;
use crate::scripts::run;
use crate::tidy::root;

const DOCUMENT: &str = "docs/reliability.md";
const BEGIN: &str = "<!-- begin faults -->\n";
const END: &str = "<!-- end faults -->";
const HEAD: &str = "| row | fault | injections | jobs (in containers) | succeeded | attempts lost | late results or writes refused | terms given up | longest answer | slowest canary | most memory | result | took | seed | of |\n\
    | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | --- | --- |\n";
const MIX: (&str, &str) = ("mix", "faults drawn by lot, one of which stays on to the end");

/// Whether a run is written at all: as `asked` (`WRITE` of the environment), or when it was `whole`, as large as the row
/// or the mix is by itself.
pub fn is_kept(asked: Option<&str>, whole: bool) -> bool {
    match asked {
        Some(asked) => asked != "0",
        None => whole,
    }
}

/// Puts the line of this row in place of the one that stands there.
///
/// # Errors
/// The document cannot be read or written, or has lost its marks.
pub fn write(id: &str, played: &Played) -> Result<()> {
    let path = root().join(DOCUMENT);
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    // several rows may be played at a time
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let text = replaced(&text, id, &line(id, played))?;
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

fn line(id: &str, played: &Played) -> String {
    let counts = &played.counts;
    let result = match &played.result {
        Ok(()) => match (&played.shown, &played.stayed) {
            (Some(laws), _) => format!("broke its laws, as it has to: {}", cut(laws)),
            (None, Some(stayed)) => format!("held; from its first quarter on {}", cut(stayed)),
            (None, None) => "held".to_owned(),
        },
        Err(error) => format!("**broken**: {}", first_line(error)),
    };
    format!(
        "| {id} | {} | {} | {} ({}) | {} | {} | {} | {} | {:.1} s | {:.1} s | {} MiB | {result} | {:.0} s | {} | {} |\n",
        what(id),
        counts.injections,
        counts.jobs,
        counts.containers,
        counts.succeeded,
        counts.lost,
        counts.refused + counts.stale_writes,
        counts.resigned,
        counts.longest_answer.as_secs_f64(),
        counts.slowest_canary.as_secs_f64(),
        counts.memory_kib / 1024,
        played.took.as_secs_f64(),
        played.seed,
        commit(),
    )
}

/// Short enough for a table, and none of its bars.
fn first_line(error: &anyhow::Error) -> String {
    cut(&format!("{error:#}"))
}

fn cut(text: &str) -> String {
    const SHOWN: usize = 300;
    text.replace(['|', '\n'], " ").chars().take(SHOWN).collect()
}

fn what(id: &str) -> &'static str {
    let known = ROWS.iter().find(|row| row.id == id);
    known.map_or(MIX.1, |row| row.what)
}

fn commit() -> String {
    let hash = run(Command::new("git")
        .args(["rev-parse", "--short=10", "HEAD"])
        .current_dir(root()));
    let profile = if cfg!(debug_assertions) {
        "development"
    } else {
        "release"
    };
    format!("{} ({profile})", hash.unwrap_or_default().trim())
}

/// The text with all rows in their order: this one new, others as they stand there, and what never ran by its reason.
fn replaced(text: &str, id: &str, line: &str) -> Result<String> {
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        bail!("{DOCUMENT} has lost the marks around its table: {BEGIN}{END}");
    };
    let from = begin + BEGIN.len();
    let old: Vec<&str> = text
        .get(from..end)
        .context("the marks stand in their order")?
        .lines()
        .collect();
    let mut table = HEAD.to_owned();
    let rows = ROWS.iter().map(|row| (row.id, row.what));
    for (of, what) in rows.chain([MIX]) {
        let known = old.iter().find(|old| old.starts_with(&format!("| {of} |")));
        let ran = known.filter(|known| !known.contains("| not run"));
        match (of == id, ran) {
            (true, _) => table.push_str(line),
            (false, Some(ran)) => table.push_str(&format!("{ran}\n")),
            (false, None) => table.push_str(&empty(of, what, "not run yet")),
        }
    }
    Ok(format!("{}{table}{}", &text[..from], &text[end..]))
}

fn empty(id: &str, what: &str, result: &str) -> String {
    format!("| {id} | {what} | | | | | | | | | | {result} | | | |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_smaller_than_the_row_is_written_only_where_somebody_asks_for_it() {
        assert!(is_kept(None, true) && !is_kept(None, false));
        assert!(is_kept(Some("1"), false) && !is_kept(Some("0"), true));
    }

    #[test]
    fn a_row_is_replaced_and_the_others_stay() {
        let text = format!("# R\n\nprose\n\n{BEGIN}{END}\n\nmore\n");
        let once = replaced(&text, "F2", "| F2 | new |\n").unwrap();
        assert!(once.starts_with("# R\n\nprose\n") && once.ends_with("\n\nmore\n"));
        assert!(once.contains("| F2 | new |\n"));
        assert!(once.contains("| F1 | the leader is killed | |"));
        let twice = replaced(&once, "F1", "| F1 | too |\n").unwrap();
        assert!(twice.contains("| F1 | too |\n| F2 | new |\n"));
        assert_eq!(twice.lines().count(), once.lines().count());
        assert!(replaced("no marks", "F1", "").is_err());
    }
}
