//! One simulated agent: its connections one after the other, as the real one makes them, and what it says on them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, PoolName, SessionId};
use common::protocol::token::{EMPTY_SHA256, Request, WorkerKey};
use common::protocol::{
    FromWorker, HeldAttempt, PROTOCOL_VERSION, ResultVerdict, TOKEN_HEADER, ToWorker, Verdict, WEBSOCKET_PATH,
};
use common::time::{Clock, SystemClock};
use common::worker::{Capacity, Condition, Load, WorkerDescription};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Act, Crowd, Door, Tally, lock};
use crate::stats::Stopwatch;

/// Most messages that are answered before they are flushed: what one read of the socket brings.
const TOGETHER_MAX: usize = 256;
/// For TCP, upgrade and welcome: the real agent's handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Before the welcome has told another.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The real agent's pauses between tries to connect: doubling from the first to the largest, half of each by chance.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Thousands of sockets in one process: each has little to say.
const BUFFER_BYTES: usize = 4 * 1_024;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub struct Agent {
    key: WorkerKey,
    door: Door,
    number: usize,
    slots: u32,
    act: Act,
    comes_back: bool,
    tally: Arc<Tally>,
    session: Option<SessionId>,
    held: HashMap<AttemptId, JobId>,
    beats: u64,
    acknowledged: u64,
    freed: Option<Stopwatch>,
}

/// A connection that was welcomed.
struct Connection {
    socket: Socket,
    ticks: Interval,
}

impl Agent {
    pub fn new(key: WorkerKey, door: Door, number: usize, crowd: &Crowd, tally: Arc<Tally>) -> Self {
        Self {
            key,
            door,
            number,
            slots: crowd.slots,
            act: crowd.act,
            comes_back: crowd.comes_back,
            tally,
            session: None,
            held: HashMap::new(),
            beats: 0,
            acknowledged: 0,
            freed: None,
        }
    }

