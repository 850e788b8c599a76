//! What the agent must remember across its own death: its session, which container runs which attempt, results that
//! are not acknowledged, and the attempts that it must never start again.
//!
//! A file of lines, each a checksum and one JSON entry, appended; the state is the fold of its entries. Opening
//! skips lines that do not read back (the half-written last one of a killed agent) and writes the file anew, as does
//! growth past [`COMPACT_BYTES`]: beside it, synced, renamed. The folder is locked, so one agent alone keeps it.
//!
//! [`Durability::Synced`] entries are on the disk when `record` answers: the container before `run` is sent, the
//! report before the container may go. The others survive the agent's death but not the host's.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::attempt::AttemptReport;
use common::ids::{AttemptId, SessionId};
use common::protocol::Assignment;
use common::time::{Mono, Timestamp};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::executor::{ContainerRef, Ended};

/// The file is written anew when it has grown by this much: some thousand jobs.
const COMPACT_BYTES: u64 = 4 * 1024 * 1024;

const FILE: &str = "journal.jsonl";
const FILE_NEW: &str = "journal.new";
const LOCK: &str = "agent.lock";

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("another agent uses the folder {0}")]
    Locked(PathBuf),
    #[error("the journal cannot be kept in {folder}")]
    Io {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    Session {
        session: SessionId,
    },
    Assigned {
        assignment: Arc<Assignment>,
    },
    /// Synced before `run` is sent.
    Container {
        attempt: AttemptId,
        container: ContainerRef,
        facts: Facts,
    },
    Started {
        attempt: AttemptId,
        at: Mono,
    },
    Cancelled {
        attempt: AttemptId,
        why: Option<String>,
    },
    /// The control plane said `stop`.
    Stopped {
        attempt: AttemptId,
    },
    Ended {
        attempt: AttemptId,
        ended: Ended,
    },
    /// Synced before the container may go.
    Report {
        attempt: AttemptId,
        report: Box<AttemptReport>,
    },
    /// Its result was acknowledged, or is not wanted; never to be started again.
    Closed {
        attempt: AttemptId,
        at: Timestamp,
    },
}

/// What is known of a prepared run and goes into its report.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    pub image_digest: Option<String>,
    pub inputs_ms: Option<u64>,
    pub pull_ms: Option<u64>,
    pub create_ms: Option<u64>,
}

/// An attempt that is held.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub assignment: Arc<Assignment>,
    pub container: Option<ContainerRef>,
    pub facts: Facts,
    pub started_at: Option<Mono>,
    pub cancelled: Option<Option<String>>,
    pub stopped: bool,
    pub ended: Option<Ended>,
    pub report: Option<Box<AttemptReport>>,
}

