//! The journal, killed at any byte.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, SessionId};
use common::protocol::Assignment;
use common::time::{Mono, Timestamp};
use worker_agent::executor::ContainerRef;
use worker_agent::journal::{Durability, Entry, Facts, Journal, State, replay};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const KEPT: Duration = Duration::from_secs(600);

fn assignment(number: u128) -> Arc<Assignment> {
    let text = format!(
        r#"{{"job":"{}","attempt":"{}","number":1,"account":"acme","inputs":[],"spec":{}}}"#,
        common::ids::JobId::from_u128(number),
        AttemptId::from_u128(number),
        serde_json::json!({
            "name": null,
            "command": "true",
            "image": "alpine",
            "resources": { "cpu_millis": 1, "memory_mib": 1, "disk_mib": 1 },
            "limits": { "run_ms": 1, "grace_ms": 1 },
            "retry": serde_json::to_value(common::retry::RetryPolicy::default()).unwrap(),
        })
    );
    Arc::new(serde_json::from_str(&text).unwrap())
}

fn entries() -> Vec<Entry> {
    let attempt = AttemptId::from_u128(1);
    vec![
        Entry::Session {
            session: SessionId::from_u128(9),
        },
        Entry::Assigned {
            assignment: assignment(1),
        },
        Entry::Assigned {
            assignment: assignment(2),
        },
        Entry::Container {
            attempt,
            container: ContainerRef("c1".into()),
            facts: Facts::default(),
        },
        Entry::Started {
            attempt,
            at: Mono::from_millis(5),
        },
        Entry::Cancelled {
            attempt,
            why: Some("why".into()),
        },
        Entry::Report {
            attempt,
            report: Box::new(AttemptReport::bare(Outcome::OomKilled)),
        },
        Entry::Closed {
            attempt: AttemptId::from_u128(2),
            at: NOW,
        },
    ]
}

fn open(folder: &Path) -> Journal {
    Journal::open(folder, KEPT, NOW).unwrap()
}

/// The states after each of the entries, the empty one first.
fn states(folder: &Path) -> Vec<State> {
    let journal = open(folder);
    let mut states = vec![journal.state()];
    for entry in entries() {
        journal.record_now(entry, Durability::Written, NOW).unwrap();
        states.push(journal.state());
    }
    states
}

#[test]
fn a_journal_that_was_cut_anywhere_reads_as_of_its_last_whole_line() {
    let first = tempfile::tempdir().unwrap();
    let states = states(first.path());
    let whole = std::fs::read(first.path().join("journal.jsonl")).unwrap();
    let mut last = 0;
    for cut in 0..=whole.len() {
        let found = replay(&whole[..cut]);
        let place = states.iter().position(|state| *state == found);
        let place = place.unwrap_or_else(|| panic!("cut at {cut}: {found:?}"));
        assert!(place >= last, "cut at {cut} reads less than a shorter one");
        last = place;
    }
    assert_eq!(last, states.len() - 1);
}

#[test]
fn entries_after_a_half_written_line_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let states = states(folder.path());
    let file = folder.path().join("journal.jsonl");
    let mut text = std::fs::read(&file).unwrap();
    text.extend(b"\n00000000 {\"entry\":\"ses");
    std::fs::write(&file, text).unwrap();
    let journal = open(folder.path());
    assert_eq!(Some(&journal.state()), states.last());
    let session = SessionId::from_u128(10);
    journal
        .record_now(Entry::Session { session }, Durability::Synced, NOW)
        .unwrap();
    drop(journal);
    assert_eq!(open(folder.path()).session(), Some(session));
}

#[test]
fn a_closed_attempt_is_remembered_and_at_last_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let attempt = AttemptId::from_u128(1);
    journal
        .record_now(Entry::Closed { attempt, at: NOW }, Durability::Written, NOW)
        .unwrap();
    // An assignment that arrives after the end does not bring it back.
    journal
        .record_now(
            Entry::Assigned {
                assignment: assignment(1),
            },
            Durability::Written,
            NOW,
        )
        .unwrap();
    assert!(journal.is_closed(attempt) && journal.state().held.is_empty());
    drop(journal);
    assert!(open(folder.path()).is_closed(attempt));
    let later = NOW.after(KEPT + Duration::from_secs(1));
    let journal = Journal::open(folder.path(), KEPT, later).unwrap();
    assert!(!journal.is_closed(attempt));
}

#[test]
fn growth_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let message = "x".repeat(100_000);
    for number in 0..100 {
        let attempt = AttemptId::from_u128(number);
        let report = AttemptReport::bare(Outcome::InfraError {
            message: message.clone(),
        });
        let assigned = Entry::Assigned {
            assignment: assignment(number),
        };
        let report = Entry::Report {
            attempt,
            report: Box::new(report),
        };
        for entry in [assigned, report, Entry::Closed { attempt, at: NOW }] {
            journal.record_now(entry, Durability::Written, NOW).unwrap();
        }
    }
    let size = std::fs::metadata(folder.path().join("journal.jsonl"))
        .unwrap()
        .len();
    assert!(size < 6 * 1024 * 1024, "{size} bytes for attempts that are over");
    drop(journal);
    assert_eq!(open(folder.path()).state().closed.len(), 100);
}
