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

/// Every name seen, folders that are only implied included: within its folder, by its case-folded form.
///
/// As a tree, and counted, since ten thousand long paths of thirty folders each are a gigabyte of prefixes.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<(usize, String), Known>);

#[derive(Debug)]
struct Known {
    id: usize,
    name: String,
    kind: Kind,
}

/// The folder that everything is in.
const ROOT: usize = 0;

impl Names {
    /// The clean path; empty for the archive's own root.
    pub(super) fn admit(&mut self, raw: &[u8], kind: Kind, limits: &ArchiveLimits) -> Result<String, Rule> {
        let parts = clean(raw, limits)?;
        let Some((last, parents)) = parts.split_last() else {
            return if kind == Kind::Folder {
                Ok(String::new())
            } else {
                Err(Rule::BadName)
            };
        };
        let mut folder = ROOT;
        for part in parents {
            folder = self.enter(folder, part, Kind::Folder, true, limits)?;
        }
        // a folder that was implied, or comes again, is the same folder
        self.enter(folder, last, kind, kind == Kind::Folder, limits)?;
        Ok(parts.join("/"))
    }

    fn enter(
        &mut self,
        folder: usize,
        name: &str,
        kind: Kind,
        again: bool,
        limits: &ArchiveLimits,
    ) -> Result<usize, Rule> {
        let key = (folder, name.to_lowercase());
        match self.0.get(&key) {
            None => {
                // as many folders may be implied as there may be entries
                if self.0.len() >= limits.entries_max.saturating_mul(2) {
                    return Err(Rule::TooManyEntries);
                }
                let id = self.0.len() + 1;
                let name = name.to_owned();
                self.0.insert(key, Known { id, name, kind });
                Ok(id)
            }
            Some(known) if known.name != name => Err(Rule::CaseClash),
            Some(Known {
                id,
                kind: Kind::Folder,
                ..
            }) if again => Ok(*id),
            Some(_) => Err(Rule::Duplicate),
        }
    }
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
