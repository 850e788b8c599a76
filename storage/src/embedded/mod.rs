//! The embedded backend: three SQLite databases, log segments and files in one locked folder; the rest in process.
//!
//! Invariants: every write goes through the one writer of its database ([`writer`]) and is answered after its
//! commit is durable (WAL, `synchronous=FULL`). Jobs, logs and the rest have a database and a lane of their own, so
//! that none waits behind a flood of another. Coordination ([`coord`]) is disposable and starts empty.
//!
//! Failure: a full disk answers [`StoreError::Full`] and changes nothing; the same stores work again once there is
//! room. A killed process leaves at most unreferenced bytes, which the next opening removes.

mod coord;
mod files;
mod folder;
mod identity;
mod jobs;
mod logs;
mod readers;
mod segments;
mod sqlite;
mod terms;
mod wal_room;
mod workers;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use common::store::{StoreError, Stores};
use common::time::SharedClock;

pub(crate) use self::coord::{ENTRIES_EXACT, Limiter, NONCE_LEN_MAX, PARTS, UsedNonces};

use self::folder::Folder;
use self::readers::Readers;
use self::sqlite::Schema;
use self::wal_room::WalRoom;
use self::writer::{Lane, Size};
use crate::Opened;

/// Requests that may wait for each lane's writer; a caller past it waits to be let in.
const LANE_QUEUE_MAX: usize = 1_024;

const JOBS: Size = Size {
    queue: LANE_QUEUE_MAX,
    // Larger groups gain nothing any more and make the first of a group wait longer.
    group: 512,
    // In rows. Bulk submissions of 1,000 jobs share a group with few others.
    weight: 2_000,
    // Changes of a job or two: a tenth of a millisecond beside the commit itself.
    at_once: 2,
};
const CONTROL: Size = Size {
    queue: LANE_QUEUE_MAX,
    group: 256,
    weight: 2_000,
    // Nobody waits for these as for a job.
    at_once: 0,
};
const LOGS: Size = Size {
    queue: LANE_QUEUE_MAX,
    group: 256,
    // In bytes: what one group writes to its segment before it is made durable.
    weight: 8 * 1024 * 1024,
    at_once: 0,
};

/// Connections for reading, each database. More only fight for the processor.
const JOB_READERS: usize = 4;
const CONTROL_READERS: usize = 2;
const LOG_READERS: usize = 2;

/// Opens the folder, making it if it is not there.
///
/// # Errors
/// See [`crate::open`].
pub async fn open(folder: PathBuf, clock: SharedClock) -> Result<Opened, StoreError> {
    let (folder, databases) = readers::blocking(move || {
        let folder = Arc::new(Folder::open(&folder)?);
        let databases = Databases::open(&folder)?;
        Ok((folder, databases))
    })
    .await?;

    let jobs_path = folder.path().join(sqlite::JOBS.file);
    let control_path = folder.path().join(sqlite::CONTROL.file);
    let logs_path = folder.path().join(sqlite::LOGS.file);
    let room = Some(WalRoom::of(&jobs_path));
    let jobs = Lane::start("store-jobs", databases.jobs, JOBS, Arc::clone(&folder), room)?;
    let control = Lane::start(
        "store-control",
        databases.control,
        CONTROL,
        Arc::clone(&folder),
        None,
    )?;
    let room = Some(WalRoom::of(&logs_path));
    let logs = Lane::start("store-logs", databases.logs, LOGS, Arc::clone(&folder), room)?;
    let job_readers = Readers::new(jobs_path, JOB_READERS);
    let control_readers = Readers::new(control_path, CONTROL_READERS);
    let log_readers = Readers::new(logs_path, LOG_READERS);

    let workers = Arc::new(workers::Workers::new(control.clone(), control_readers.clone()));
    let stores = Stores {
        jobs: Arc::new(jobs::Jobs::new(
            jobs.clone(),
            job_readers.clone(),
            Arc::clone(&clock),
        )),
        terms: Arc::new(terms::Terms::new(control.clone(), control_readers.clone())),
        workers,
        logs: Arc::new(logs::Logs::new(logs.clone(), log_readers.clone(), &folder)),
        files: Arc::new(files::Files::new(
            control.clone(),
            control_readers.clone(),
            &folder,
        )),
        identity: Arc::new(identity::Identity::new(
            control.clone(),
            control_readers.clone(),
            Arc::clone(&clock),
        )),
        lock: Arc::new(coord::Lock::new(Arc::clone(&clock))),
        queue: Arc::new(coord::Queue::default()),
        hints: Arc::new(coord::LocalHints::new()),
        limiter: Arc::new(coord::Limiter::default()),
        nonces: Arc::new(coord::UsedNonces::new(clock.now())),
    };
    let closing = Closing {
        jobs,
        control,
        logs,
        readers: [job_readers, control_readers, log_readers],
        folder,
    };
    let closing = crate::Closing(crate::Backend::Embedded(closing));
    Ok(Opened { stores, closing })
}

struct Databases {
    jobs: rusqlite::Connection,
    control: rusqlite::Connection,
    logs: segments::LogState,
}

impl Databases {
    fn open(folder: &Folder) -> Result<Self, StoreError> {
        let open = |schema: &Schema| sqlite::open_writer(folder.path(), schema);
        let jobs = open(&sqlite::JOBS)?;
        let control = open(&sqlite::CONTROL)?;
        files::sweep(&control, folder)?;
        let logs = segments::LogState::open(open(&sqlite::LOGS)?, folder.logs())?;
        Ok(Self { jobs, control, logs })
    }
}

/// Closes the stores while clones of them may still be about: these answer [`StoreError::Unavailable`] from then on.
pub struct Closing {
    jobs: Lane<rusqlite::Connection>,
    control: Lane<rusqlite::Connection>,
    logs: Lane<segments::LogState>,
    readers: [Arc<Readers>; 3],
    folder: Arc<Folder>,
}

impl Closing {
    /// Ends after the writes under way, closes the databases and frees the folder.
    pub async fn close(self) {
        for readers in &self.readers {
            readers.close().await;
        }
        self.logs.close().await;
        self.jobs.close().await;
        self.control.close().await;
        self.folder.release();
    }
}
