//! Jobs in hardened containers of a Docker engine.
//!
//! [`container`] says what a container may do and is the only place that does. [`mod@make`] makes one with its
//! [`workspace`], up to init's `ready`; [`run`] sees a job through to its end, over attachments ([`attach`]) that may
//! break; [`spares`] are made ahead; [`removals`] end what is to go, and until then [`users`] keep its user for it. Ours
//! is what carries this agent's and state folder's label, and nothing else is ever touched, whatever its name.
//!
//! An engine that is away is no error here but a [`Condition`]: everything recovers when it is back.

mod attach;
mod collect;
pub mod container;
mod ending;
mod engine;
mod handle;
mod image;
mod init_binary;
mod leftovers;
mod listing;
mod make;
mod oom;
mod policy;
mod removals;
mod run;
mod shared;
mod spares;
mod users;
mod workspace;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use common::attempt::NotStartedReason;
use common::ids::{AttemptId, WorkerId};
use common::job::Resources;
use common::tasks::Tasks;
use common::time::{Mono, SharedClock};
use common::worker::Condition;
use jobworker_init::protocol as init;

pub(crate) use self::engine::{Engine, Health, words};
pub(crate) use self::init_binary::install as install_init;
pub use self::policy::{Policy, PullPolicy};
pub use self::spares::SpareLimits;

use self::container::{LABEL_OWNER, volume_problem};
use self::engine::{is_not_found, socket_path};
use self::handle::Handle;
use self::image::{ImageRules, Images, ResolvedCommand};
use self::leftovers::Leftovers;
use self::make::{Built, make};
use self::removals::Removals;
use self::run::DockerRunning;
use self::shared::{Shared, blocking};
use self::spares::Spares;
use self::users::Users;
use self::workspace::Workspaces;
use super::{
    AdoptFailure, AdoptRequest, ContainerRef, Description, Executor, ExecutorError, OwnedContainer,
    PrepareRequest, Prepared, PreparedFacts, Running, StartFailure,
};
use crate::files::inputs;
use crate::preflight::Preflight;

/// The first user of jobs; above what distributions and systemd give to people and services (65,535 is the last of
/// theirs), below what they leave to containers' own ranges.
pub const UID_BASE_DEFAULT: u32 = 66_000;

/// How long the node's condition waits for the engine's list of containers.
const LIST_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// What the executor is told.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    pub worker: WorkerId,
    /// Init's copies and workspaces; the same as the agent's.
    pub state_folder: PathBuf,
    /// The engine's; `DOCKER_HOST` or the usual place where none is named.
    pub socket: Option<PathBuf>,
    /// `jobworker-init`; `JOBWORKER_INIT` or the agent's own folder where none is named.
    pub init: Option<PathBuf>,
    pub policy: Policy,
    pub spares: SpareLimits,
    pub uid_base: u32,
    /// G: the most that a job gets to end after its deadline.
    pub kill_grace: std::time::Duration,
    /// The worker is not ready where this one is missing.
    pub image_default: Option<String>,
}

impl DockerConfig {
    /// With the defaults for everything that need not be said.
    pub fn new(worker: WorkerId, state_folder: PathBuf) -> Self {
        Self {
            worker,
            state_folder,
            socket: None,
            init: None,
            policy: Policy::default(),
            spares: SpareLimits::default(),
            uid_base: UID_BASE_DEFAULT,
            kill_grace: std::time::Duration::from_secs(10),
            image_default: None,
        }
    }
}

/// The [`Executor`] of nodes with Docker.
pub struct DockerExecutor {
    shared: Arc<Shared>,
    images: Images,
    spares: Arc<Spares>,
    preflight: Preflight,
    kill_grace: std::time::Duration,
}

