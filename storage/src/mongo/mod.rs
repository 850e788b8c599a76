//! The MongoDB backend: everything that has to survive, as documents of one database.
//!
//! Invariants: every acknowledged write is in the journals of a majority; every read is of what a majority has, from
//! the primary; every change of a job or a session is one compare-and-set on one document, no transaction spans two.
//! Writes go in groups ([`lane`]), one command each. Needs a replica set (one member is enough), and nothing that
//! DocumentDB lacks: neither transactions nor the bulk write of MongoDB 8, nor the server's retryable writes.
//!
//! Failure: a database that does not answer is [`StoreError::Unavailable`] within 3 s, and nothing is known of a write's
//! fate; where the rows can tell it, they are read back first. All works again, without a restart, once it answers.

mod files;
mod identity;
mod jobs;
mod lane;
mod link;
mod logs;
mod schema;
mod terms;
mod trouble;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use common::job::Job;
use common::secret::Secret;
use common::store::{FileStore, IdentityStore, JobStore, LeaderTerms, LogStore, StoreError, WorkerStore};
use common::tasks::Tasks;
use common::time::SharedClock;
use mongodb::bson::Document;

use self::link::Link;
use self::trouble::Trouble;

/// How long writes under way get when the stores are closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The half of the stores that survives.
pub struct Rows {
    pub jobs: Arc<dyn JobStore>,
    pub workers: Arc<dyn WorkerStore>,
    pub terms: Arc<dyn LeaderTerms>,
    pub logs: Arc<dyn LogStore>,
    pub files: Arc<dyn FileStore>,
    pub identity: Arc<dyn IdentityStore>,
    pub closing: Closing,
}

/// Why the database cannot be used. Each says what to mend.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    #[error("MONGODB_URI cannot be used: {reason}. Expected `mongodb://HOST:27017/DATABASE?replicaSet=NAME`")]
    BadUri { reason: String },
    #[error(
        "no MongoDB answers at MONGODB_URI as one that takes writes: start it, or name the one that runs; one that runs \
         wants `rs.initiate()` once, and in MONGODB_URI the name of its set (`replicaSet=`), `tls=` as it is there, and \
         members that are reached by the names that the set knows them by"
    )]
    NoAnswer(#[source] Trouble),
    #[error(
        "the database of MONGODB_URI refuses what a start asks of it ({reason}): mend what it says, or name an empty \
         database in MONGODB_URI"
    )]
    Refused { reason: String },
    #[error(
        "the servers of MONGODB_URI do not make a write durable ({reason}): see that a majority of the replica set runs"
    )]
    NotDurable { reason: String },
}

impl NotOpened {
    fn because(trouble: Trouble) -> StoreError {
        let not_opened = match (trouble.refusal(), trouble) {
            (Some(reason), _) => Self::Refused { reason },
            (None, Trouble::NotDurable(reason)) => Self::NotDurable { reason },
            (None, trouble @ (Trouble::Silent | Trouble::Driver(_))) => Self::NoAnswer(trouble),
            // these name the setting and the mend themselves
            (None, other) => return other.into(),
        };
        StoreError::Unavailable(Box::new(not_opened))
    }
}

/// Connects, and makes collections and indexes where they are not there.
///
/// # Errors
/// Each a sentence that names MONGODB_URI: it cannot be read, nobody answers, the user may not, or the database is of
/// another schema version or another program.
pub async fn connect(url: &Secret<String>, clock: SharedClock) -> Result<Rows, StoreError> {
    let link = Link::new(url).await.map_err(|error| {
        let reason = error.kind.to_string();
        StoreError::Unavailable(Box::new(NotOpened::BadUri { reason }))
    })?;
    let link = Arc::new(link);
    schema::prepare(&link).await.map_err(NotOpened::because)?;
    let tasks = Tasks::new();
    sweep_later(&link, &clock, &tasks);
    Ok(Rows {
        jobs: Arc::new(jobs::Jobs::new(&link, &clock, &tasks)),
        workers: Arc::new(workers::Workers::new(&link, &tasks)),
        terms: Arc::new(terms::Terms(Arc::clone(&link))),
        logs: Arc::new(logs::Logs::new(&link, &tasks)),
        files: Arc::new(files::Files::new(&link, &clock, &tasks)),
        identity: Arc::new(identity::Identity::new(&link, &clock)),
        closing: Closing { link, tasks },
    })
}

/// For tests that write rows past every check.
pub(crate) fn document_of(job: &Job) -> Result<Document, StoreError> {
    Ok(jobs::document_of(job)?)
}

/// What a crash left of files goes in the background: nobody waits for it.
fn sweep_later(link: &Arc<Link>, clock: &SharedClock, tasks: &Tasks) {
    let (link, now, stopping) = (Arc::clone(link), clock.now(), tasks.stopping().clone());
    tasks.spawn("store-sweep", async move {
        tokio::select! {
            swept = files::sweep(&link, now) => if let Err(trouble) = swept {
                tracing::warn!(%trouble, "unfinished files stay until the next start");
            },
            () = stopping.cancelled() => {}
        }
    });
}

/// Closes the stores while clones of them may still be about: these answer [`StoreError::Unavailable`] from then on.
pub struct Closing {
    link: Arc<Link>,
    tasks: Tasks,
}

impl Closing {
    pub async fn close(self) {
        self.tasks.stop();
        if !self.tasks.join(CLOSE_WITHIN).await {
            tracing::warn!("some writes to the database did not end in time; their fate is unknown");
        }
        self.link.close().await;
    }
}

/// Tells one write of a row from every other.
fn nonce() -> i64 {
    rand::random()
}
