//! Finds assignments and cancels in the rows, for all sessions of this gateway at once: by hint, or by a tick.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::ids::{SessionId, WorkerId};
use common::store::{Held, HintStream, StoreError, Stores, Topic};
use common::tasks::Tasks;
use futures_util::FutureExt;

use super::registry::Registry;

/// Without a hint an assignment is found within this.
const TICK: Duration = Duration::from_millis(250);

/// Rows read at once.
const PAGE: usize = 500;

/// Most sessions that are named in a question. Past it all undelivered rows are read, which are few at any moment, and
/// those of other gateways' sessions are passed over.
const NAMED_MAX: usize = 256;

/// Whom to look for.
#[derive(Default)]
struct Wanted {
    workers: HashSet<WorkerId>,
    all: bool,
}

impl Wanted {
    fn note(&mut self, hint: Option<Topic>) {
        match hint {
            Some(Topic::Worker(worker)) => {
                self.workers.insert(worker);
            }
            Some(Topic::Queue | Topic::Capacity | Topic::Job(_) | Topic::Log(_)) => {}
            None => self.all = true,
        }
    }
}

/// Looks until the program stops.
pub async fn run(stores: Stores, registry: Arc<Registry>, tasks: Tasks) {
    let mut hints: HintStream = stores.hints.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wanted = Wanted::default();
    loop {
        tokio::select! {
            () = tasks.stopping().cancelled() => return,
            hint = hints.next() => wanted.note(hint),
            _ = tick.tick() => wanted.all = true,
        }
        while let Some(hint) = hints.next().now_or_never() {
            wanted.note(hint);
        }
        let sessions = match &wanted {
            Wanted { all: true, .. } => registry.sessions(None),
            Wanted { workers, .. } => registry.sessions(Some(workers)),
        };
        wanted = Wanted::default();
        if !sessions.is_empty()
            && let Err(error) = look(&stores, &registry, sessions).await
        {
            tracing::warn!(%error, "assignments could not be looked for");
            // The tick comes again; hints meanwhile must not make this loop spin.
            tokio::time::sleep(TICK).await;
        }
    }
}

async fn look(stores: &Stores, registry: &Registry, sessions: Vec<SessionId>) -> Result<(), StoreError> {
    let held = if sessions.len() > NAMED_MAX {
        Held::AllUndelivered
    } else {
        Held::Undelivered(sessions)
    };
    let mut after = None;
    loop {
        let rows = stores.jobs.held(&held, after, PAGE).await?;
        after = rows.last().map(|job| job.id);
        let full = rows.len() == PAGE;
        for job in rows {
            registry.hand_over(job);
        }
        if !full {
            return Ok(());
        }
    }
}