impl DockerExecutor {
    /// Opens the state folder and looks at what earlier lives left. The engine need not answer yet.
    ///
    /// # Errors
    /// When the state folder cannot be used, or the policy is not one.
    pub async fn start(
        config: DockerConfig,
        clock: SharedClock,
        tasks: Tasks,
    ) -> Result<Arc<Self>, ExecutorError> {
        config.policy.check().map_err(ExecutorError::new)?;
        let folder = config.state_folder.clone();
        let (state, node, workspaces) =
            blocking(move || open_state(&folder))
                .await?
                .map_err(|error| ExecutorError {
                    message: format!("the state folder cannot be used: {error}"),
                    source: Some(error.into()),
                })?;
        let leftovers = workspaces.names().map_err(|error| ExecutorError {
            message: format!("the workspaces of earlier lives cannot be listed: {error}"),
            source: Some(error.into()),
        })?;
        let engine = Arc::new(Engine::at(socket_path(config.socket.as_deref())));
        let (removals, waiting) = Removals::new();
        let shared = Arc::new(Shared {
            engine: Arc::clone(&engine),
            workspaces: Arc::new(workspaces),
            policy: config.policy,
            clock: Arc::clone(&clock),
            state: state.clone(),
            init_setting: config.init.clone(),
            owner: format!("{}/{node}", config.worker),
            life: format!("{:016x}", rand::random::<u64>()),
            name_prefix: format!("jw-{}", config.worker),
            tasks,
            users: Users::new(config.uid_base),
            leftovers: Leftovers::new(leftovers),
            removals,
        });
        removals::start(&shared, waiting);
        let preflight = Preflight::new(Arc::clone(&engine), state, config.init, config.image_default);
        let executor = Arc::new(Self {
            images: Images::new(engine, clock),
            spares: Spares::start(Arc::clone(&shared), config.spares),
            shared,
            preflight,
            kill_grace: config.kill_grace,
        });
        if let Err(error) = executor.shared.look_at_leftovers().await {
            tracing::warn!(%error, "leftovers of earlier lives are looked at later");
        }
        Ok(executor)
    }

    /// A spare one, or a new one by a task of its own, so that nothing is left half-made when the caller goes away.
    async fn obtain(&self, rules: &ImageRules, resources: Resources) -> Result<Built, StartFailure> {
        if let Some(built) = self.spares.take(rules, resources).await {
            return Ok(Built {
                create_ms: 0,
                ..built
            });
        }
        let (shared, rules) = (Arc::clone(&self.shared), rules.clone());
        let (answer, made) = tokio::sync::oneshot::channel();
        self.shared.tasks.spawn("container", async move {
            let built = make(&shared, &rules, resources).await;
            if let Err(Ok(unwanted)) = answer.send(built) {
                shared.reap(unwanted.handle).await;
            }
        });
        made.await.unwrap_or_else(|_| {
            Err(StartFailure::Infra {
                message: "the container was not made".to_owned(),
            })
        })
    }
}

#[async_trait]
impl Executor for DockerExecutor {
    async fn describe(&self) -> Description {
        let mut description = self.preflight.describe().await;
        if !self.shared.workspaces.has_quota() {
            description.notes.push("no_disk_quota".to_owned());
        }
        if !rustix::process::geteuid().is_root() {
            description.notes.push("one_user_for_all_jobs".to_owned());
        }
        description
    }

