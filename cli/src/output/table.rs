//! Tables for people, and times as they read them. Text from outside is made one harmless line first.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use common::time::Timestamp;

use super::sanitise::line;
use crate::quantity::show_duration;

/// Longest text in a cell; the whole is on the job's own page.
const CELL_CHARS_MAX: usize = 48;

/// A table without lines, as other tools of the shell print them.
pub fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(heads.map(str::to_uppercase));
    for row in rows {
        table.add_row(row.map(|cell| cell_text(&cell)));
    }
    let lines: Vec<String> = table
        .to_string()
        .lines()
        .map(|line| {
            line.trim_end()
                .strip_prefix(' ')
                .unwrap_or(line)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n")
}

/// One harmless line of bounded length.
pub fn cell_text(text: &str) -> String {
    let text = line(text);
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    let mut cut: String = text.chars().take(CELL_CHARS_MAX - 1).collect();
    cut.push('…');
    cut
}

/// `2026-03-01 14:05:09` in this machine's time zone.
pub fn show_time(at: Timestamp) -> String {
    match jiff::Timestamp::from_millisecond(at.as_millis()) {
        Ok(time) => time
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// `12.0 s ago`.
pub fn show_age(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", show_duration(now.since(at)))
}

/// The time between two moments, where both are known.
pub fn show_between(from: Option<Timestamp>, until: Option<Timestamp>) -> Option<String> {
    Some(show_duration(until?.since(from?)))
}

pub fn show_millis(millis: u64) -> String {
    show_duration(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_aligned_text() {
        let text = table(
            ["id", "state"],
            [
                ["job_1".to_owned(), "run\u{1b}[2Jning".to_owned()],
                ["job_22".to_owned(), "ok\nno".to_owned()],
            ],
        );
        assert_eq!(text, "ID      STATE\njob_1   running\njob_22  ok no");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let cell = cell_text(&"ä".repeat(200));
        assert!(cell.ends_with('…') && cell.chars().count() == CELL_CHARS_MAX);
    }
}
