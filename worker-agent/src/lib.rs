//! The worker agent: takes jobs from the control plane and runs each in a container of its own.
//!
//! [`run`] is the whole program on any [`executor::Executor`]; [`run_docker`] on the one that uses Docker. The parts:
//! [`session`] (the event loop), [`attempt`] (one task a run), [`link`] (the connection), [`journal`], [`spool`] and
//! [`log_pump`] (what survives what), [`transfer`] (files).

pub mod attempt;
pub mod condition;
pub mod config;
pub mod disk;
pub mod executor;
pub mod files;
pub mod journal;
pub mod link;
pub mod log_pump;
pub mod machine;
mod orphans;
pub mod preflight;
pub mod session;
pub mod spool;
pub mod transfer;

use std::sync::Arc;
use std::time::Duration;

use common::tasks::Tasks;
use common::time::SharedClock;
use common::worker::WorkerDescription;

pub use self::config::{Config, OnStop, ServerUrl};

use self::attempt::Context;
use self::condition::NodeCondition;
use self::disk::Disk;
use self::executor::Executor;
use self::executor::docker::{DockerConfig, DockerExecutor};
use self::journal::{Journal, JournalError};
use self::link::ServerLink;
use self::link::websocket::WebSocketLink;
use self::session::{Parts, Session};
use self::transfer::{FileServer, HttpFiles, TransferError};

/// How long ended attempts are remembered, so that none is started twice: twice the longest `lost_after` that is usual.
const CLOSED_KEPT: Duration = Duration::from_secs(3_600);

/// How long attempts and connections get to put their things down at the end.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("the HTTP client for inputs and artifacts cannot be made")]
    Files(#[source] TransferError),
    #[error("the container engine cannot be used")]
    Executor(#[from] executor::ExecutorError),
}

/// Runs the agent against the control plane that `config` names, until `tasks` is asked to stop.
///
/// # Errors
/// [`AgentError`]: the agent could not begin. A control plane that is away is no error.
pub async fn run(
    config: Config,
    executor: Arc<dyn Executor>,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<(), AgentError> {
    let seams = Seams::real(&config, executor, &clock)?;
    run_with(config, seams, clock, tasks).await
}

/// [`run`] with the engine of this machine.
///
/// # Errors
/// As [`run`]; also when the engine does not answer.
pub async fn run_docker(
    config: Config,
    docker: DockerConfig,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<(), AgentError> {
    // First: its lock says that the workspaces that the executor looks at are nobody else's.
    let journal = open_journal(&config, &clock)?;
    let inner = Tasks::new();
    let executor = DockerExecutor::start(docker, Arc::clone(&clock), inner.clone()).await?;
    let seams = Seams::real(&config, executor, &clock)?;
    let ended = run_on(config, journal, seams, clock, tasks).await;
    // after the session: what it ended is still being removed
    inner.stop();
    inner.join(JOIN_WITHIN).await;
    ended
}

/// What an agent works through; tests bring their own.
pub struct Seams {
    pub executor: Arc<dyn Executor>,
    pub link: Arc<dyn ServerLink>,
    pub files: Arc<dyn FileServer>,
    pub disk: Disk,
    /// The tasks that end after the session, not when the program is asked to stop: a drain still needs its link.
    pub inner: Tasks,
}

impl Seams {
    fn real(config: &Config, executor: Arc<dyn Executor>, clock: &SharedClock) -> Result<Self, AgentError> {
        let inner = Tasks::new();
        let link = WebSocketLink {
            server: config.server.clone(),
            key: config.key.clone(),
            audience: config.audience.clone(),
            times: config.link,
            clock: Arc::clone(clock),
            tasks: inner.clone(),
        };
        let files = HttpFiles::new(
            config.server.clone(),
            config.key.clone(),
            config.audience.clone(),
            Arc::clone(clock),
        )
        .map_err(AgentError::Files)?;
        Ok(Self {
            executor,
            link: Arc::new(link),
            files: Arc::new(files),
            disk: Disk::Beside,
            inner,
        })
    }
}

/// [`run`] through seams of the caller's own.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    seams: Seams,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<(), AgentError> {
    let journal = open_journal(&config, &clock)?;
    run_on(config, journal, seams, clock, tasks).await
}

fn open_journal(config: &Config, clock: &SharedClock) -> Result<Journal, AgentError> {
    Ok(Journal::open(&config.state_folder, CLOSED_KEPT, clock.now())?)
}

async fn run_on(
    config: Config,
    journal: Journal,
    seams: Seams,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<(), AgentError> {
    let Seams {
        executor,
        link,
        files,
        disk,
        inner,
    } = seams;
    let folder = config.state_folder.join("attempts");
    discard_unknown(&folder, &journal);
    let about = executor.describe().await;
    let description = WorkerDescription {
        version: env!("CARGO_PKG_VERSION").into(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        os: about.os,
        architecture: about.architecture,
        pool: config.pool.clone(),
        labels: config.labels.clone(),
        capacity: config.capacity,
        notes: about.notes,
    };
    let condition = Arc::new(NodeCondition::looked_at(Arc::clone(&executor)).await);
    condition.keep_looking(&inner, config.limits.condition_every);
    let condition_told = condition.subscribe();
    let context = Arc::new(Context {
        executor,
        condition,
        journal,
        files,
        disk,
        clock: Arc::clone(&clock),
        tasks: inner.clone(),
        limits: config.limits,
        folder,
    });
    orphans::keep_sweeping(&context);
    let session = Session::new(Parts {
        config,
        clock,
        stopping: tasks.stopping().clone(),
        tasks: inner.clone(),
        context,
        link,
        description,
        condition: condition_told,
    });
    session.run().await;
    inner.stop();
    if !inner.join(JOIN_WITHIN).await {
        tracing::warn!("some tasks of the agent did not end in time");
    }
    Ok(())
}

/// Folders of attempts that the journal does not know.
fn discard_unknown(folder: &std::path::Path, journal: &Journal) {
    let held = journal.state().held;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let known = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .is_some_and(|attempt| held.contains_key(&attempt));
        if !known && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, folder = %entry.path().display(), "a leftover folder cannot be removed");
        }
    }
}