    async fn condition(&self) -> Condition {
        let mut condition = self.preflight.condition().await;
        if condition == Condition::Ready {
            // Without it nothing is made.
            let looked = tokio::time::timeout(LIST_MAX, self.shared.look_at_leftovers()).await;
            condition = condition.and(match looked {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("the engine does not list its containers: {error}")),
                Err(_) => Some("the engine does not list its containers in time".to_owned()),
            });
        }
        condition.and(self.shared.removals.problem())
    }

    fn is_pulling(&self, attempt: AttemptId) -> bool {
        self.images.is_pulling(attempt)
    }

    async fn prepare(&self, request: PrepareRequest) -> Result<Box<dyn Prepared>, StartFailure> {
        let spec = &request.assignment.spec;
        if let Some(message) = self.shared.policy.refusal(&request.assignment) {
            return Err(StartFailure::Rejected { message });
        }
        let images = &self.images;
        let (rules, pull_ms) = images
            .get(request.assignment.attempt, spec, &self.shared.policy)
            .await?;
        if let Some(message) = volume_problem(&rules.volumes) {
            return Err(StartFailure::Rejected { message });
        }
        // before anything is made: a job without a command needs no container
        rules.resolve(spec, "")?;
        let built = self
            .obtain(&rules, spec.resources)
            .await
            .inspect_err(|_| self.images.forget(&spec.image))?;
        let mut waiting = Waiting {
            facts: PreparedFacts {
                image_digest: rules.digest.clone(),
                pull_ms,
                create_ms: Some(built.create_ms),
            },
            command: rules.resolve(
                spec,
                &built.handle.container.0.chars().take(12).collect::<String>(),
            )?,
            grace: spec.limits.grace,
            kill_grace: self.kill_grace,
            built: Some(built),
            shared: Arc::clone(&self.shared),
        };
        if let Err(failure) = waiting.place_inputs(&request).await {
            Box::new(waiting).destroy().await;
            return Err(failure);
        }
        self.spares.wanted(&rules, spec.resources);
        Ok(Box::new(waiting))
    }

    async fn adopt(&self, request: AdoptRequest) -> Result<Box<dyn Running>, AdoptFailure> {
        let gone = AdoptFailure::Gone {
            attempt: request.assignment.attempt,
        };
        let unavailable = |message| AdoptFailure::Unavailable { message };
        let client = self
            .shared
            .engine
            .client()
            .map_err(|error| unavailable(words(&error)))?;
        let seen = match client.inspect_container(&request.container.0, None).await {
            Ok(seen) => seen,
            Err(error) if is_not_found(&error) => return Err(gone),
            Err(error) => return Err(unavailable(words(&error))),
        };
        let labels = seen.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(LABEL_OWNER) != Some(&self.shared.owner) {
            return Err(gone);
        }
        let handle = Handle::of(request.container, &seen.name.unwrap_or_default());
        // The run sees to it from now on: its files are still to be collected where somebody else removes it.
        self.shared.leftovers.settled(&handle.name);
        let grace = request.assignment.spec.limits.grace.min(self.kill_grace);
        Ok(Box::new(DockerRunning::new(
            Arc::clone(&self.shared),
            handle,
            request.spooled_seq,
            grace,
        )))
    }

    async fn owned(&self) -> Result<Vec<OwnedContainer>, ExecutorError> {
        self.shared.look_at_leftovers().await?;
        let listed = self.shared.list().await?;
        self.shared.follow_leftovers(&listed).await?;
        Ok(listed
            .into_iter()
            .filter(|container| !self.spares.is_spare(&container.handle.container))
            .map(|container| OwnedContainer {
                created_at: self
                    .spares
                    .given_at(&container.handle.container)
                    .unwrap_or(container.created_at),
                of_this_life: container.of_this_life,
                container: container.handle.container,
            })
            .collect())
    }

    async fn remove(&self, container: &ContainerRef) -> Result<(), ExecutorError> {
        let client = self
            .shared
            .engine
            .client()
            .map_err(|error| ExecutorError::new(words(&error)))?;
        let seen = match client.inspect_container(&container.0, None).await {
            Ok(seen) => seen,
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(ExecutorError::new(words(&error))),
        };
        let labels = seen.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(LABEL_OWNER) != Some(&self.shared.owner) {
            return Err(ExecutorError::new("the container is not this agent's"));
        }
        let handle = Handle::of(container.clone(), &seen.name.unwrap_or_default());
        if let Some(stays) = self.shared.removals.why_stuck(&handle.name) {
            // It is asked for already.
            return Err(stays);
        }
        self.shared.remove_now_or_later(handle).await
    }
}

/// A container whose init waits for `run`. Dropped, it stays: it ends itself, or is found as an orphan.
struct Waiting {
    shared: Arc<Shared>,
    /// Taken by what ends the waiting.
    built: Option<Built>,
    command: ResolvedCommand,
    facts: PreparedFacts,
    grace: std::time::Duration,
    kill_grace: std::time::Duration,
}

