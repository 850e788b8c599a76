//! The work of the main job: a text, a script that counts its words, and the same count made here.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use anyhow::Result;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Says something at once, takes its time, counts, and leaves `out/counts.txt`: `word count`, by word.
pub const COUNT_SCRIPT: &str = "\
set -eu
export LC_ALL=C
mkdir -p out
echo \"counting $(wc -c <text.txt) bytes\"
sleep 4
tr -cs 'a-z' '\\n' <text.txt | grep . | sort | uniq -c | awk '{ print $2, $1 }' >out/counts.txt
echo \"$(wc -l <out/counts.txt) words\" >&2
";

/// More than 30 KB of words, of which no two stand equally often.
pub fn words() -> String {
    let mut text = String::new();
    for (nth, word) in [
        "job", "attempt", "lease", "epoch", "worker", "account", "hint", "queue",
    ]
    .iter()
    .cycle()
    .take(6_000)
    .enumerate()
    {
        text.push_str(word);
        text.push(if nth % 11 == 0 { '\n' } else { ' ' });
        if nth % 7 == 0 {
            text.push_str("seven, ");
        }
        if nth % 13 == 0 {
            text.push_str("thirteen. ");
        }
    }
    text
}

/// What [`COUNT_SCRIPT`] has to leave.
pub fn counted(text: &str) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for word in text
        .split(|c: char| !c.is_ascii_lowercase())
        .filter(|word| !word.is_empty())
    {
        *counts.entry(word).or_default() += 1;
    }
    counts
        .iter()
        .map(|(word, count)| format!("{word} {count}\n"))
        .collect()
}

/// A zip of these files.
///
/// # Errors
/// When it cannot be written.
pub fn zip(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, SimpleFileOptions::default())?;
        zip.write_all(content)?;
    }
    Ok(zip.finish()?.into_inner())
}

pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}
