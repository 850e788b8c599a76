//! What a measurement found, for people and for programs.

use std::fmt;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::args::Measure;
use crate::machine::{Machine, commit};

/// One number (or one wish that it was measured against).
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: String,
    /// Empty where nothing was asked for: a number that explains the others.
    pub wanted: String,
    pub got: String,
    pub met: Option<bool>,
}

impl Row {
    pub fn told(what: impl Into<String>, got: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            wanted: String::new(),
            got: got.into(),
            met: None,
        }
    }

    /// A value that should be at most this.
    pub fn at_most(what: impl Into<String>, wanted: f64, got: f64, unit: &str) -> Self {
        Self::judged(what, format!("at most {wanted}{unit}"), got, unit, got <= wanted)
    }

    pub fn at_least(what: impl Into<String>, wanted: f64, got: f64, unit: &str) -> Self {
        Self::judged(what, format!("at least {wanted}{unit}"), got, unit, got >= wanted)
    }

    fn judged(what: impl Into<String>, wanted: String, got: f64, unit: &str, met: bool) -> Self {
        Self {
            what: what.into(),
            wanted,
            got: format!("{}{unit}", number(got)),
            met: Some(met),
        }
    }
}

/// With as many digits as it deserves.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// What a measurement hands over.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub title: &'static str,
    /// How much of what was done, by whom.
    pub counts: String,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub name: &'static str,
    pub title: &'static str,
    pub rows: Vec<Row>,
    pub counts: String,
    pub notes: Vec<String>,
    pub command: String,
    pub profile: &'static str,
    pub machine: Machine,
    pub commit: String,
    pub beside: String,
}

impl Report {
    pub fn new(measure: &Measure, findings: Findings, beside: String) -> Self {
        let given = std::env::args()
            .skip(1)
            .filter(|word| word != "all" && word != "--write");
        let mut words: Vec<String> = given.collect();
        if !words.iter().any(|word| word == measure.name()) {
            words.insert(0, measure.name().to_owned());
        }
        let profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        };
        Self {
            name: measure.name(),
            title: findings.title,
            rows: findings.rows,
            counts: findings.counts,
            notes: findings.notes,
            command: format!("scripts/bench {}", words.join(" ")),
            profile,
            machine: Machine::look(),
            commit: commit(),
            beside,
        }
    }
}

/// The words for whether a wish was met.
pub const fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["what", "wanted", "got", "met"]);
        for row in &self.rows {
            table.add_row([&*row.what, &*row.wanted, &*row.got, verdict(row.met)]);
        }
        writeln!(f, "\n{}: {}\n{table}", self.name, self.title)?;
        writeln!(f, "  counts:  {}", self.counts)?;
        for note in &self.notes {
            writeln!(f, "  note:    {note}")?;
        }
        writeln!(f, "  command: {}", self.command)?;
        writeln!(f, "  machine: {}", self.machine)?;
        writeln!(f, "  commit:  {} ({})", self.commit, self.profile)?;
        writeln!(f, "  beside:  {}", self.beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_judged_at_its_edge() {
        assert_eq!(Row::at_most("x", 2.0, 2.0, " ms").met, Some(true));
        assert_eq!(Row::at_most("x", 2.0, 2.01, " ms").met, Some(false));
        assert_eq!(Row::at_least("x", 6_000.0, 5_999.0, "/s").met, Some(false));
        assert_eq!(Row::at_most("x", 2.0, f64::NAN, " ms").met, Some(false));
    }

    #[test]
    fn numbers_keep_three_digits_or_so() {
        assert_eq!(
            [number(0.987), number(12.345), number(6_123.4)],
            ["0.99", "12.3", "6123"]
        );
    }
}
