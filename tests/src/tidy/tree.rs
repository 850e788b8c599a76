//! The repository's own text files, read once. Whatever is generated or fetched is left out by its folder's name.

use std::fs;
use std::io;
use std::path::Path;

/// What holds nothing written by hand. In a second worktree `.git` is a file that names the first.
const SKIPPED: &[&str] = &[
    "target",
    ".git",
    "node_modules",
    ".state",
    "dist",
    ".terraform",
    "snapshots",
    "__pycache__",
];

/// Larger files are data, not text to judge.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Relative to the root, with `/`.
    pub path: String,
    pub text: String,
}

impl TextFile {
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is there for tests.
    pub fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || ["tests.rs", "testing.rs", "test_util.rs"].contains(&name)
    }

    /// The lines before the file's test module, which by custom stands last.
    pub fn product_lines(&self) -> Vec<&str> {
        let is_test_mark = |line: &&str| line.trim_start().starts_with("#[cfg(test)]");
        let lines: Vec<&str> = self.text.lines().collect();
        // `#[cfg(test)] mod tests;` with a file of its own may stand anywhere: only a module with a body ends the code.
        let end = lines.iter().enumerate().position(|(at, line)| {
            is_test_mark(line)
                && lines[at..]
                    .iter()
                    .take(4)
                    .any(|next| next.contains("mod ") && next.trim_end().ends_with('{'))
        });
        lines[..end.unwrap_or(lines.len())].to_vec()
    }

    /// The file's lines that belong to tests, with their numbers (from 1).
    pub fn test_lines(&self) -> Vec<(usize, &str)> {
        let skip = if self.is_test() {
            0
        } else {
            self.product_lines().len()
        };
        self.text
            .lines()
            .enumerate()
            .skip(skip)
            .map(|(at, line)| (at + 1, line))
            .collect()
    }
}

/// Every text file below `root`, in a settled order.
pub fn read(root: &Path) -> io::Result<Vec<TextFile>> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<TextFile>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        if SKIPPED.iter().any(|skipped| name == *skipped) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &entry.path(), files)?;
        } else if kind.is_file() && entry.metadata()?.len() <= FILE_BYTES_MAX {
            // A file that is not UTF-8 is not a text: nothing here judges it.
            let Ok(text) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let path = entry.path();
            let relative = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .replace('\\', "/");
            files.push(TextFile { path: relative, text });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_with_a_body_ends_the_product_code() {
        let file = TextFile::new(
            "a/src/x.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n",
        );
        assert_eq!(file.product_lines(), ["fn a() {}"]);
        assert_eq!(file.test_lines()[0], (2, "#[cfg(test)]"));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_does_not() {
        let file = TextFile::new("a/src/x.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n");
        assert_eq!(file.product_lines().len(), 3);
        assert!(file.test_lines().is_empty());
    }
}
