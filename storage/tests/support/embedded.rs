//! The embedded backend on a folder of the test's own, for every suite that keeps its rows there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::config::StoreConfig;
use common::store::Stores;
use common::time::{ManualClock, Timestamp};
use storage::conformance::{Backend, Ending};
use storage::{Closing, Opened};

pub async fn fresh() -> Embedded {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&folder.path().join("0"), &clock).await;
    Embedded {
        stores: opened.stores,
        closing: Some(opened.closing),
        clock,
        folder,
        generation: 0,
        abandoned: Vec::new(),
    }
}

pub struct Embedded {
    stores: Stores,
    closing: Option<Closing>,
    clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
    generation: u32,
    /// Stores that nobody closed.
    abandoned: Vec<(Stores, Option<Closing>)>,
}

async fn open(folder: &Path, clock: &Arc<ManualClock>) -> Opened {
    let config = StoreConfig::Embedded {
        folder: folder.to_owned(),
    };
    let clock: Arc<ManualClock> = Arc::clone(clock);
    storage::open_closable(&config, clock).await.unwrap()
}

#[async_trait::async_trait]
impl Backend for Embedded {
    fn stores(&self) -> Stores {
        self.stores.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        Arc::clone(&self.clock)
    }

    async fn reopen(&mut self, ending: Ending) {
        let mut place = self.folder.path().join(self.generation.to_string());
        let mut closing = self.closing.take();
        match ending {
            Ending::Closed => closing.take().unwrap().close().await,
            Ending::Killed => {
                // What a killed process leaves: the files as they are at that moment.
                self.generation += 1;
                let next = self.folder.path().join(self.generation.to_string());
                copy(&place, &next);
                place = next;
            }
        }
        let opened = open(&place, &self.clock).await;
        let old = std::mem::replace(&mut self.stores, opened.stores);
        self.abandoned.push((old, closing));
        self.closing = Some(opened.closing);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
