//! One connection for all commands, made anew whenever it is in doubt.
//!
//! Every call has a deadline and is answered by then, whatever the network does. A connection that broke, or on which
//! one answer did not come in time, is never used again (a link that swallows everything looks just like a slow one);
//! the next call connects anew, one for all who wait. Where that fails, the link is down: calls fail at once, and the
//! heartbeat goes on trying, so that a Redis that is away costs its users no time. Nothing is tried twice: what a
//! failed call did is unknown.
//!
//! Every connection is looked at before its first use: a server that evicts, a replica, or one that does not allow what
//! the programs need, is not used at all. On a Redis Cluster it leads to the node that has the keys ([`super::route`]):
//! the look finds it, and a node that gives the slot away in operation names the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::store::StoreError;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::time::timeout;

use super::error::{ConnectError, TooLate, is_of_the_connection, is_of_the_node, owner, told};
use super::keys::Keys;
use super::rights::Rights;
use super::route::Route;
use super::scripts;
use super::server::Server;

/// Between two tries to reach a server that is away: soon enough that nobody notices more than its absence.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How often a connection without traffic is tested.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// Commands that wait to be written; a caller past it waits to be let in, within its deadline.
const WAITING_MAX: usize = 1_024;

/// From node to node of a cluster in one try to connect: the one that was asked first names the right one; the others
/// are for a slot that moves meanwhile.
const HOPS: usize = 3;

/// The longest that anything waits for Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// TCP, handshake and the look at the server.
    pub connect: Duration,
    /// From a command to its answer.
    pub answer: Duration,
}

impl Deadlines {
    /// A healthy Redis answers within a millisecond, and a failover takes longer than anybody wants to wait. Together
    /// they stay below the trusted life of the leader's lock.
    pub const DEFAULT: Self = Self {
        connect: Duration::from_secs(1),
        answer: Duration::from_millis(1_500),
    };

    fn call(self) -> Duration {
        self.connect + self.answer
    }
}

pub struct Link {
    route: Route,
    rights: Rights,
    config: AsyncConnectionConfig,
    pub deadlines: Deadlines,
    state: Mutex<State>,
    /// Held by the one who connects.
    connecting: tokio::sync::Mutex<()>,
    made: AtomicU64,
}

#[derive(Clone)]
enum State {
    /// Nothing is known yet, or the last connection was given up: whoever comes next connects.
    Closed,
    Open(Open),
    /// The last try to connect failed: the heartbeat alone tries again.
    Down(ConnectError),
}

#[derive(Clone)]
struct Open {
    number: u64,
    address: ConnectionAddr,
    connection: MultiplexedConnection,
    server: Arc<Server>,
}

#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

impl Request<'_> {
    async fn send<T: FromRedisValue>(self, connection: &mut MultiplexedConnection) -> RedisResult<T> {
        match self {
            Self::One(command) => command.query_async(connection).await,
            Self::Many(pipeline) => pipeline.query_async(connection).await,
        }
    }
}