    /// # Errors
    /// The connection was lost, and it is one that does not come back.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut failures = 0_u32;
        loop {
            let address = self.address(failures);
            let opened = tokio::time::timeout(HANDSHAKE, self.connect(&address)).await;
            let ended = match opened {
                Ok(Ok(connection)) => {
                    failures = 0;
                    self.tally.connected.fetch_add(1, Ordering::AcqRel);
                    let ended = Box::pin(self.serve(connection)).await;
                    self.tally.connected.fetch_sub(1, Ordering::AcqRel);
                    ended
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(anyhow::anyhow!("no welcome within {} s", HANDSHAKE.as_secs())),
            };
            if !self.comes_back {
                return ended;
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(pause(failures)).await;
        }
    }

    /// Home first, then the others, one after the other.
    fn address(&self, failures: u32) -> String {
        let all = &self.door.addresses;
        all[(self.number + failures as usize) % all.len()].clone()
    }

    async fn connect(&mut self, address: &str) -> anyhow::Result<Connection> {
        let token = self.key.sign(
            &Request {
                method: "GET",
                path: WEBSOCKET_PATH,
                audience: "jobworker",
                body_sha256: EMPTY_SHA256,
            },
            SystemClock.now(),
        );
        let mut request = format!("ws://{address}{WEBSOCKET_PATH}").into_client_request()?;
        request.headers_mut().insert(TOKEN_HEADER, token.parse()?);
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(BUFFER_BYTES);
        let (socket, _) = tokio_tungstenite::connect_async_with_config(request, Some(config), true)
            .await
            .context("connecting an agent")?;
        let mut connection = Connection {
            socket,
            ticks: ticks(HEARTBEAT),
        };
        let hello = FromWorker::Hello {
            protocol: PROTOCOL_VERSION,
            session: self.session,
            description: description(self.slots),
            condition: Condition::Ready,
            draining: false,
            attempts: self.held(),
        };
        feed(&mut connection.socket, &hello).await?;
        connection.socket.flush().await?;
        let welcome = connection.socket.next().await.context("no welcome")??;
        match serde_json::from_str(welcome.to_text()?)? {
            ToWorker::Welcome {
                session,
                resumed,
                settings,
                ..
            } => {
                if self.session.is_some() && !resumed {
                    self.tally.sessions_anew.fetch_add(1, Ordering::AcqRel);
                    self.held.clear();
                }
                self.session = Some(session);
                connection.ticks = ticks(settings.heartbeat);
                self.acknowledged = self.beats;
                Ok(connection)
            }
            other => anyhow::bail!("not a welcome: {other:?}"),
        }
    }

    async fn serve(&mut self, mut connection: Connection) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                message = connection.socket.next() => {
                    let message = message.context("the gateway is gone")??;
                    self.take(message, &mut connection.socket).await?;
                    self.take_what_is_there(&mut connection.socket).await?;
                }
                _ = connection.ticks.tick() => {
                    if self.acknowledged < self.beats {
                        self.tally.late_beats.fetch_add(1, Ordering::AcqRel);
                    }
                    self.beats += 1;
                    self.tally.beats.fetch_add(1, Ordering::AcqRel);
                    let heartbeat = FromWorker::Heartbeat {
                        number: self.beats,
                        attempts: self.held(),
                        condition: Condition::Ready,
                        draining: false,
                        load: self.load(),
                    };
                    feed(&mut connection.socket, &heartbeat).await?;
                }
            }
            connection.socket.flush().await?;
        }
    }

    /// Answers what has already come, so that one flush serves all of it.
    async fn take_what_is_there(&mut self, socket: &mut Socket) -> anyhow::Result<()> {
        for _ in 0..TOGETHER_MAX {
            let Some(message) = futures_util::FutureExt::now_or_never(socket.next()) else {
                return Ok(());
            };
            let message = message.context("the gateway is gone")??;
            self.take(message, socket).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message, socket: &mut Socket) -> anyhow::Result<()> {
        match message {
            Message::Text(text) => self.answer(serde_json::from_str(&text)?, socket).await,
            Message::Close(frame) => anyhow::bail!("the gateway closed the connection: {frame:?}"),
            // the library answers pings by itself
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn answer(&mut self, message: ToWorker, socket: &mut Socket) -> anyhow::Result<()> {
        match message {
            ToWorker::JobAssign(assignment) => {
                self.take_job(assignment.job, assignment.attempt, socket).await
            }
            ToWorker::ResultAck { attempt, verdict, .. } => {
                self.held.remove(&attempt);
                let counter = match verdict {
                    ResultVerdict::Accepted => &self.tally.accepted,
                    ResultVerdict::Stale => &self.tally.stale,
                };
                counter.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            ToWorker::Cancel { job, attempt, .. } => {
                feed(socket, &FromWorker::CancelAck { job, attempt }).await
            }
            ToWorker::HeartbeatAck { number, verdicts } => {
                self.acknowledged = self.acknowledged.max(number);
                for verdict in verdicts.iter().filter(|one| one.verdict == Verdict::Stop) {
                    if self.held.remove(&verdict.attempt).is_some() {
                        self.tally.stopped.fetch_add(1, Ordering::AcqRel);
                    }
                }
                Ok(())
            }
            ToWorker::Welcome { .. } | ToWorker::LogAck { .. } | ToWorker::Drain => Ok(()),
        }
    }

    async fn take_job(&mut self, job: JobId, attempt: AttemptId, socket: &mut Socket) -> anyhow::Result<()> {
        if self.held.insert(attempt, job).is_some() {
            return Ok(());
        }
        if let Some(freed) = self.freed.take() {
            lock(&self.tally.freed).push(freed.millis());
        }
        self.tally.saw(job);
        feed(socket, &FromWorker::Started { job, attempt }).await?;
        if self.act == Act::Finish {
            let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
            feed(socket, &FromWorker::Result { job, attempt, report }).await?;
            // With one slot, what comes next is what this result made room for.
            self.freed = (self.slots == 1).then(Stopwatch::start);
        }
        Ok(())
    }

    fn held(&self) -> Vec<HeldAttempt> {
        let held = self.held.iter();
        held.map(|(attempt, job)| HeldAttempt {
            job: *job,
            attempt: *attempt,
        })
        .collect()
    }

    /// Another one at each heartbeat, as a real machine's is.
    fn load(&self) -> Load {
        let turn = u32::try_from((self.beats + self.number as u64) % 90).unwrap_or(0);
        Load {
            cpu_percent: u8::try_from(turn).unwrap_or(0),
            memory_free_mib: 1_000 + turn,
            disk_free_mib: 10_000 + turn,
            running: u32::try_from(self.held.len()).unwrap_or(u32::MAX),
            pulling: Vec::new(),
        }
    }
}

async fn feed(socket: &mut Socket, message: &FromWorker) -> anyhow::Result<()> {
    let text = serde_json::to_string(message)?;
    Ok(socket.feed(Message::text(text)).await?)
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn pause(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = PAUSES.0.saturating_mul(factor).min(PAUSES.1);
    whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

/// As large as its slots need, so that only they bound it.
fn description(slots: u32) -> WorkerDescription {
    WorkerDescription {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: "simulated".to_owned(),
        os: "linux".to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        pool: PoolName::default(),
        labels: std::collections::BTreeMap::new(),
        capacity: Capacity {
            cpu_millis: slots * 1_000,
            memory_mib: slots * 256,
            disk_mib: slots * 1_024,
            slots,
        },
        notes: vec!["simulated".to_owned()],
    }
}
