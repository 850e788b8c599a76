//! One agent's connection: one task over one set of events.
//!
//! What takes long (writes, look-ups for a report) runs beside the loop and comes back as an event; at most one append
//! and one renewal are under way, and a bounded number of reports. While any bound is reached the socket is not read:
//! the agent spools, and nothing here grows. A result is handled only after every chunk received before it is stored.
//!
//! What a message needs of the stores at once is waited for in the loop: what is under way goes on meanwhile, a newer
//! connection ends it, and so does a store that does not answer within the time that the agent waits for a sign.

mod assign;
mod beat;
mod hello;
mod inbound;
mod known;
mod logs;
mod plausible;
mod results;
mod socket;
mod under_way;
mod watch;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::config::LeaseTimes;
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{Job, StateName};
use common::protocol::CloseCode;
use common::store::StoreError;
use common::time::Mono;
use common::worker::Condition;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::beat::{Beaten, Heartbeat};
use self::hello::Opened;
use self::known::Attempts;
use self::logs::ChunkQueue;
pub use self::logs::LENT_BYTES_MAX;
use self::results::{Results, Settled};
pub use self::socket::Line;
use self::socket::{Inbound, Socket};
use self::under_way::UnderWay;
use self::watch::{Due, Watch};
use super::Gateway;
use super::registry::Place;
use super::reports::Answer;

/// Most `started` of one agent that are being written; far above the slots of any node.
const STARTS_UNDER_WAY_MAX: usize = 512;

/// How a connection ends.
#[derive(Debug)]
pub enum End {
    Close(CloseCode, &'static str),
    Gone,
}

const SUPERSEDED: End = End::Close(CloseCode::Superseded, "a newer connection speaks for this worker");

/// As the agent is told.
const STORE_AWAY: End = End::Close(CloseCode::GoingAway, "the store does not answer");

impl From<StoreError> for End {
    /// The agent comes back, perhaps to another replica, and says everything again.
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a connection ends because the store does not answer");
        STORE_AWAY
    }
}

/// What was asked for beside the loop, and has come back.
enum Done {
    Stored(bool),
    Beaten(Box<Beaten>),
    Started(JobId, AttemptId, Answer),
    Ended(AttemptId, Answer),
    Settled(Box<Settled>),
}

/// What the loop does next.
enum Event {
    Heard(Box<Inbound>),
    Done(Done),
    Found(Box<Job>),
    Due,
}

struct Connection {
    gateway: Arc<Gateway>,
    worker: WorkerId,
    session: SessionId,
    conn: u64,
    socket: Socket,
    attempts: Attempts,
    /// On its way to what is under way.
    begun: Vec<BoxFuture<'static, Done>>,
    chunks: ChunkQueue,
    results: Results,
    starts_under_way: usize,
    beating: bool,
    next_beat: Option<Heartbeat>,
    /// The number of the heartbeat read last.
    last_beat: u64,
    /// The heartbeat acknowledged last; the hello is number 0.
    acknowledged: u64,
    /// As the worker's row was told it last.
    condition: Condition,
    load_told: Option<(Mono, Vec<AttemptId>)>,
    /// Held by the rows, in this state, but missing from the last heartbeat, or from the hello.
    missing_once: HashSet<(AttemptId, StateName)>,
    watch: Watch,
}

/// Serves one socket to its end.
pub async fn run(gateway: Arc<Gateway>, worker: WorkerId, line: impl Line + 'static) {
    let mut socket = Socket::new(line, gateway.config.times.pong_deadline);
    let stopping = gateway.tasks.stopping().clone();
    let opened = tokio::select! {
        () = stopping.cancelled() => Err(End::Close(CloseCode::GoingAway, "the gateway stops")),
        opened = hello::open(&gateway, &worker, &mut socket) => opened,
    };
    let (end, socket) = match opened {
        Err(end) => (end, socket),
        Ok(Opened {
            mut place,
            session,
            attempts,
            rows,
            missing,
            condition,
        }) => {
            let mut connection = Connection {
                worker: worker.clone(),
                session: session.id,
                conn: session.conn,
                socket,
                attempts,
                begun: Vec::new(),
                chunks: ChunkQueue::new(Arc::clone(&gateway.lent_to_chunks)),
                results: Results::default(),
                starts_under_way: 0,
                beating: false,
                next_beat: None,
                last_beat: 0,
                acknowledged: 0,
                missing_once: missing,
                condition,
                load_told: None,
                watch: Watch::new(
                    &gateway.config.times,
                    gateway.config.limits.messages_per_second,
                    gateway.clock.mono(),
                ),
                gateway,
            };
            let end = tokio::select! {
                () = stopping.cancelled() => End::Close(CloseCode::GoingAway, "the gateway stops"),
                end = Box::pin(connection.serve(&mut place, rows)) => end,
            };
            (end, connection.socket)
        }
    };
    tracing::info!(%worker, ?end, "a worker's connection ends");
    match end {
        End::Close(code, reason) => socket.close(code, reason).await,
        End::Gone => {}
    }
}