impl Link {
    /// # Errors
    /// [`ConnectError::BadUrl`]. Nothing is connected yet.
    pub fn new(url: &str, keys: &Keys, deadlines: Deadlines) -> Result<Self, ConnectError> {
        let info = url.into_connection_info().map_err(ConnectError::BadUrl)?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        // Tells what no connection could be made to.
        Client::open(info.clone()).map_err(ConnectError::BadUrl)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(deadlines.connect))
            .set_response_timeout(Some(deadlines.answer))
            .set_pipeline_buffer_size(WAITING_MAX);
        Ok(Self {
            route: Route::new(info),
            rights: Rights::new(keys),
            config,
            deadlines,
            state: Mutex::new(State::Closed),
            connecting: tokio::sync::Mutex::default(),
            made: AtomicU64::new(0),
        })
    }

    /// A way to where the keys are, and its address.
    pub fn client(&self) -> RedisResult<(Client, ConnectionAddr)> {
        let address = self.route.address();
        Ok((self.route.client(address.clone())?, address))
    }

    /// Whether commands go elsewhere by now.
    pub fn has_left(&self, address: &ConnectionAddr) -> bool {
        matches!(self.state(), State::Open(open) if open.address != *address)
    }

    /// Why `tried` keeps us from using the server at this address.
    pub fn unusable(&self, address: &ConnectionAddr, tried: &str, error: RedisError) -> ConnectError {
        ConnectError::new(address.to_string(), tried, &self.rights.rules, error)
    }

    /// Connects, if nothing is connected.
    ///
    /// # Errors
    /// Why this Redis cannot be used.
    pub async fn connect(&self) -> Result<(), ConnectError> {
        self.open().await.map(drop)
    }

    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.on_server(command).await.map(|(answer, _)| answer)
    }

    /// As [`Link::command`], and which server answered.
    pub async fn on_server<T: FromRedisValue>(&self, command: &Cmd) -> Result<(T, Arc<Server>), StoreError> {
        self.ask(Request::One(command)).await
    }

    /// The server that the next command most likely goes to.
    pub async fn server(&self) -> Result<Arc<Server>, StoreError> {
        Ok(self.open().await?.server)
    }

    /// Many commands in one round trip. An empty pipeline is not sent.
    pub async fn pipeline<T: FromRedisValue + Default>(&self, pipeline: &Pipeline) -> Result<T, StoreError> {
        if pipeline.is_empty() {
            return Ok(T::default());
        }
        self.ask(Request::Many(pipeline)).await.map(|(answer, _)| answer)
    }

    async fn ask<T: FromRedisValue>(&self, request: Request<'_>) -> Result<(T, Arc<Server>), StoreError> {
        let mut used = None;
        let answered = timeout(self.deadlines.call(), async {
            let Open {
                number,
                mut connection,
                server,
                address,
            } = self.open().await?;
            used = Some(number);
            let mut answer = request.send(&mut connection).await;
            if let Err(error) = &answer
                && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
            {
                // Somebody flushed the scripts. None of a pipeline's other commands minds being repeated.
                answer = match load_scripts(&mut connection).await {
                    Ok(()) => request.send(&mut connection).await,
                    Err(error) => Err(error),
                };
            }
            match answer {
                Ok(answer) => Ok((answer, server)),
                Err(error) => {
                    if is_of_the_connection(&error) && self.discard(number) {
                        self.turn_from(&address, &error);
                    }
                    Err(told(error))
                }
            }
        });
        match answered.await {
            Ok(answer) => answer,
            Err(_) => {
                if let Some(number) = used {
                    self.discard(number);
                }
                Err(StoreError::Unavailable(Box::new(TooLate)))
            }
        }
    }

    async fn open(&self) -> Result<Open, ConnectError> {
        match self.state() {
            State::Open(open) => return Ok(open),
            State::Down(error) => return Err(error),
            State::Closed => {}
        }
        let _alone = self.connecting.lock().await;
        match self.state() {
            // Somebody else was quicker.
            State::Open(open) => Ok(open),
            State::Down(error) => Err(error),
            State::Closed => self.connect_alone().await,
        }
    }

    /// One try, by whoever holds `connecting`.
    async fn connect_alone(&self) -> Result<Open, ConnectError> {
        let made = timeout(self.deadlines.connect, self.make()).await;
        let made = made.unwrap_or_else(|_| {
            Err(ConnectError::TimedOut {
                address: self.route.address().to_string(),
            })
        });
        let mut state = self.locked();
        match &made {
            Ok(open) => {
                if matches!(*state, State::Down(_)) {
                    tracing::info!(address = %open.address, "Redis answers again");
                }
                *state = State::Open(open.clone());
            }
            Err(error) => {
                if !matches!(*state, State::Down(_)) {
                    tracing::warn!(%error, "Redis cannot be used");
                }
                self.route.failed();
                *state = State::Down(error.clone());
            }
        }
        made
    }

    /// Over to the node that has the keys, where another one is asked.
    async fn make(&self) -> Result<Open, ConnectError> {
        let mut hops = 0;
        loop {
            let address = self.route.address();
            hops += 1;
            match self.make_at(&address).await {
                Err(ConnectError::Elsewhere { owner, .. })
                    if hops <= HOPS && self.route.moved(&address, &owner) => {}
                made => return made,
            }
        }
    }

    async fn make_at(&self, address: &ConnectionAddr) -> Result<Open, ConnectError> {
        let unusable = |tried: &'static str| move |error| self.unusable(address, tried, error);
        let client = self.route.client(address.clone());
        let client = client.map_err(ConnectError::BadUrl)?;
        let opening = client.get_multiplexed_async_connection_with_config(&self.config);
        let mut connection = opening.await.map_err(unusable("SELECT"))?;
        let hindrance = self.rights.look(&mut connection).await;
        if let Some(hindrance) = hindrance.map_err(unusable("PING"))? {
            return Err(self.unusable(address, &hindrance.tried, hindrance.said));
        }
        let server = Server::look(&mut connection).await.map_err(unusable("INFO"))?;
        server.check(&address.to_string())?;
        load_scripts(&mut connection)
            .await
            .map_err(unusable("SCRIPT LOAD"))?;
        if server.is_clustered {
            let mut slots = redis::cmd("CLUSTER");
            match slots.arg("SLOTS").query_async::<Value>(&mut connection).await {
                Ok(slots) => self.route.learn(address, &slots),
                Err(error) => tracing::debug!(%error, "Redis does not tell its other nodes"),
            }
        }
        Ok(Open {
            number: self.made.fetch_add(1, Ordering::SeqCst),
            address: address.clone(),
            connection,
            server: Arc::new(server),
        })
    }

    /// Where to go after an error that ended a connection.
    fn turn_from(&self, address: &ConnectionAddr, error: &RedisError) {
        if let Some(owner) = owner(error) {
            tracing::info!(%address, owner, "the cluster has moved our keys");
            self.route.moved(address, &owner);
        } else if is_of_the_node(error) {
            self.route.failed();
        }
    }

    fn state(&self) -> State {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never uses this connection again; a newer one stays. Whether it was in use still.
    fn discard(&self, number: u64) -> bool {
        let mut state = self.locked();
        let used = matches!(&*state, State::Open(open) if open.number == number);
        if used {
            *state = State::Closed;
        }
        used
    }

    /// Tests the connection for ever, and connects again when it is down. A caller that gives up before its deadline
    /// notices nothing of a link that swallows everything; this does.
    pub async fn heartbeat(&self) {
        let ping = redis::cmd("PING");
        loop {
            if let State::Down(_) = self.state() {
                tokio::time::sleep(RETRY_PAUSE).await;
                let _alone = self.connecting.lock().await;
                // What is wrong was told when it began.
                let _ = self.connect_alone().await;
            } else {
                tokio::time::sleep(HEARTBEAT).await;
                if let Err(error) = self.command::<()>(&ping).await {
                    tracing::debug!(%error, "Redis does not answer a ping");
                }
            }
        }
    }
}

async fn load_scripts(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut loads = redis::pipe();
    for load in scripts::load_all() {
        loads.add_command(load).ignore();
    }
    loads.query_async(connection).await
}
