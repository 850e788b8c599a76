//! Coordination over Redis: lock, queue, hints, limits, nonces, and sign-ins kept for a moment; shared by every replica.
//!
//! Everything here is disposable: it is made anew from the rows, or ends by itself. Invariants: all keys begin with one
//! hash tag (a cluster keeps them on one node, and the link leads there: [`route`]); whatever must not be seen half done is one script; every call is
//! answered within [`Deadlines`], whatever the network does. Failure: a call that was not answered is
//! [`StoreError::Unavailable`], its fate unknown; the next one connects anew by itself ([`link`]).
//!
//! A server that evicts keys is refused ([`server`]): it would lose waiting jobs and used nonces without a trace. So is
//! one that does not allow our user what the programs do ([`rights`]).

mod error;
mod hints;
mod keys;
mod limiter;
mod link;
mod lock;
mod logins;
mod nonces;
mod queue;
mod rights;
mod route;
mod scripts;
mod server;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::secret::Secret;
use common::store::{Hints, IdentityStore, JobQueue, LeaderLock, Nonces, RateLimiter, StoreError, Stores};
use common::tasks::Tasks;
use common::time::SharedClock;

pub use self::error::ConnectError;
pub use self::link::Deadlines;
pub use self::logins::LOGIN_KEPT;

use self::hints::SharedHints;
use self::keys::Keys;
use self::limiter::SharedLimiter;
use self::link::Link;
use self::logins::Logins;
use self::nonces::SharedNonces;

/// Where Redis is, and how it is used.
#[derive(Debug, Clone)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/database]`.
    pub url: Secret<String>,
    /// What all keys of this installation begin with, as a hash tag.
    pub prefix: String,
    pub deadlines: Deadlines,
}

impl Config {
    pub const PREFIX_DEFAULT: &'static str = "jw";

    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url.into()),
            prefix: Self::PREFIX_DEFAULT.to_owned(),
            deadlines: Deadlines::DEFAULT,
        }
    }
}

/// The half of [`Stores`] that may vanish. Its background tasks end with its last part.
#[derive(Clone)]
pub struct Coordination {
    pub lock: Arc<dyn LeaderLock>,
    pub queue: Arc<dyn JobQueue>,
    pub hints: Arc<dyn Hints>,
    pub limiter: Arc<dyn RateLimiter>,
    pub nonces: Arc<dyn Nonces>,
    shared: Arc<Shared>,
}

impl Coordination {
    /// These rows with sign-ins kept in front of them, which are gone within [`LOGIN_KEPT`] of their end.
    pub fn with_logins_kept(&self, rows: Arc<dyn IdentityStore>) -> Arc<dyn IdentityStore> {
        Arc::new(Logins::new(rows, Arc::clone(&self.shared)))
    }

    /// The same rows, with this coordination.
    pub fn with_rows_of(self, rows: Stores) -> Stores {
        Stores {
            lock: self.lock,
            queue: self.queue,
            hints: self.hints,
            limiter: self.limiter,
            nonces: self.nonces,
            ..rows
        }
    }
}

/// Connects, looks at the server, and listens for hints.
///
/// # Errors
/// The address is none, nothing answers there, it refuses us or does not allow what we need, it evicts keys, or it is a
/// replica.
pub async fn connect(config: &Config, clock: &SharedClock) -> Result<Coordination, StoreError> {
    let keys = Keys::new(&config.prefix).ok_or_else(|| ConnectError::BadPrefix(config.prefix.clone()))?;
    let link = Arc::new(Link::new(config.url.expose(), &keys, config.deadlines)?);
    link.connect().await?;
    let shared = Arc::new(Shared {
        link,
        keys,
        tasks: Tasks::new(),
    });
    let link = Arc::clone(&shared.link);
    shared.spawn("redis-heartbeat", async move { link.heartbeat().await });
    let hints = SharedHints::start(&shared);
    let nonces = SharedNonces::new(Arc::clone(&shared));
    nonces.be_born(clock.now()).await?;
    // From here on no hint is missed.
    if !hints
        .ready(config.deadlines.connect + config.deadlines.answer)
        .await?
    {
        tracing::warn!("hints do not arrive from Redis yet: everything happens, but a tick later");
    }
    Ok(Coordination {
        lock: Arc::new(lock::Lock(Arc::clone(&shared))),
        queue: Arc::new(queue::Queue(Arc::clone(&shared))),
        limiter: Arc::new(SharedLimiter::new(Arc::clone(&shared))),
        hints: Arc::new(hints),
        nonces: Arc::new(nonces),
        shared,
    })
}

/// What the parts share. The tasks hold the link, never this, so that it ends when nobody uses it any more.
struct Shared {
    link: Arc<Link>,
    keys: Keys,
    tasks: Tasks,
}

impl Shared {
    /// Runs until the last part of the coordination is dropped.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.tasks.stopping().clone();
        self.tasks.spawn(name, async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// As Redis counts: whole milliseconds, in a range that its integers and Lua's doubles both hold.
fn millis(duration: Duration) -> u64 {
    const MOST: u64 = 1 << 50;
    u64::try_from(duration.as_millis()).unwrap_or(MOST).min(MOST)
}
