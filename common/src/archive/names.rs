//! Names inside an archive: what is let through is a clean relative path that names one thing, on any file system.

use std::collections::HashMap;

use super::{ArchiveLimits, Rule};

/// Longest path, in bytes: what the kernel takes.
const PATH_BYTES_MAX: usize = 4_095;
const PRINTED_CHARS_MAX: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
}

/// Every name seen, folders that are only implied included, by its case-folded form.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<String, (String, Kind)>);

impl Names {
    /// The clean path; empty for the archive's own root.
    pub(super) fn admit(&mut self, raw: &[u8], kind: Kind, limits: &ArchiveLimits) -> Result<String, Rule> {
        let parts = clean(raw, limits)?;
        let Some((_, parents)) = parts.split_last() else {
            return if kind == Kind::Folder {
                Ok(String::new())
            } else {
                Err(Rule::BadName)
            };
        };
        let mut path = String::new();
        for part in parents {
            join(&mut path, part);
            self.enter(&path, Kind::Folder, true)?;
        }
        join(&mut path, parts[parts.len() - 1]);
        // a folder that was implied, or comes again, is the same folder
        self.enter(&path, kind, kind == Kind::Folder)?;
        Ok(path)
    }

    fn enter(&mut self, path: &str, kind: Kind, again: bool) -> Result<(), Rule> {
        match self.0.get(&path.to_lowercase()) {
            None => {
                self.0.insert(path.to_lowercase(), (path.to_owned(), kind));
                Ok(())
            }
            Some((known, _)) if known != path => Err(Rule::CaseClash),
            Some((_, Kind::Folder)) if again => Ok(()),
            Some(_) => Err(Rule::Duplicate),
        }
    }
}

fn join(path: &mut String, part: &str) {
    if !path.is_empty() {
        path.push('/');
    }
    path.push_str(part);
}

fn clean<'a>(raw: &'a [u8], limits: &ArchiveLimits) -> Result<Vec<&'a str>, Rule> {
    if raw.len() > PATH_BYTES_MAX {
        return Err(Rule::NameTooLong);
    }
    let text = std::str::from_utf8(raw).map_err(|_| Rule::BadName)?;
    if text.starts_with('/') {
        return Err(Rule::Absolute);
    }
    if text.is_empty() || text.chars().any(|c| c.is_control() || c == '\\') {
        return Err(Rule::BadName);
    }
    let parts: Vec<&str> = text
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        return Err(Rule::Parent);
    }
    if parts.iter().any(|part| part.len() > limits.name_bytes_max) {
        return Err(Rule::NameTooLong);
    }
    if parts.len() > limits.depth_max {
        return Err(Rule::TooDeep);
    }
    Ok(parts)
}

/// For messages: one short line without control characters.
pub(super) fn printable(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw)
        .chars()
        .take(PRINTED_CHARS_MAX)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
