//! Whether what an agent says can be at all: numbers that every store and every client can hold, texts of ordinary
//! length. Pure. An agent of ours never says anything else; whoever does is turned away before a row is touched.

use common::attempt::{AttemptReport, Timings};
use common::log::{NUMBER_MAX, StreamEnd};
use common::protocol::HELD_ATTEMPTS_MAX;
use common::worker::{Condition, Load, WorkerDescription};

/// Longest single text of a description; host names and versions are far shorter.
const TEXT_LEN_MAX: usize = 256;

/// As many labels as a job may ask for.
const LABELS_MAX: usize = 64;

/// Reasons and notes beyond these are cut, being for people.
const REASONS_MAX: usize = 32;
const REASON_LEN_MAX: usize = 1_000;

/// Whether a report counts nothing that cannot be.
pub fn report(report: &AttemptReport) -> bool {
    let AttemptReport {
        usage,
        timings,
        logs,
        artifacts,
        ..
    } = report;
    let Timings {
        inputs_ms,
        pull_ms,
        create_ms,
        first_byte_ms,
        run_ms,
        store_ms,
    } = *timings;
    let times = [inputs_ms, pull_ms, create_ms, first_byte_ms, run_ms, store_ms];
    stream(&logs.stdout)
        && stream(&logs.stderr)
        && [usage.cpu_ms, usage.memory_peak_bytes]
            .into_iter()
            .chain(times.into_iter().flatten())
            .chain(artifacts.iter().map(|artifact| artifact.bytes))
            .all(|number| number <= NUMBER_MAX)
}

fn stream(end: &StreamEnd) -> bool {
    let dropped = end.dropped.is_none_or(|dropped| {
        dropped.from <= dropped.until && dropped.until <= end.chunks && dropped.bytes <= end.bytes
    });
    dropped && end.chunks <= NUMBER_MAX && end.bytes <= NUMBER_MAX
}

/// Whether a description is of ordinary length.
pub fn description(description: &WorkerDescription) -> bool {
    let WorkerDescription {
        version,
        hostname,
        os,
        architecture,
        labels,
        ..
    } = description;
    labels.len() <= LABELS_MAX
        && [version, hostname, os, architecture]
            .into_iter()
            .chain(labels.iter().flat_map(|(name, value)| [name, value]))
            .all(|text| text.len() <= TEXT_LEN_MAX && !text.chars().any(char::is_control))
}

/// A description with no more slots than attempts that its agent could list, and no more notes than anybody reads.
pub fn limited(mut description: WorkerDescription) -> WorkerDescription {
    let slots = u32::try_from(HELD_ATTEMPTS_MAX).unwrap_or(u32::MAX);
    description.capacity.slots = description.capacity.slots.min(slots);
    shorten(&mut description.notes);
    description
}

/// A condition with no more reasons than anybody reads.
pub fn condition(condition: Condition) -> Condition {
    match condition {
        Condition::Ready => Condition::Ready,
        Condition::Unready { mut reasons } => {
            shorten(&mut reasons);
            Condition::Unready { reasons }
        }
    }
}

pub fn load(mut load: Load) -> Load {
    load.pulling.truncate(HELD_ATTEMPTS_MAX);
    Load {
        cpu_percent: load.cpu_percent.min(100),
        ..load
    }
}

fn shorten(texts: &mut Vec<String>) {
    texts.truncate(REASONS_MAX);
    for text in texts {
        if let Some((end, _)) = text.char_indices().nth(REASON_LEN_MAX) {
            text.truncate(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::attempt::{Artifact, Outcome};
    use common::ids::FileId;
    use common::log::DroppedRange;
    use common::worker::Capacity;

    fn plain() -> AttemptReport {
        AttemptReport::bare(Outcome::Exited { code: 0 })
    }

    #[test]
    fn a_report_counts_nothing_that_cannot_be() {
        type Change = fn(&mut AttemptReport);
        let changes: [Change; 8] = [
            |report| report.logs.stdout.chunks = NUMBER_MAX + 1,
            |report| report.logs.stderr.bytes = u64::MAX,
            |report| report.usage.cpu_ms = u64::MAX,
            |report| report.usage.memory_peak_bytes = 1 << 53,
            |report| report.timings.store_ms = Some(u64::MAX),
            |report| {
                report.logs.stdout.dropped = Some(DroppedRange {
                    from: 0,
                    until: 1,
                    bytes: 0,
                });
            },
            |report| {
                report.logs.stdout.chunks = 10;
                report.logs.stdout.dropped = Some(DroppedRange {
                    from: 5,
                    until: 4,
                    bytes: 0,
                });
            },
            |report| {
                report.artifacts.push(Artifact {
                    path: "x".into(),
                    file: FileId::random(),
                    bytes: u64::MAX,
                    sha256: String::new(),
                });
            },
        ];
        assert!(report(&plain()));
        for (place, change) in changes.into_iter().enumerate() {
            let mut changed = plain();
            change(&mut changed);
            assert!(!report(&changed), "{place}");
        }
        let mut whole = plain();
        (whole.logs.stdout.chunks, whole.logs.stdout.bytes) = (NUMBER_MAX, NUMBER_MAX);
        whole.logs.stdout.dropped = Some(DroppedRange {
            from: 1,
            until: NUMBER_MAX,
            bytes: NUMBER_MAX,
        });
        assert!(report(&whole));
    }

    #[test]
    fn a_description_is_of_ordinary_length_and_offers_what_can_be_listed() {
        let plain = WorkerDescription {
            version: "1".into(),
            hostname: "h".into(),
            os: "linux".into(),
            architecture: "x86_64".into(),
            pool: Default::default(),
            labels: Default::default(),
            capacity: Capacity {
                cpu_millis: 1,
                memory_mib: 1,
                disk_mib: 1,
                slots: u32::MAX,
            },
            notes: vec!["ä".repeat(5_000); 1_000],
        };
        assert!(description(&plain));
        type Change = fn(&mut WorkerDescription);
        let changes: [Change; 4] = [
            |changed| changed.hostname = "h".repeat(TEXT_LEN_MAX + 1),
            |changed| changed.version = "1\u{1b}[2J".into(),
            |changed| changed.labels = (0..=LABELS_MAX).map(|n| (n.to_string(), String::new())).collect(),
            |changed| {
                changed.labels.insert("x".repeat(TEXT_LEN_MAX + 1), String::new());
            },
        ];
        for (place, change) in changes.into_iter().enumerate() {
            let mut changed = plain.clone();
            change(&mut changed);
            assert!(!description(&changed), "{place}");
        }
        let limited = limited(plain);
        assert_eq!(limited.capacity.slots as usize, HELD_ATTEMPTS_MAX);
        assert_eq!(limited.notes.len(), REASONS_MAX);
        assert_eq!(limited.notes[0].chars().count(), REASON_LEN_MAX);
    }
}
