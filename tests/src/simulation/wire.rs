//! Connections between agents and gateways without sockets: frames in order, late, held up, cut, said twice.
//!
//! What stands above the socket is the programs' own: the agent's reader and writer, the gateway's connection. A frame
//! travels as text or bytes, so what they say is encoded and read for real.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws;
use bytes::Bytes;
use common::protocol::{FromWorker, ResultVerdict, ToWorker};
use common::tasks::Tasks;
use futures_util::{Sink, Stream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::PollSender;

use super::checker::{Checker, STALE_RESULT};
use super::dice::Dice;
use super::plan::Faults;
use super::store::held;

/// Frames that a peer may be behind by, in each direction.
const BUFFERED: usize = 64;

/// Old frames that may be said again.
const REMEMBERED: usize = 32;

#[derive(Debug, Clone)]
pub enum Frame {
    Text(String),
    Binary(Bytes),
    Ping,
    Pong,
    Close(Option<(u16, String)>),
}

impl From<ws::Message> for Frame {
    fn from(message: ws::Message) -> Self {
        match message {
            ws::Message::Text(text) => Self::Text(text.to_string()),
            ws::Message::Binary(bytes) => Self::Binary(bytes),
            ws::Message::Ping(_) => Self::Ping,
            ws::Message::Pong(_) => Self::Pong,
            ws::Message::Close(frame) => {
                Self::Close(frame.map(|frame| (frame.code, frame.reason.to_string())))
            }
        }
    }
}

impl From<Frame> for ws::Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
            Frame::Ping => Self::Ping(Bytes::new()),
            Frame::Pong => Self::Pong(Bytes::new()),
            Frame::Close(frame) => Self::Close(frame.map(|(code, reason)| ws::CloseFrame {
                code,
                reason: reason.into(),
            })),
        }
    }
}

impl From<tungstenite::Message> for Frame {
    fn from(message: tungstenite::Message) -> Self {
        use tungstenite::Message as From;
        match message {
            From::Text(text) => Self::Text(text.to_string()),
            From::Binary(bytes) => Self::Binary(bytes),
            From::Ping(_) => Self::Ping,
            From::Pong(_) | From::Frame(_) => Self::Pong,
            From::Close(frame) => {
                Self::Close(frame.map(|frame| (frame.code.into(), frame.reason.to_string())))
            }
        }
    }
}

impl From<Frame> for tungstenite::Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text.into()),
            Frame::Binary(bytes) => Self::Binary(bytes),
            Frame::Ping => Self::Ping(Bytes::new()),
            Frame::Pong => Self::Pong(Bytes::new()),
            Frame::Close(frame) => {
                Self::Close(frame.map(|(code, reason)| tungstenite::protocol::CloseFrame {
                    code: code.into(),
                    reason: reason.into(),
                }))
            }
        }
    }
}

/// One end of a connection, in the words of whoever holds it. A ping is answered by whoever reads it.
pub struct End<M, E> {
    incoming: mpsc::Receiver<Frame>,
    outgoing: PollSender<Frame>,
    broken: fn() -> E,
    words: PhantomData<fn() -> M>,
}

impl<M: From<Frame>, E> Stream for End<M, E> {
    type Item = Result<M, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(context).map(|frame| {
            let frame = frame?;
            if matches!(frame, Frame::Ping)
                && let Some(sender) = self.outgoing.get_ref()
            {
                // A line that takes nothing more shows its peer just that.
                let _ = sender.try_send(Frame::Pong);
            }
            Some(Ok(frame.into()))
        })
    }
}

impl<M: Into<Frame>, E> Sink<M> for End<M, E> {
    type Error = E;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.outgoing.poll_reserve(context).map_err(|_| (self.broken)())
    }

    fn start_send(mut self: Pin<&mut Self>, message: M) -> Result<(), E> {
        self.outgoing
            .send_item(message.into())
            .map_err(|_| (self.broken)())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

pub type AgentEnd = End<tungstenite::Message, tungstenite::Error>;
pub type GatewayEnd = End<ws::Message, axum::Error>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Open,
    /// Nothing passes, and nobody is told.
    Held,
    Cut,
}

/// Whoever holds it makes the line's weather. Ways: from the agent up, from the gateway down.
#[derive(Debug)]
pub struct Weather {
    pub agent: u32,
    pub up: watch::Sender<Mode>,
    pub down: watch::Sender<Mode>,
}

