//! Writes a report into `docs/benchmarks.md`, between the marks of its measurement. Everything outside them is left as
//! it is; marks that are missing are added at the end.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::report::{Report, verdict};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks.md");

/// # Errors
/// The document cannot be read or written.
pub fn write(report: &Report) -> anyhow::Result<()> {
    let path = Path::new(DOCUMENT);
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    std::fs::write(path, replaced(&text, report.name, &section(report)))
        .with_context(|| format!("writing {}", path.display()))
}

fn replaced(text: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let marked = format!("{begin}\n{section}{end}");
    match (text.find(&begin), text.find(&end)) {
        (Some(from), Some(until)) if from < until => {
            format!("{}{marked}{}", &text[..from], &text[until + end.len()..])
        }
        _ => format!("{}\n\n{marked}\n", text.trim_end()),
    }
}

fn section(report: &Report) -> String {
    let mut text = format!("### {}: {}\n\n", report.name, report.title);
    text.push_str("| what | wanted | got | met |\n| --- | --- | --- | --- |\n");
    for row in &report.rows {
        let verdict = verdict(row.met);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {verdict} |",
            row.what, row.wanted, row.got
        );
    }
    let _ = writeln!(text, "\n- Counts: {}", report.counts);
    for note in &report.notes {
        let _ = writeln!(text, "- {note}");
    }
    let _ = writeln!(text, "- Again: `{}`", report.command);
    let _ = writeln!(text, "- Machine: {}", report.machine);
    let _ = writeln!(text, "- Commit: {} ({})", report.commit, report.profile);
    let _ = writeln!(text, "- Beside it: {}", report.beside);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_changes() {
        let text = "# B\n\n<!-- begin idle -->\nold\n<!-- end idle -->\n\nrest\n";
        let once = replaced(text, "idle", "new\n");
        assert_eq!(
            once,
            "# B\n\n<!-- begin idle -->\nnew\n<!-- end idle -->\n\nrest\n"
        );
        assert_eq!(replaced(&once, "idle", "new\n"), once);
    }

    #[test]
    fn missing_marks_are_added_at_the_end() {
        assert_eq!(
            replaced("# B\n", "idle", "x\n"),
            "# B\n\n<!-- begin idle -->\nx\n<!-- end idle -->\n"
        );
    }
}
