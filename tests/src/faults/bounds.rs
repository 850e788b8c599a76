//! How soon things are as they were, as the matrix asks for it with this run's times. A machine that does much else gets
//! [`BUSY`] beside each of these times; what was really needed is printed.

use std::time::Duration;

use anyhow::{Result, ensure};
use common::api_types::JobView;
use common::ids::JobId;
use common::job::StateName;
use common::store::JobQuery;
use common::time::{Clock, Mono, SystemClock, Timestamp};

use super::rows::{LEASE, LOCK, SWEEP};
use super::stage::Stage;
use crate::wait::{LONG, wait_for};

/// On top of each bound: a machine that builds meanwhile is slower by an order of magnitude.
pub const BUSY: Duration = Duration::from_secs(10);
/// A killed leader's successor gives out work: the lock's life and two seconds.
pub const NEW_LEADER: Duration = Duration::from_millis(LOCK.as_millis() as u64 + 2_000);
/// A leader that goes on after its term, or has lost sight of the lock, has stepped down.
pub const STEPS_DOWN: Duration = LOCK;
/// After Redis came back empty work is given out again.
pub const AFTER_REDIS: Duration = Duration::from_secs(10);
/// After it was wiped, with a queue of thousands; and every job that waits has its place by then.
pub const AFTER_A_WIPE: Duration = Duration::from_secs(15);
/// After a kill of MongoDB's only node.
pub const AFTER_MONGO: Duration = Duration::from_secs(15);
/// What agents had to tell while the leader did not reach MongoDB is accepted.
pub const RESULTS_ACCEPTED: Duration = Duration::from_secs(30);
/// What an agent held that never comes back is taken from it: T, a sweep and five seconds.
pub const TAKEN_FROM_IT: Duration =
    Duration::from_millis(LEASE.as_millis() as u64 + SWEEP.as_millis() as u64 + 5_000);
/// An agent whose link passes again is heard: ping, pong, back-off and handshake, half a second each.
pub const HEARD_AGAIN: Duration = Duration::from_secs(2);
/// Every agent after a restart of everything.
pub const ALL_CONNECTED: Duration = Duration::from_secs(30);

/// What has to happen within `bound` of `since` has happened now.
///
/// # Errors
/// It took longer.
pub fn in_time(what: &str, since: Mono, bound: Duration) -> Result<()> {
    let took = SystemClock.mono().since(since);
    println!("    {what} after {:.1} s", took.as_secs_f64());
    ensure!(
        took <= bound + BUSY,
        "{what} after {took:?}, expected {bound:?} and at most {BUSY:?} more"
    );
    Ok(())
}

impl Stage {
    /// A job that is submitted now goes through, all within `bound` of `since`.
    ///
    /// # Errors
    /// It does not, or took longer.
    pub async fn works_again(&self, since: Mono, bound: Duration) -> Result<()> {
        let key = format!("goes-through-{:08x}", rand::random::<u32>());
        let id = self.hands.simulated(&key).await?;
        self.hands.client.ended(id, LONG).await?;
        in_time("a new job went through", since, bound)
    }

    /// What runs now has come to its end within `bound`.
    ///
    /// # Errors
    /// It has not.
    pub async fn what_runs_ends(&self, bound: Duration) -> Result<()> {
        let since = SystemClock.mono();
        let running = JobQuery {
            states: vec![StateName::Assigned, StateName::Running],
            limit: RUNNING_MOST,
            ..JobQuery::default()
        };
        let jobs = &self.opened.stores.jobs;
        let ids: Vec<JobId> = jobs
            .list(&running)
            .await?
            .items
            .iter()
            .map(|job| job.id)
            .collect();
        wait_for(LONG, "what ran at the mend to end", async || {
            let rows = jobs.get_many(&ids).await.map_err(|error| error.to_string())?;
            match rows.iter().filter(|job| !job.state.is_terminal()).count() {
                0 => Ok(()),
                left => Err(format!("{left} of {} have not", ids.len())),
            }
        })
        .await?;
        in_time("what ran had ended", since, bound)
    }

    /// None of these jobs is still this attempt's, within `bound` of `since`.
    ///
    /// # Errors
    /// One is.
    pub async fn taken_from_it(&self, held: &[JobView], since: Mono, bound: Duration) -> Result<()> {
        let client = &self.hands.client;
        wait_for(LONG, "jobs of a lost agent to be taken from it", async || {
            for old in held {
                let new = client.job(old.id).await.map_err(|error| format!("{error:#}"))?;
                let same = new.state == old.state && new.attempts_total == old.attempts_total;
                if same {
                    return Err(format!("{} is as it was: {}", old.id, old.state));
                }
            }
            Ok(())
        })
        .await?;
        in_time("all that it held was taken from it", since, bound)
    }

    /// This agent was heard after `since`, within `bound`.
    ///
    /// # Errors
    /// It was not.
    pub async fn heard_again(&self, name: &str, since: Timestamp, bound: Duration) -> Result<()> {
        let (worker, begun) = (self.worker(name)?, SystemClock.mono());
        let heard = |view: &common::api_types::WorkerView| view.id == worker && view.heard_at > since;
        self.hands.client.worker_when("to be heard again", heard).await?;
        in_time(&format!("{name} was heard"), begun, bound)
    }
}

/// More than all agents of a stage have slots.
const RUNNING_MOST: usize = 500;