impl Weather {
    pub fn set(&self, mode: Mode) {
        self.up.send_replace(mode);
        self.down.send_replace(mode);
    }

    pub fn is_over(&self) -> bool {
        self.up.is_closed() && self.down.is_closed()
    }
}

/// What every line of a simulation shares.
pub struct Lines {
    pub dice: Arc<Dice>,
    pub faults: Faults,
    /// False once everything is mended.
    pub faulty: std::sync::atomic::AtomicBool,
    pub checker: Arc<Checker>,
    pub carriers: Tasks,
    numbers: std::sync::atomic::AtomicU64,
    /// By agent and way, what was said before.
    said: Mutex<std::collections::BTreeMap<(u32, &'static str), VecDeque<Frame>>>,
}

impl Lines {
    pub fn new(dice: Arc<Dice>, faults: Faults, checker: Arc<Checker>, carriers: Tasks) -> Self {
        Self {
            dice,
            faults,
            faulty: true.into(),
            checker,
            carriers,
            numbers: 0.into(),
            said: Mutex::default(),
        }
    }

    /// A new connection of an agent.
    pub fn connect(self: &Arc<Self>, agent: u32) -> (AgentEnd, GatewayEnd, Weather) {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let (agent_out, up_in) = mpsc::channel(BUFFERED);
        let (up_out, gateway_in) = mpsc::channel(BUFFERED);
        let (gateway_out, down_in) = mpsc::channel(BUFFERED);
        let (down_out, agent_in) = mpsc::channel(BUFFERED);
        let (up, up_mode) = watch::channel(Mode::Open);
        let (down, down_mode) = watch::channel(Mode::Open);
        let carry = |way, from, to, mode| Way {
            lines: Arc::clone(self),
            agent,
            number,
            way,
            from,
            to,
            mode,
        };
        let (up_way, down_way) = (
            carry("up", up_in, up_out, up_mode),
            carry("down", down_in, down_out, down_mode),
        );
        self.carriers.spawn("up", up_way.carry());
        self.carriers.spawn("down", down_way.carry());
        let agent_end = End {
            incoming: agent_in,
            outgoing: PollSender::new(agent_out),
            broken: || tungstenite::Error::ConnectionClosed,
            words: PhantomData,
        };
        let gateway_end = End {
            incoming: gateway_in,
            outgoing: PollSender::new(gateway_out),
            broken: || axum::Error::new(std::io::Error::other("the line is cut")),
            words: PhantomData,
        };
        (agent_end, gateway_end, Weather { agent, up, down })
    }

    fn is_faulty(&self) -> bool {
        self.faulty.load(std::sync::atomic::Ordering::SeqCst)
    }
}

struct Way {
    lines: Arc<Lines>,
    agent: u32,
    number: u64,
    way: &'static str,
    from: mpsc::Receiver<Frame>,
    to: mpsc::Sender<Frame>,
    mode: watch::Receiver<Mode>,
}

impl Way {
    /// Until either side is gone, or the line is cut.
    async fn carry(mut self) {
        loop {
            let frame = tokio::select! {
                biased;
                () = is(&mut self.mode, |mode| mode == Mode::Cut) => return,
                frame = self.from.recv() => frame,
                () = self.to.closed() => return,
            };
            let Some(frame) = frame else { return };
            self.note(&frame);
            let travel = self.lines.dice.millis(0, self.lines.faults.frame_max);
            let open = open_after(self.mode.clone(), travel);
            tokio::select! {
                biased;
                () = is(&mut self.mode, |mode| mode == Mode::Cut) => return,
                () = open => {}
            }
            for copy in self.copies(frame) {
                if self.to.send(copy).await.is_err() {
                    return;
                }
            }
        }
    }

