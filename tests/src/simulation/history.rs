//! Everything that happened, in order, and what of it must not have.

use std::fmt::{Display, Write};
use std::sync::Mutex;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::machine;
use super::store::held;

#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<String>,
    violations: Vec<String>,
    counts: std::collections::BTreeMap<&'static str, u64>,
}

impl History {
    pub fn note(&self, what: impl Display) {
        let mut line = format!("{:>7} ", machine::elapsed().as_millis());
        // Writing into a text does not fail.
        let _ = write!(line, "{what}");
        held(&self.inner).lines.push(line);
    }

    pub fn violated(&self, what: impl Display) {
        let text = what.to_string();
        self.note(format_args!("VIOLATION {text}"));
        held(&self.inner).violations.push(text);
    }

    pub fn count(&self, what: &'static str) {
        *held(&self.inner).counts.entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> std::collections::BTreeMap<&'static str, u64> {
        held(&self.inner).counts.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        held(&self.inner).violations.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        held(&self.inner).lines.clone()
    }

    /// Of all lines: equal for equal histories.
    pub fn hash(&self) -> String {
        let mut sum = Sha256::new();
        for line in &held(&self.inner).lines {
            sum.update(line.as_bytes());
            sum.update(b"\n");
        }
        HEXLOWER.encode(&sum.finalize())
    }
}
