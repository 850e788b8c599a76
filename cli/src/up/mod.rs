//! `jobworker up`: API, scheduler, one worker and the embedded store in one process.
//!
//! The parts are the same as in separate programs and meet in the same way: the worker speaks with the scheduler over
//! a WebSocket on loopback, with a token of its own; API and scheduler meet in rows and hints. What stays lies in the
//! state folder, which one process holds at a time; or, where `MONGODB_URI` and `REDIS_URL` name servers, there.
//!
//! Failure: what prevents the start is told in a sentence and starts nothing. A missing container engine does not: the
//! worker says what it lacks, and jobs wait.

mod ending;
mod place;
mod ready;
mod secrets;
mod telemetry;

use std::sync::Arc;
use std::time::Duration;

use common::config::LeaseTimes;
use common::protocol::token::FleetSecrets;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::{SharedClock, SystemClock};
use scheduler::Scheduler;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use worker_agent::executor::docker::{DockerConfig, DockerExecutor};
use worker_agent::{AgentError, OnStop, ServerUrl};

use self::place::{hold, listen, state_folder, store_config, store_failure};
use self::ready::Addresses;
use self::secrets::Secrets;
use crate::args::UpArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::note;
use crate::signals::Signals;

/// How long the parts get to put their things down, after the worker.
const JOIN_WITHIN: Duration = Duration::from_secs(15);

/// Starts everything, and ends with a signal.
///
/// # Errors
/// What prevented the start.
pub async fn perform(args: UpArgs) -> Result<Exit, Failure> {
    telemetry::begin();
    let mut signals = Signals::new()?;
    let folder = state_folder(args.state.clone())?;
    ready::forget_earlier(args.ready_file.as_deref())?;
    ready::check_password_file(args.password_file.as_deref())?;
    let (api_listener, api) = listen(args.listen, "--listen").await?;
    let (worker_listener, workers) = listen(args.worker_listen, "--worker-listen").await?;
    let clock: SharedClock = Arc::new(SystemClock);
    let store = store_config(&folder)?;
    // held from here to the end, so that nobody else makes secrets or runs a worker in this folder
    let _held = hold(&folder)?;
    let opened = Box::pin(storage::open_closable(&store, Arc::clone(&clock)))
        .await
        .map_err(|error| store_failure(error, &store))?;
    let secrets = Secrets::load_or_make(&folder)?;
    let password = api::bootstrap_admin(&opened.stores, &clock)
        .await
        .map_err(|error| Failure::new(error.to_string()).source(error))?;
    let addresses = Addresses { api, workers };

    let tasks = Tasks::new();
    let times = if args.scaled_times {
        LeaseTimes::SCALED
    } else {
        LeaseTimes::REAL
    };
    let parts = Parts {
        args: &args,
        stores: opened.stores.clone(),
        clock: Arc::clone(&clock),
        times: times.clone(),
        tasks: tasks.clone(),
    };
    parts.serve_api(&secrets, api_listener)?;
    let scheduler = parts.serve_workers(&secrets.fleet, worker_listener)?;
    ready::tell_password(password.as_ref(), args.password_file.as_deref())?;
    let worker = if args.no_agent {
        None
    } else {
        Some(Worker::start(&parts, &secrets, addresses, folder.join("worker"))?)
    };

    let told = ready::tell(
        &args,
        &opened.stores,
        worker.as_ref().map(|_| &secrets.worker),
        addresses,
    );
    let early = tokio::select! {
        told = told => told.map(|()| false)?,
        () = signals.next() => true,
    };
    let outcome = if early {
        Ok(())
    } else {
        until_asked_to_end(&mut signals, worker.as_ref()).await
    };

    note("ending; once more ends at once");
    let ending = async {
        ending::end_jobs(&args, &opened.stores, &clock, &times).await;
        if let Some(worker) = worker {
            worker.stop().await;
        }
        tasks.stop();
        if !tasks.join(JOIN_WITHIN).await {
            tracing::warn!("some parts did not end in time");
        }
        drop(scheduler);
    };
    tokio::select! {
        () = ending => {}
        () = signals.next() => note("ended at once; nothing that was acknowledged is lost"),
    }
    outcome.map(|()| Exit::SUCCESS)
}