    /// What arrives in a frame's place.
    fn copies(&self, frame: Frame) -> Vec<Frame> {
        // Said once: the first words of either side, and heartbeats, which are counted.
        const ONCE: [&str; 3] = ["hello", "welcome", "heartbeat"];
        let may_repeat = match &frame {
            Frame::Text(text) => !ONCE
                .iter()
                .any(|word| text.starts_with(&format!(r#"{{"type":"{word}","#))),
            Frame::Binary(_) => true,
            Frame::Ping | Frame::Pong | Frame::Close(_) => false,
        };
        if !may_repeat {
            return vec![frame];
        }
        let (dice, faults) = (&self.lines.dice, &self.lines.faults);
        let mut said = held(&self.lines.said);
        let said = said.entry((self.agent, self.way)).or_default();
        let mut copies = vec![frame.clone()];
        if self.lines.is_faulty() {
            if dice.chance(faults.frame_twice) {
                copies.push(frame.clone());
                self.lines.checker.history.count("frame twice");
            }
            if dice.chance(faults.frame_again)
                && let Some(old) = dice.pick(said.make_contiguous())
            {
                copies.push(old.clone());
                self.lines.checker.history.count("frame again");
            }
        }
        said.push_back(frame);
        if said.len() > REMEMBERED {
            said.pop_front();
        }
        copies
    }

    fn note(&self, frame: &Frame) {
        let (history, way) = (&self.lines.checker.history, self.way);
        let at = format!("line {} of agent {} {way}", self.number, self.agent);
        match frame {
            Frame::Text(text) if way == "up" => match serde_json::from_str::<FromWorker>(text) {
                Ok(message) => {
                    history.note(format_args!("{at}: {}", up_words(&message)));
                    if let FromWorker::Result { attempt, report, .. } = message {
                        self.lines.checker.reported(attempt, report.hash());
                    }
                }
                Err(error) => self
                    .lines
                    .checker
                    .history
                    .violated(format!("{at}: unreadable: {error}")),
            },
            Frame::Text(text) => match serde_json::from_str::<ToWorker>(text) {
                Ok(message) => {
                    history.note(format_args!("{at}: {}", down_words(&message)));
                    if let ToWorker::ResultAck {
                        verdict: ResultVerdict::Stale,
                        ..
                    } = message
                    {
                        history.count(STALE_RESULT);
                    }
                }
                Err(error) => history.violated(format!("{at}: unreadable: {error}")),
            },
            Frame::Binary(bytes) => history.note(format_args!("{at}: {} bytes", bytes.len())),
            Frame::Close(frame) => history.note(format_args!("{at}: close {frame:?}")),
            Frame::Ping | Frame::Pong => {}
        }
    }
}

fn up_words(message: &FromWorker) -> String {
    match message {
        FromWorker::Hello {
            session, attempts, ..
        } => format!("hello {session:?} with {}", attempts.len()),
        FromWorker::Heartbeat { number, attempts, .. } => {
            format!("heartbeat {number} with {}", attempts.len())
        }
        FromWorker::Started { attempt, .. } => format!("started {attempt}"),
        FromWorker::CancelAck { attempt, .. } => format!("cancel-ack {attempt}"),
        FromWorker::LogChunk { attempt, seq, .. } => format!("chunk {seq} of {attempt}"),
        FromWorker::Result { attempt, report, .. } => format!("result {attempt} {:?}", report.outcome),
    }
}

fn down_words(message: &ToWorker) -> String {
    match message {
        ToWorker::Welcome { session, resumed, .. } => format!("welcome {session} resumed {resumed}"),
        ToWorker::JobAssign(assignment) => format!("assign {} {}", assignment.job, assignment.attempt),
        ToWorker::Cancel { attempt, .. } => format!("cancel {attempt}"),
        ToWorker::HeartbeatAck { number, verdicts } => format!("heartbeat-ack {number} {verdicts:?}"),
        ToWorker::LogAck {
            attempt,
            stream,
            seq,
            stale,
            ..
        } => format!("log-ack {attempt} {stream:?} {seq} {stale}"),
        ToWorker::ResultAck { attempt, verdict, .. } => format!("result-ack {attempt} {verdict:?}"),
        ToWorker::Drain => "drain".to_owned(),
    }
}

async fn is(mode: &mut watch::Receiver<Mode>, wanted: impl Fn(Mode) -> bool) {
    if mode.wait_for(|mode| wanted(*mode)).await.is_err() {
        // Nobody makes weather any more: it stays as it is.
        std::future::pending().await
    }
}

async fn open_after(mut mode: watch::Receiver<Mode>, travel: Duration) {
    tokio::time::sleep(travel).await;
    is(&mut mode, |mode| mode == Mode::Open).await;
}
