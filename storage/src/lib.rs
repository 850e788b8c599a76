//! Where things are kept: implementations of the seams of `common::store`, and the suite of laws that proves them.
//!
//! One backend so far: [`embedded`] (SQLite and files in one folder, coordination in process). [`conformance`] states
//! what any backend has to hold.

pub mod conformance;
pub mod embedded;
pub mod mongo;
pub mod redis_coord;

use common::config::StoreConfig;
use common::store::{StoreError, Stores};
use common::time::SharedClock;

pub use self::embedded::Closing;

/// The stores of a program, and the way to give them up.
pub struct Opened {
    pub stores: Stores,
    pub closing: Closing,
}

/// Opens the stores that `config` names. They close when the last clone is dropped; ending the process in any other
/// way, `kill -9` included, loses nothing that was acknowledged.
///
/// # Errors
/// The folder cannot be made or is held by another process, the database is of a newer program, or it is unreadable.
pub async fn open(config: &StoreConfig, clock: SharedClock) -> Result<Stores, StoreError> {
    open_closable(config, clock).await.map(|opened| opened.stores)
}

/// As [`open`], for callers that want the folder free at a known moment.
///
/// # Errors
/// As [`open`].
pub async fn open_closable(config: &StoreConfig, clock: SharedClock) -> Result<Opened, StoreError> {
    match config {
        StoreConfig::Embedded { folder } => embedded::open(folder.clone(), clock).await,
    }
}
