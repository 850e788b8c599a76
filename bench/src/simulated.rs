//! Agents without containers: a real WebSocket, real messages, and jobs that end the moment they are assigned. What
//! is left is what the control plane costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, PoolName};
use common::protocol::token::{EMPTY_SHA256, Request, WorkerKey};
use common::protocol::{
    FromWorker, HELD_ATTEMPTS_MAX, HeldAttempt, PROTOCOL_VERSION, ResultVerdict, TOKEN_HEADER, ToWorker,
    WEBSOCKET_PATH,
};
use common::tasks::Tasks;
use common::time::{Clock, SystemClock};
use common::worker::{Capacity, Condition, Load, WorkerDescription};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::server::Server;

/// Most messages that are answered before they are flushed: what one read of the socket brings.
const TOGETHER_MAX: usize = 256;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What the agents saw, together.
#[derive(Debug, Default)]
pub struct Tally {
    assigned: AtomicU64,
    accepted: AtomicU64,
    stale: AtomicU64,
}

impl Tally {
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    pub fn stale(&self) -> u64 {
        self.stale.load(Ordering::Acquire)
    }
}

/// Starts agents and waits until the API shows them; they end with `tasks`.
///
/// # Errors
/// A connection is refused.
pub async fn start(server: &Server, agents: usize, slots: u32, tasks: &Tasks) -> anyhow::Result<Arc<Tally>> {
    let tally = Arc::new(Tally::default());
    let held_max = u32::try_from(HELD_ATTEMPTS_MAX)?;
    anyhow::ensure!(
        slots <= held_max,
        "a heartbeat lists at most {held_max} attempts: ask for fewer slots"
    );
    for number in 0..agents {
        let key = server.worker_key(&format!("simulated-{number}"))?;
        let agent = SimulatedAgent::connect(&server.workers, &key, slots, Arc::clone(&tally)).await?;
        let stopping = tasks.stopping().clone();
        tasks.spawn("simulated agent", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                ended = agent.serve() => {
                    if let Err(error) = ended {
                        eprintln!("a simulated agent ended: {error:#}");
                    }
                }
            }
        });
    }
    server.client.wait_for_workers(agents).await?;
    Ok(tally)
}

struct SimulatedAgent {
    socket: Socket,
    held: HashMap<AttemptId, JobId>,
    tally: Arc<Tally>,
    heartbeat: std::time::Duration,
    beats: u64,
}

impl SimulatedAgent {
    async fn connect(workers: &str, key: &WorkerKey, slots: u32, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let authority = workers
            .split("://")
            .last()
            .unwrap_or(workers)
            .trim_end_matches('/');
        let token = key.sign(
            &Request {
                method: "GET",
                path: WEBSOCKET_PATH,
                audience: "jobworker",
                body_sha256: EMPTY_SHA256,
            },
            SystemClock.now(),
        );
        let mut request = format!("ws://{authority}{WEBSOCKET_PATH}").into_client_request()?;
        request.headers_mut().insert(TOKEN_HEADER, token.parse()?);
        let (socket, _) = tokio_tungstenite::connect_async_with_config(request, None, true)
            .await
            .context("connecting an agent")?;
        let mut agent = Self {
            socket,
            held: HashMap::new(),
            tally,
            heartbeat: std::time::Duration::from_secs(5),
            beats: 0,
        };
        let hello = FromWorker::Hello {
            protocol: PROTOCOL_VERSION,
            session: None,
            description: description(slots),
            condition: Condition::Ready,
            draining: false,
            attempts: Vec::new(),
        };
        agent.feed(&hello).await?;
        agent.socket.flush().await?;
        Ok(agent)
    }

    async fn serve(mut self) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.tick().await;
        loop {
            tokio::select! {
                message = self.socket.next() => {
                    let message = message.context("the gateway is gone")??;
                    self.take(message, &mut ticks).await?;
                    self.take_what_is_there(&mut ticks).await?;
                }
                _ = ticks.tick() => {
                    self.beats += 1;
                    let attempts = self.held.iter().map(|(attempt, job)| HeldAttempt { job: *job, attempt: *attempt });
                    let heartbeat = FromWorker::Heartbeat {
                        number: self.beats,
                        attempts: attempts.collect(),
                        condition: Condition::Ready,
                        draining: false,
                        load: Load::default(),
                    };
                    self.feed(&heartbeat).await?;
                }
            }
            self.socket.flush().await?;
        }
    }

    /// Answers what has already come, so that one flush serves all of it.
    async fn take_what_is_there(&mut self, ticks: &mut tokio::time::Interval) -> anyhow::Result<()> {
        for _ in 0..TOGETHER_MAX {
            let Some(message) = futures_util::FutureExt::now_or_never(self.socket.next()) else {
                return Ok(());
            };
            let message = message.context("the gateway is gone")??;
            self.take(message, ticks).await?;
        }
        Ok(())
    }

    async fn take(&mut self, message: Message, ticks: &mut tokio::time::Interval) -> anyhow::Result<()> {
        match message {
            Message::Text(text) => self.answer(serde_json::from_str(&text)?, ticks).await,
            Message::Close(frame) => anyhow::bail!("the gateway closed the connection: {frame:?}"),
            // the library answers pings by itself
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn answer(&mut self, message: ToWorker, ticks: &mut tokio::time::Interval) -> anyhow::Result<()> {
        match message {
            ToWorker::Welcome { settings, .. } => {
                self.heartbeat = settings.heartbeat;
                *ticks = tokio::time::interval(self.heartbeat);
                ticks.tick().await;
            }
            ToWorker::JobAssign(assignment) => {
                let (job, attempt) = (assignment.job, assignment.attempt);
                if self.held.insert(attempt, job).is_none() {
                    self.tally.assigned.fetch_add(1, Ordering::AcqRel);
                    self.feed(&FromWorker::Started { job, attempt }).await?;
                    let report = Box::new(AttemptReport::bare(Outcome::Exited { code: 0 }));
                    self.feed(&FromWorker::Result { job, attempt, report }).await?;
                }
            }
            ToWorker::ResultAck { attempt, verdict, .. } => {
                self.held.remove(&attempt);
                let counter = match verdict {
                    ResultVerdict::Accepted => &self.tally.accepted,
                    ResultVerdict::Stale => &self.tally.stale,
                };
                counter.fetch_add(1, Ordering::AcqRel);
            }
            ToWorker::Cancel { job, attempt, .. } => {
                self.feed(&FromWorker::CancelAck { job, attempt }).await?
            }
            ToWorker::HeartbeatAck { .. } | ToWorker::LogAck { .. } | ToWorker::Drain => {}
        }
        Ok(())
    }

    async fn feed(&mut self, message: &FromWorker) -> anyhow::Result<()> {
        let text = serde_json::to_string(message)?;
        Ok(self.socket.feed(Message::text(text)).await?)
    }
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