impl Held {
    pub fn new(assignment: Arc<Assignment>) -> Self {
        Self {
            assignment,
            container: None,
            facts: Facts::default(),
            started_at: None,
            cancelled: None,
            stopped: false,
            ended: None,
            report: None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub session: Option<SessionId>,
    pub held: BTreeMap<AttemptId, Held>,
    pub closed: HashMap<AttemptId, Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Written,
    Synced,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// How long closed attempts are remembered.
    closed_kept: Duration,
    inner: Mutex<Inner>,
    /// Held while syncing; what it counts is written and synced.
    synced: Mutex<u64>,
    _lock: File,
}

#[derive(Debug)]
struct Inner {
    state: State,
    file: Arc<File>,
    /// Counts records, for group commit.
    written: u64,
    bytes: u64,
    compact_at: u64,
}

impl Journal {
    /// # Errors
    /// [`JournalError`]; a half-written line is none.
    pub fn open(folder: &Path, closed_kept: Duration, now: Timestamp) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            folder: folder.to_owned(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(io)?;
        let lock = lock(folder)?;
        let mut state = match std::fs::read(folder.join(FILE)) {
            Ok(text) => replay(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(io(error)),
        };
        state.forget(now, closed_kept);
        let (file, bytes) = rewrite(folder, &state).map_err(io)?;
        Ok(Self {
            shared: Arc::new(Shared {
                folder: folder.to_owned(),
                closed_kept,
                inner: Mutex::new(Inner {
                    state,
                    file: Arc::new(file),
                    written: 0,
                    bytes,
                    compact_at: bytes + COMPACT_BYTES,
                }),
                synced: Mutex::new(0),
                _lock: lock,
            }),
        })
    }

    /// The state as of now.
    pub fn state(&self) -> State {
        self.inner().state.clone()
    }

    pub fn session(&self) -> Option<SessionId> {
        self.inner().state.session
    }

    /// Whether it ended here before; it is never started again.
    pub fn is_closed(&self, attempt: AttemptId) -> bool {
        self.inner().state.closed.contains_key(&attempt)
    }

    /// Writes one entry. Several callers that ask for it at the same time share one sync.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn record(
        &self,
        disk: Disk,
        entry: Entry,
        durability: Durability,
        now: Timestamp,
    ) -> Result<(), JournalError> {
        let journal = self.clone();
        disk.run(move || journal.record_now(entry, durability, now))
            .await
            .map_err(|source| JournalError::Io {
                folder: self.shared.folder.clone(),
                source,
            })
    }

    /// [`Journal::record`] without leaving the thread: for entries that need no sync.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record_now(&self, entry: Entry, durability: Durability, now: Timestamp) -> io::Result<()> {
        let (number, file) = {
            let mut inner = self.inner();
            let line = encode(&entry);
            (&*inner.file).write_all(&line)?;
            inner.state.apply(entry);
            inner.written += 1;
            inner.bytes += line.len() as u64;
            if inner.bytes > inner.compact_at {
                inner.state.forget(now, self.shared.closed_kept);
                let (file, bytes) = rewrite(&self.shared.folder, &inner.state)?;
                inner.file = Arc::new(file);
                inner.bytes = bytes;
                inner.compact_at = bytes + COMPACT_BYTES;
            }
            (inner.written, Arc::clone(&inner.file))
        };
        match durability {
            Durability::Written => Ok(()),
            Durability::Synced => {
                let mut synced = self.shared.synced.lock().unwrap_or_else(PoisonError::into_inner);
                if *synced < number {
                    // Everything written by now shares this sync; a file replaced meanwhile was synced whole.
                    let upto = self.inner().written;
                    let current = Arc::clone(&self.inner().file);
                    file.sync_data()?;
                    if !Arc::ptr_eq(&file, &current) {
                        current.sync_data()?;
                    }
                    *synced = upto;
                }
                Ok(())
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Session { session } => self.session = Some(session),
            Entry::Assigned { assignment } => {
                let attempt = assignment.attempt;
                if !self.closed.contains_key(&attempt) {
                    self.held.entry(attempt).or_insert_with(|| Held::new(assignment));
                }
            }
            Entry::Container {
                attempt,
                container,
                facts,
            } => self.change(attempt, |held| {
                held.container = Some(container);
                held.facts = facts;
            }),
            Entry::Started { attempt, at } => self.change(attempt, |held| held.started_at = Some(at)),
            Entry::Cancelled { attempt, why } => self.change(attempt, |held| held.cancelled = Some(why)),
            Entry::Stopped { attempt } => self.change(attempt, |held| held.stopped = true),
            Entry::Ended { attempt, ended } => self.change(attempt, |held| held.ended = Some(ended)),
            Entry::Report { attempt, report } => self.change(attempt, |held| held.report = Some(report)),
            Entry::Closed { attempt, at } => {
                self.held.remove(&attempt);
                self.closed.insert(attempt, at);
            }
        }
    }

    fn change(&mut self, attempt: AttemptId, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.held.get_mut(&attempt) {
            change(held);
        }
    }

    fn forget(&mut self, now: Timestamp, closed_kept: Duration) {
        self.closed.retain(|_, at| now.since(*at) <= closed_kept);
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let session = self.session.map(|session| Entry::Session { session });
        let closed = self
            .closed
            .iter()
            .map(|(&attempt, &at)| Entry::Closed { attempt, at });
        let held = self
            .held
            .iter()
            .flat_map(|(&attempt, held)| held.entries(attempt));
        session.into_iter().chain(closed).chain(held)
    }
}

impl Held {
    fn entries(&self, attempt: AttemptId) -> Vec<Entry> {
        let mut entries = vec![Entry::Assigned {
            assignment: Arc::clone(&self.assignment),
        }];
        entries.extend(self.container.clone().map(|container| Entry::Container {
            attempt,
            container,
            facts: self.facts.clone(),
        }));
        entries.extend(self.started_at.map(|at| Entry::Started { attempt, at }));
        entries.extend(
            self.cancelled
                .clone()
                .map(|why| Entry::Cancelled { attempt, why }),
        );
        entries.extend(self.stopped.then_some(Entry::Stopped { attempt }));
        entries.extend(self.ended.clone().map(|ended| Entry::Ended { attempt, ended }));
        entries.extend(
            self.report
                .clone()
                .map(|report| Entry::Report { attempt, report }),
        );
        entries
    }
}

fn lock(folder: &Path) -> Result<File, JournalError> {
    let io = |source| JournalError::Io {
        folder: folder.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// The state in a fresh file that has replaced the old one, open for appending.
fn rewrite(folder: &Path, state: &State) -> io::Result<(File, u64)> {
    let new = folder.join(FILE_NEW);
    let mut text = Vec::new();
    for entry in state.entries() {
        text.extend(encode(&entry));
    }
    std::fs::write(&new, &text)?;
    let file = OpenOptions::new().append(true).open(&new)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()?;
    Ok((file, text.len() as u64))
}

fn encode(entry: &Entry) -> Vec<u8> {
    let json = serde_json::to_vec(entry).expect("an entry is plain data");
    // The newline before it ends what an earlier write may have left half-done.
    let mut line = format!("\n{:08x} ", crc32fast::hash(&json)).into_bytes();
    line.extend(json);
    line.push(b'\n');
    line
}

/// The state that a journal's text tells; what does not read back is left out.
pub fn replay(text: &[u8]) -> State {
    let mut state = State::default();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        match decode(line) {
            Some(entry) => state.apply(entry),
            None => tracing::warn!(
                bytes = line.len(),
                "a line of the journal does not read back and is left out"
            ),
        }
    }
    state
}

fn decode(line: &[u8]) -> Option<Entry> {
    let (crc, json) = line.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.trim_end(), 16).ok()?;
    (crc32fast::hash(json) == crc)
        .then(|| serde_json::from_slice(json).ok())
        .flatten()
}
