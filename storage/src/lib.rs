//! Where things are kept: implementations of the seams of `common::store`, and the suite of laws that proves them.
//!
//! Two backends: [`embedded`] (SQLite and files in one folder, coordination in process), and [`mongo`] with
//! [`redis_coord`] for installations of several programs. [`conformance`] states what any backend has to hold.

pub mod conformance;
pub mod embedded;
pub mod mongo;
mod passed_over;
pub mod redis_coord;

use common::config::StoreConfig;
use common::secret::Secret;
use common::store::{StoreError, Stores};
use common::time::SharedClock;

/// The stores of a program, and the way to give them up.
pub struct Opened {
    pub stores: Stores,
    pub closing: Closing,
}

/// Closes the stores while clones of them may still be about: these answer [`StoreError::Unavailable`] from then on.
pub struct Closing(Backend);

enum Backend {
    Embedded(embedded::Closing),
    Mongo(mongo::Closing),
}

impl Closing {
    /// Ends after the writes under way.
    pub async fn close(self) {
        match self.0 {
            Backend::Embedded(closing) => closing.close().await,
            Backend::Mongo(closing) => closing.close().await,
        }
    }
}

/// Opens the stores that `config` names. They close when the last clone is dropped; ending the process in any other
/// way, `kill -9` included, loses nothing that was acknowledged.
///
/// # Errors
/// The folder cannot be made or is held by another process, the database is of a newer program, or it is unreadable; a
/// server does not answer, or refuses us: then its setting is named.
pub async fn open(config: &StoreConfig, clock: SharedClock) -> Result<Stores, StoreError> {
    open_closable(config, clock).await.map(|opened| opened.stores)
}

/// As [`open`], for callers that want the folder or the connections free at a known moment.
///
/// # Errors
/// As [`open`].
pub async fn open_closable(config: &StoreConfig, clock: SharedClock) -> Result<Opened, StoreError> {
    match config {
        StoreConfig::Embedded { folder } => embedded::open(folder.clone(), clock).await,
        StoreConfig::MongoRedis { mongo_url, redis_url } => {
            // Boxed: two drivers' beginnings are too large for every caller's own future.
            Box::pin(open_servers(mongo_url, redis_url, clock)).await
        }
    }
}

async fn open_servers(
    mongo_url: &Secret<String>,
    redis_url: &Secret<String>,
    clock: SharedClock,
) -> Result<Opened, StoreError> {
    let coordination =
        redis_coord::connect(&redis_coord::Config::new(redis_url.expose().as_str()), &clock).await?;
    let rows = mongo::connect(mongo_url, clock).await?;
    Ok(Opened {
        stores: Stores {
            jobs: rows.jobs,
            workers: rows.workers,
            terms: rows.terms,
            logs: rows.logs,
            files: rows.files,
            identity: coordination.with_logins_kept(rows.identity),
            lock: coordination.lock,
            queue: coordination.queue,
            hints: coordination.hints,
            limiter: coordination.limiter,
            nonces: coordination.nonces,
        },
        closing: Closing(Backend::Mongo(rows.closing)),
    })
}