impl Connection {
    async fn serve(&mut self, place: &mut Place, rows: Vec<Job>) -> End {
        match self.events(place, rows).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn events(&mut self, place: &mut Place, rows: Vec<Job>) -> Result<Infallible, End> {
        let mut under_way = UnderWay::new();
        for row in rows {
            self.step(&mut under_way, place, Event::Found(Box::new(row)))
                .await?;
        }
        let mut alarm = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut set_for = None;
        loop {
            under_way.begin(self.begun.drain(..));
            if !self.socket.is_flushed() {
                if !under_way.beside(self.socket.flush()).await {
                    return Err(End::Gone);
                }
                self.watch.said(self.gateway.clock.mono());
            }
            let (reads, now) = (self.reads(), self.gateway.clock.mono());
            self.watch.reads(reads, now);
            let next = self.watch.next();
            if set_for != Some(next) {
                set_for = Some(next);
                alarm.as_mut().reset(Instant::now() + next.since(now));
            }
            let event = tokio::select! {
                inbound = self.socket.next(), if reads => {
                    // Both may have come: what an older connection says is not heard any more.
                    if place.superseded.is_cancelled() {
                        return Err(SUPERSEDED);
                    }
                    Event::Heard(Box::new(inbound))
                }
                done = under_way.next() => Event::Done(done),
                Some(job) = place.found.recv() => Event::Found(job),
                () = place.superseded.cancelled() => return Err(SUPERSEDED),
                () = alarm.as_mut() => {
                    // Where the two clocks differ it is set once more for the rest.
                    set_for = None;
                    Event::Due
                }
            };
            self.step(&mut under_way, place, event).await?;
        }
    }

    /// Does what an event asks for, and ends the connection where that takes longer than its agent waits for a sign:
    /// by then the agent tries another one, perhaps to another replica.
    async fn step(&mut self, under_way: &mut UnderWay<Done>, place: &Place, event: Event) -> Result<(), End> {
        let patience = patience(&self.gateway.config.times);
        let doing = async {
            match event {
                Event::Heard(inbound) => self.inbound(*inbound).await,
                Event::Done(done) => self.done(done),
                Event::Found(job) => self.deliver(*job).await,
                Event::Due => self.due(place).await,
            }
        };
        let done = tokio::select! {
            biased;
            done = under_way.beside(tokio::time::timeout(patience, doing)) => done,
            () = place.superseded.cancelled() => return Err(SUPERSEDED),
        };
        done.unwrap_or_else(|_| Err(overdue(&self.worker, patience)))
    }

    fn done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Stored(stored) => self.chunks_stored(stored),
            Done::Beaten(beaten) => self.beaten(*beaten)?,
            Done::Started(job, attempt, answer) => self.started_answered(job, attempt, answer),
            Done::Ended(attempt, answer) => self.ended(attempt, &answer),
            Done::Settled(settled) => self.settled(*settled),
        }
        Ok(())
    }

    /// Whether more may be read now.
    fn reads(&self) -> bool {
        self.watch.allows()
            && !self.chunks.is_full()
            && !self.results.is_full()
            && self.starts_under_way < STARTS_UNDER_WAY_MAX
    }

    async fn due(&mut self, place: &Place) -> Result<(), End> {
        let now = self.gateway.clock.mono();
        let Due {
            silence,
            ping,
            gap,
            again,
        } = self.watch.due(now);
        if silence {
            // What came while we ourselves stood still was said in time.
            match self.socket.next().now_or_never() {
                Some(_) if place.superseded.is_cancelled() => return Err(SUPERSEDED),
                Some(inbound) => self.inbound(inbound).await?,
                None => return Err(End::Close(CloseCode::TooSlow, "nothing was heard in time")),
            }
        }
        if ping {
            self.socket.ping();
        }
        if gap {
            self.pass_gaps(now);
        }
        if again {
            self.append();
            self.settle();
        }
        Ok(())
    }

    fn begin(&mut self, future: impl Future<Output = Done> + Send + 'static) {
        self.begun.push(Box::pin(future));
    }
}

fn overdue(worker: &WorkerId, patience: Duration) -> End {
    tracing::warn!(%worker, ?patience, "a connection ends because the store has not answered in time");
    STORE_AWAY
}

/// How long an agent waits for a sign before it takes a connection for dead.
fn patience(times: &LeaseTimes) -> Duration {
    times.ping + times.pong_deadline
}