/// Waits for a signal. A worker that cannot go on does not take the rest along: its jobs wait, and people see why.
async fn until_asked_to_end(signals: &mut Signals, worker: Option<&Worker>) -> Result<(), Failure> {
    let Some(worker) = worker else {
        signals.next().await;
        return Ok(());
    };
    tokio::select! {
        () = signals.next() => return Ok(()),
        () = worker.ended.cancelled() => {}
    }
    note("the worker has ended; the API goes on, and jobs wait. End with Ctrl-C and start again");
    signals.next().await;
    Ok(())
}

/// What the parts share.
struct Parts<'a> {
    args: &'a UpArgs,
    stores: Stores,
    clock: SharedClock,
    times: LeaseTimes,
    tasks: Tasks,
}

impl Parts<'_> {
    fn serve_api(&self, secrets: &Secrets, listener: TcpListener) -> Result<(), Failure> {
        let mut config = api::Config::new(secrets.jwt.clone(), self.args.image.clone());
        config.contact = self.times.contact;
        config.fleet_ceiling = self.args.fleet_ceiling;
        if self.args.no_rate_limits {
            config.limits = api::Limits::OFF;
        }
        api::serve(
            config,
            self.stores.clone(),
            Arc::clone(&self.clock),
            listener,
            &self.tasks,
        )
        .map(|_| ())
        .map_err(|error| Failure::new("the API could not start").source(error))
    }

    fn serve_workers(&self, fleet: &FleetSecrets, listener: TcpListener) -> Result<Scheduler, Failure> {
        let mut config = scheduler::Config::new(fleet.clone());
        config.times = self.times.clone();
        Scheduler::start(
            config,
            self.stores.clone(),
            Arc::clone(&self.clock),
            listener,
            &self.tasks,
        )
        .map_err(|error| Failure::new("the scheduler could not start").source(error))
    }
}

/// The worker of this process. It ends before the rest, so that its last words are heard.
struct Worker {
    tasks: Tasks,
    handle: JoinHandle<()>,
    ended: tokio_util::sync::CancellationToken,
}

impl Worker {
    fn start(
        parts: &Parts<'_>,
        secrets: &Secrets,
        addresses: Addresses,
        folder: std::path::PathBuf,
    ) -> Result<Self, Failure> {
        let server = ServerUrl::parse(&format!("ws://{}", addresses.local_workers()), true)
            .map_err(|error| Failure::new("the worker does not find the scheduler").source(error))?;
        crate::private_file::make_folder(&folder)
            .map_err(|error| crate::failure::io(format!("make `{}`", folder.display()), error))?;
        let mut config =
            worker_agent::Config::new(secrets.fleet.worker_key(&secrets.worker, 1), server, folder);
        config.link = (&parts.times).into();
        config.on_stop = OnStop::Leave;
        if let Some(slots) = parts.args.slots {
            config.capacity.slots = slots;
        }
        // a group of its own: it is stopped first
        let (tasks, ended) = (Tasks::new(), tokio_util::sync::CancellationToken::new());
        let mut docker = DockerConfig::new(secrets.worker.clone(), config.state_folder.clone());
        docker.kill_grace = parts.times.kill_grace;
        let (clock, inner, guard) = (
            Arc::clone(&parts.clock),
            tasks.clone(),
            ended.clone().drop_guard(),
        );
        let handle = tasks.spawn("worker", async move {
            let _ended = guard;
            if let Err(error) = Box::pin(run_worker(config, docker, clock, inner)).await {
                let failure = Failure::new(format!("the worker could not begin: {error}")).source(error);
                note(
                    &failure
                        .next("jobs wait until it does; end with Ctrl-C, mend it and start again")
                        .to_string(),
                );
            }
        });
        Ok(Self { tasks, handle, ended })
    }

    async fn stop(self) {
        self.tasks.stop();
        let _ = tokio::time::timeout(JOIN_WITHIN, self.handle).await;
    }
}

/// The agent on Docker. What its executor still removes after the session's end gets its time.
async fn run_worker(
    config: worker_agent::Config,
    docker: DockerConfig,
    clock: SharedClock,
    tasks: Tasks,
) -> Result<(), AgentError> {
    let removing = Tasks::new();
    let executor = DockerExecutor::start(docker, Arc::clone(&clock), removing.clone()).await?;
    let ended = worker_agent::run(config, executor, clock, tasks).await;
    removing.stop();
    if !removing.join(JOIN_WITHIN).await {
        tracing::warn!("some containers were not removed in time; the next start does it");
    }
    ended
}