impl Waiting {
    fn built(&self) -> &Built {
        self.built.as_ref().expect("taken only by value")
    }

    async fn place_inputs(&mut self, request: &PrepareRequest) -> Result<(), StartFailure> {
        let root = self.shared.workspaces.path(&self.built().handle.name);
        let user = rustix::process::geteuid().is_root().then_some(self.built().user);
        // under `/workspace` the agent makes what the job was promised; elsewhere the image has to have it
        let dir = self.command.dir.strip_prefix("/workspace/").map(str::to_owned);
        if request.inputs.is_empty() && dir.is_none() {
            return Ok(());
        }
        let inputs = request.inputs.clone();
        let disk_bytes = u64::from(request.assignment.spec.resources.disk_mib) * 1024 * 1024;
        blocking(move || {
            inputs::place(
                &root,
                &inputs,
                dir.as_deref(),
                user.map(|user| (user.uid, user.gid)),
                disk_bytes,
            )
        })
        .await
        .map_err(|error| StartFailure::Infra {
            message: error.message,
        })?
        .map_err(|error| match error {
            inputs::PlaceError::Bad { message } => StartFailure::NotStarted {
                reason: NotStartedReason::BadInputs,
                message,
            },
            inputs::PlaceError::Io { message, source } => StartFailure::Infra {
                message: format!("{message}: {source}"),
            },
        })
    }
}

#[async_trait]
impl Prepared for Waiting {
    fn container(&self) -> &ContainerRef {
        &self.built().handle.container
    }

    fn facts(&self) -> PreparedFacts {
        self.facts.clone()
    }

    async fn run(mut self: Box<Self>, deadline: Mono) -> Result<Box<dyn Running>, StartFailure> {
        let built = self.built.take().expect("taken only by value");
        let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let run = init::Run {
            argv: std::mem::take(&mut self.command.argv),
            env: std::mem::take(&mut self.command.env),
            dir: std::mem::take(&mut self.command.dir),
            grace_ms: milliseconds(self.grace),
            grace_max_ms: milliseconds(self.kill_grace),
            stop_signal: self.command.stop_signal,
            deadline_ms: 0,
        };
        let mut running = DockerRunning::new(
            Arc::clone(&self.shared),
            built.handle.clone(),
            0,
            self.grace.min(self.kill_grace),
        );
        let Err(error) = running.begin(built.attachment, built.skew, run, deadline).await else {
            return Ok(Box::new(running));
        };
        // before it is told: half of `run` may have been heard, and the next try may be elsewhere
        let _ = self.shared.remove_now_or_later(built.handle).await;
        Err(match error {
            attach::SendError::TooLong(_) => StartFailure::NotStarted {
                reason: NotStartedReason::Other,
                message: "command and environment are too long together".to_owned(),
            },
            attach::SendError::TimedOut | attach::SendError::Broken(_) => StartFailure::Infra {
                message: format!("init cannot be told to run it: {error}"),
            },
        })
    }

    async fn destroy(mut self: Box<Self>) {
        if let Some(built) = self.built.take() {
            self.shared.reap(built.handle).await;
        }
    }
}

/// The folder's true path, its own id (made once), and the workspaces in it.
fn open_state(folder: &std::path::Path) -> std::io::Result<(PathBuf, String, Workspaces)> {
    std::fs::create_dir_all(folder)?;
    let state = folder.canonicalize()?;
    let file = state.join("node-id");
    let read = || std::fs::read_to_string(&file).map(|text| text.trim().to_owned());
    let node = match read() {
        Ok(id) if !id.is_empty() => id,
        Ok(_) | Err(_) => {
            let temporary = state.join(format!(".node-id.{:x}", rand::random::<u64>()));
            std::fs::write(&temporary, format!("{:016x}\n", rand::random::<u64>()))?;
            // of two that begin at once the first wins
            match std::fs::hard_link(&temporary, &file) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            std::fs::remove_file(&temporary)?;
            read()?
        }
    };
    let workspaces = Workspaces::open(&state)?;
    Ok((state, node, workspaces))
}
