//! The stores of a simulation: everything in memory, behind a network that may lose, hold up and double.
//!
//! [`Backends`] is what is kept, one for all programs, and survives every one of them. [`Client`] is one program's way
//! to it, and is what implements the traits. It keeps the laws of every backend (`tests/simulation.rs`).

mod coord;
mod files;
mod hints;
mod identity;
mod jobs;
mod logs;
mod workers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::job::{Epoch, Job};
use common::store::{StoreError, Stores};
use common::tasks::Tasks;
use common::time::SharedClock;
use common::worker::Session;
use tokio::sync::oneshot;

pub use self::logs::AttemptLog;

/// Who calls: a program's number, given by whoever builds the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller(pub u32);

/// Two services that fail apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// What must survive.
    Rows,
    /// Lock, queue, limits, nonces.
    Coord,
}

/// What a leader writes that an old one must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    Claim,
    Expire,
}

impl Write {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Expire => "expire",
        }
    }

    pub fn named(call: &str) -> Option<Self> {
        [Self::Claim, Self::Expire]
            .into_iter()
            .find(|write| write.name() == call)
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Answered,
    /// It never arrives.
    Lost,
    /// It arrives, and its answer does not.
    Unheard,
    /// It is given up, and arrives after that, this much later.
    Late(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passage {
    pub there: Duration,
    pub fate: Fate,
    pub back: Duration,
}

/// What lies between programs and stores.
pub trait Network: Send + Sync {
    fn passage(&self, caller: Caller, service: Service, call: &'static str) -> Passage;
    /// One delay for each copy of a hint that arrives.
    fn hint(&self, from: Caller, to: Caller) -> Vec<Duration>;
}

/// Is told what changes, at the moment that it does.
pub trait Observer: Send + Sync {
    fn job_stored(&self, _by: Caller, _job: &Job) {}
    fn job_changed(&self, _by: Caller, _before: &Job, _after: &Job) {}
    /// A leader's write met a row that had changed.
    fn write_refused(&self, _by: Caller, _write: Write, _wanted: &Job, _row: &Job) {}
    fn session_changed(&self, _by: Caller, _session: &Session) {}
    fn term_begun(&self, _by: Caller, _epoch: Epoch) {}
    fn queue_built(&self, _by: Caller) {}
}

/// Nobody is told.
impl Observer for () {}

/// What is kept.
pub struct Backends {
    clock: SharedClock,
    observer: Arc<dyn Observer>,
    pub jobs: Mutex<jobs::Jobs>,
    workers: Mutex<workers::Workers>,
    pub logs: Mutex<logs::Logs>,
    files: Arc<Mutex<files::Files>>,
    identity: Mutex<identity::Identity>,
    pub coord: Mutex<coord::Coord>,
    exchange: Mutex<hints::Exchange>,
}

impl Backends {
    pub fn new(clock: SharedClock, observer: Arc<dyn Observer>) -> Arc<Self> {
        let coord = coord::Coord::born(clock.now());
        Arc::new(Self {
            clock,
            observer,
            jobs: Mutex::default(),
            workers: Mutex::default(),
            logs: Mutex::default(),
            files: Arc::default(),
            identity: Mutex::default(),
            coord: Mutex::new(coord),
            exchange: Mutex::default(),
        })
    }

    /// The rows alone, as after the other service was lost with everything in it.
    pub fn without_coord(&self) {
        *held(&self.coord) = coord::Coord::born(self.clock.now());
    }

    pub fn all_jobs(&self) -> Vec<Job> {
        held(&self.jobs).all()
    }

    pub fn all_sessions(&self) -> Vec<Session> {
        held(&self.workers).all_sessions()
    }
}

/// One program's way to the stores.
#[derive(Clone)]
pub struct Client {
    backends: Arc<Backends>,
    caller: Caller,
    network: Option<(Arc<dyn Network>, Tasks)>,
}

impl Client {
    /// Straight to the stores.
    pub const fn direct(backends: Arc<Backends>, caller: Caller) -> Self {
        Self {
            backends,
            caller,
            network: None,
        }
    }

    /// Over a network, whose parcels are carried by `tasks`.
    pub fn over(backends: Arc<Backends>, caller: Caller, network: Arc<dyn Network>, tasks: Tasks) -> Self {
        Self {
            network: Some((network, tasks)),
            ..Self::direct(backends, caller)
        }
    }

    pub fn stores(&self) -> Stores {
        held(&self.backends.exchange).join(self.caller);
        let this = Arc::new(self.clone());
        Stores {
            jobs: this.clone(),
            workers: this.clone(),
            terms: this.clone(),
            logs: this.clone(),
            files: this.clone(),
            identity: this.clone(),
            lock: this.clone(),
            queue: this.clone(),
            hints: this.clone(),
            limiter: this.clone(),
            nonces: this,
        }
    }

    /// One call. Once it is under way it arrives, whatever becomes of who made it.
    async fn call<T: Send + 'static>(
        &self,
        service: Service,
        name: &'static str,
        apply: impl FnOnce(&Backends, Caller) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let caller = self.caller;
        let Some((network, tasks)) = &self.network else {
            return apply(&self.backends, caller);
        };
        let Passage { there, fate, back } = network.passage(caller, service, name);
        let backends = Arc::clone(&self.backends);
        let deliver = |after: Duration| {
            let (answer, answered) = oneshot::channel();
            tasks.spawn("a call", async move {
                tokio::time::sleep(after).await;
                // The caller may have gone.
                let _ = answer.send(apply(&backends, caller));
            });
            answered
        };
        match fate {
            Fate::Answered | Fate::Unheard => {
                let answer = deliver(there)
                    .await
                    .unwrap_or_else(|_| Err(away("the store panicked")));
                tokio::time::sleep(back).await;
                if fate == Fate::Answered {
                    answer
                } else {
                    Err(away("the answer was lost"))
                }
            }
            Fate::Lost => {
                tokio::time::sleep(there).await;
                Err(away("the call was lost"))
            }
            Fate::Late(by) => {
                drop(deliver(there + by));
                tokio::time::sleep(there).await;
                Err(away("there was no answer in time"))
            }
        }
    }
}

fn away(why: &'static str) -> StoreError {
    StoreError::Unavailable(why.into())
}

/// None of these structures is left half-changed by a panic.
pub fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
