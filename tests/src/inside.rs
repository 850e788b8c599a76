//! A look into the store of a system that runs, as a crash at that moment would have left it.
//!
//! The process is stopped, its databases are copied, it goes on: a few milliseconds. The copy is opened by the code
//! that opens the real one, and a scheduler without workers leads it, so that the queue is the one which that code
//! makes of the rows.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::config::{LeaseTimes, StoreConfig};
use common::ids::JobId;
use common::job::{Job, StateName};
use common::queue::QueueEntry;
use common::store::{JobQuery, Stores};
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use common::worker::Session;
use rustix::process::Signal;
use scheduler::Scheduler;
use tokio::net::TcpListener;

use crate::cluster::Cluster;
use crate::history::owners::{Orphan, orphans};
use crate::sim::fleet;
use crate::wait::{LONG, wait_for};

/// What is needed of the store's folder; logs and files are not.
const DATABASES: [&str; 2] = ["jobs.sqlite", "control.sqlite"];
const UNENDED: [StateName; 4] = [
    StateName::Scheduled,
    StateName::Queued,
    StateName::Assigned,
    StateName::Running,
];

#[derive(Debug, Clone)]
pub struct Inside {
    /// Every job that has not ended.
    pub rows: Vec<Job>,
    /// Sessions that are not lost.
    pub sessions: Vec<Session>,
    /// Who has a place in the queue.
    pub queued: BTreeSet<JobId>,
}

impl Inside {
    /// # Errors
    /// When the copy cannot be made or is no good store.
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let folder = crate::place::folder("inside")?;
        copy_frozen(cluster, folder.path())?;
        let store = StoreConfig::Embedded {
            folder: folder.path().to_owned(),
        };
        let clock: SharedClock = Arc::new(SystemClock);
        let opened = Box::pin(storage::open_closable(&store, Arc::clone(&clock))).await?;
        // before a leader touches anything
        let sessions = opened.stores.workers.live_sessions().await?;
        let tasks = Tasks::new();
        let mut config = scheduler::Config::new(fleet(cluster)?);
        config.times = LeaseTimes::SCALED;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let leader = Scheduler::start(config, opened.stores.clone(), clock, listener, &tasks)?;
        let look = wait_for(LONG, "the queue to be made anew", async || {
            if leader.leads().is_none() || !opened.stores.queue.is_built().await.unwrap_or(false) {
                return Err("nobody leads".to_owned());
            }
            look(&opened.stores).await.map_err(|error| format!("{error:#}"))
        });
        let (rows, queued) = look.await?;
        tasks.stop();
        tasks.join(Duration::from_secs(10)).await;
        opened.closing.close().await;
        Ok(Self {
            rows,
            sessions,
            queued,
        })
    }

    pub fn orphans(&self) -> Vec<Orphan> {
        let live = self.sessions.iter().map(|session| session.id).collect();
        orphans(&self.rows, &live, &self.queued)
    }
}

fn copy_frozen(cluster: &Cluster, to: &Path) -> Result<()> {
    let store = cluster.state().join("store");
    let _frozen = Frozen::new(cluster)?;
    for database in DATABASES {
        for ending in ["", "-wal"] {
            let name = format!("{database}{ending}");
            match std::fs::copy(store.join(&name), to.join(&name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("{name} cannot be copied"));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

/// Goes on when it is dropped, however the copying ended. A system that does not run needs no stop.
struct Frozen<'a>(Option<&'a Cluster>);

impl<'a> Frozen<'a> {
    fn new(cluster: &'a Cluster) -> Result<Self> {
        if cluster.pid().is_err() {
            return Ok(Self(None));
        }
        cluster.signal(Signal::STOP)?;
        Ok(Self(Some(cluster)))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(cluster) = self.0 {
            // it cannot have gone: nobody waits for it meanwhile
            let _ = cluster.signal(Signal::CONT);
        }
    }
}

/// The rows that have not ended, and who of them has a place in the queue.
///
/// # Errors
/// When the stores do not answer.
pub async fn look(stores: &Stores) -> Result<(Vec<Job>, BTreeSet<JobId>)> {
    let (mut rows, mut before) = (Vec::new(), None);
    loop {
        let page = stores
            .jobs
            .list(&JobQuery {
                states: UNENDED.to_vec(),
                before,
                limit: 200,
                ..JobQuery::default()
            })
            .await?;
        rows.extend(page.items);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let mut queued = BTreeSet::new();
    for entry in rows.iter().filter_map(QueueEntry::of) {
        if stores.queue.place(&entry).await?.is_some() {
            queued.insert(entry.job);
        }
    }
    Ok((rows, queued))
}
