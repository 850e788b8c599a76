//! An error as a person needs it: what was wrong, what was expected, what to do next; and the status to end with.

use std::fmt;

use crate::exit::Exit;

/// Ends a verb. Shown once, by `main`, on stderr.
#[derive(Debug, thiserror::Error)]
pub struct Failure {
    what: String,
    expected: Option<String>,
    next: Option<String>,
    details: Vec<String>,
    exit: Exit,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            expected: None,
            next: None,
            details: Vec::new(),
            exit: Exit::FAILURE,
            source: None,
        }
    }

    /// Ends the program without a word.
    pub fn silent(exit: Exit) -> Self {
        Self::new("").exit(exit)
    }

    pub const fn is_silent(&self) -> bool {
        self.what.is_empty()
    }

    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// What to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A further line, such as one broken rule.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }

    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub const fn exit_status(&self) -> Exit {
        self.exit
    }

    /// The innermost cause, in words.
    fn root(&self) -> Option<String> {
        let mut cause: &dyn std::error::Error = self.source.as_deref()?;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Some(cause.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(root) = self.root() {
            write!(f, " ({root})")?;
        }
        for detail in &self.details {
            write!(f, "\n  {detail}")?;
        }
        if let Some(expected) = &self.expected {
            write!(f, "\n  expected: {expected}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  do next:  {next}")?;
        }
        Ok(())
    }
}

/// Something went wrong with a file or a folder of this machine.
pub fn io(doing: impl fmt::Display, error: std::io::Error) -> Failure {
    let next = match error.kind() {
        std::io::ErrorKind::NotFound => Some("check the spelling, and the folder that you are in"),
        std::io::ErrorKind::PermissionDenied => {
            Some("check the owner and the mode of the file and its folders")
        }
        std::io::ErrorKind::StorageFull => Some("free some space on that disk, then try again"),
        _ => None,
    };
    let failure = Failure::new(format!("could not {doing}")).source(error);
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_wrong_what_was_expected_and_what_to_do() {
        let failure = Failure::new("the job was refused")
            .detail("image: must not be empty")
            .expected("a job within the rules")
            .next("change it and submit again");
        assert_eq!(
            failure.to_string(),
            "the job was refused\n  image: must not be empty\n  expected: a job within the rules\n  do next:  change it and submit again"
        );
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let error = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let text = io("write `x`", error).to_string();
        assert!(
            text.starts_with("could not write `x` (permission denied)"),
            "{text}"
        );
        assert!(text.contains("do next:"), "{text}");
    }
}
