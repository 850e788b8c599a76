//! An agent that says what the test tells it to say.

use bytes::Bytes;
use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, SessionId};
use common::log::{LogChunk, Stream as LogStream};
use common::protocol::token::{EMPTY_SHA256, Request};
use common::protocol::{
    Assignment, FromWorker, HeldAttempt, PROTOCOL_VERSION, ResultVerdict, TOKEN_HEADER, ToWorker, Verdict,
    VerdictFor, WEBSOCKET_PATH, binary,
};
use common::worker::{Capacity, Condition, Load, WorkerDescription};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::ring::{DEADLINE, Ring};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What has arrived.
#[derive(Debug)]
pub enum Arrived {
    Message(ToWorker),
    Closed(Option<u16>),
}

pub struct Agent {
    pub session: Option<SessionId>,
    pub capacity: Capacity,
    sink: SplitSink<Socket, Message>,
    arrived: mpsc::Receiver<Arrived>,
}

/// Opens a WebSocket with a token; the error where it is refused.
pub async fn open(ring: &Ring, token: &str) -> Result<Socket, Error> {
    let url = format!("ws://{}{WEBSOCKET_PATH}", ring.scheduler.address());
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert(TOKEN_HEADER, token.parse().unwrap());
    // Without Nagle's algorithm, as agents do: small messages must not wait for each other.
    connect_async_with_config(request, None, true)
        .await
        .map(|(socket, _)| socket)
}

pub fn token(ring: &Ring, worker: &str) -> String {
    let request = Request {
        method: "GET",
        path: WEBSOCKET_PATH,
        audience: &ring.config.audience,
        body_sha256: EMPTY_SHA256,
    };
    ring.key(worker).sign(&request, ring.clock.now())
}

impl Agent {
    pub async fn connect(ring: &Ring, worker: &str) -> Self {
        let socket = open(ring, &token(ring, worker)).await.unwrap();
        let (sink, stream) = socket.split();
        let (sender, arrived) = mpsc::channel(4_096);
        ring.tasks.spawn("test agent reader", read(stream, sender));
        let capacity = Capacity {
            cpu_millis: 4_000,
            memory_mib: 4_096,
            disk_mib: 100_000,
            slots: 4,
        };
        Self {
            session: None,
            capacity,
            sink,
            arrived,
        }
    }

    /// Says hello and hears welcome: whether the session was resumed, and the verdicts.
    pub async fn greet(
        &mut self,
        session: Option<SessionId>,
        attempts: Vec<HeldAttempt>,
    ) -> (bool, Vec<VerdictFor>) {
        self.hello(session, attempts).await;
        match self.hear().await {
            ToWorker::Welcome {
                session,
                resumed,
                verdicts,
                ..
            } => {
                self.session = Some(session);
                (resumed, verdicts)
            }
            other => panic!("expected welcome, got {other:?}"),
        }
    }

    pub async fn hello(&mut self, session: Option<SessionId>, attempts: Vec<HeldAttempt>) {
        self.say(&hello_of(self.capacity, session, attempts)).await;
    }

    pub async fn say(&mut self, message: &FromWorker) {
        self.send(Message::text(serde_json::to_string(message).unwrap()))
            .await;
    }

    pub async fn send(&mut self, frame: Message) {
        self.try_send(frame).await.unwrap();
    }

    /// Sends to a gateway that may have closed.
    pub async fn try_send(&mut self, frame: Message) -> Result<(), Error> {
        self.sink.send(frame).await
    }

    pub async fn chunk(&mut self, assignment: &Assignment, stream: LogStream, seq: u64, bytes: &'static str) {
        let chunk = LogChunk {
            attempt: assignment.attempt,
            stream,
            seq,
            bytes: Bytes::from_static(bytes.as_bytes()),
        };
        self.send(Message::Binary(binary::encode(assignment.job, &chunk)))
            .await;
    }

    pub async fn start(&mut self, assignment: &Assignment) {
        self.say(&FromWorker::Started {
            job: assignment.job,
            attempt: assignment.attempt,
        })
        .await;
    }

    pub async fn finish(&mut self, assignment: &Assignment, report: &AttemptReport) {
        let report = Box::new(report.clone());
        self.say(&FromWorker::Result {
            job: assignment.job,
            attempt: assignment.attempt,
            report,
        })
        .await;
    }

    /// Reports an exit and hears what became of it.
    pub async fn exit(&mut self, assignment: &Assignment, code: i32) -> ResultVerdict {
        self.finish(assignment, &AttemptReport::bare(Outcome::Exited { code }))
            .await;
        self.hear_verdict(assignment.attempt).await
    }

    /// Beats, and hears the verdicts.
    pub async fn beat(&mut self, number: u64, attempts: Vec<HeldAttempt>) -> Vec<(AttemptId, Verdict)> {
        let (condition, load) = (Condition::Ready, Load::default());
        self.say(&FromWorker::Heartbeat {
            number,
            attempts,
            condition,
            draining: false,
            load,
        })
        .await;
        loop {
            if let ToWorker::HeartbeatAck {
                number: acknowledged,
                verdicts,
            } = self.hear().await
                && acknowledged == number
            {
                return verdicts
                    .into_iter()
                    .map(|verdict| (verdict.attempt, verdict.verdict))
                    .collect();
            }
        }
    }

    pub async fn arrived(&mut self) -> Arrived {
        let arrived = tokio::time::timeout(DEADLINE, self.arrived.recv()).await;
        arrived
            .expect("nothing arrived in time")
            .expect("the reader tells the end first")
    }

    pub async fn hear(&mut self) -> ToWorker {
        match self.arrived().await {
            Arrived::Message(message) => message,
            Arrived::Closed(code) => panic!("closed with {code:?}"),
        }
    }

    /// The code that the gateway closes with; what it says before is passed over.
    pub async fn hear_close(&mut self) -> Option<u16> {
        loop {
            if let Arrived::Closed(code) = self.arrived().await {
                return code;
            }
        }
    }

    pub async fn hear_assignment(&mut self) -> Assignment {
        loop {
            if let ToWorker::JobAssign(assignment) = self.hear().await {
                return *assignment;
            }
        }
    }

    pub async fn hear_cancel(&mut self) -> (JobId, AttemptId) {
        loop {
            if let ToWorker::Cancel { job, attempt, .. } = self.hear().await {
                return (job, attempt);
            }
        }
    }

    pub async fn hear_verdict(&mut self, of: AttemptId) -> ResultVerdict {
        loop {
            if let ToWorker::ResultAck { attempt, verdict, .. } = self.hear().await
                && attempt == of
            {
                return verdict;
            }
        }
    }

    /// The next acknowledgement of a stream: its number, and whether it is stale.
    pub async fn hear_log_ack(&mut self, of: LogStream) -> (u64, bool) {
        loop {
            if let ToWorker::LogAck {
                stream, seq, stale, ..
            } = self.hear().await
                && stream == of
            {
                return (seq, stale);
            }
        }
    }

    /// Everything that has arrived by now.
    pub fn heard_already(&mut self) -> Vec<Arrived> {
        std::iter::from_fn(|| self.arrived.try_recv().ok()).collect()
    }
}

pub fn held(assignment: &Assignment) -> HeldAttempt {
    HeldAttempt {
        job: assignment.job,
        attempt: assignment.attempt,
    }
}

/// The hello of a worker that is given no work.
pub fn hello(session: Option<SessionId>, attempts: Vec<HeldAttempt>) -> FromWorker {
    let nothing = Capacity {
        cpu_millis: 1,
        memory_mib: 1,
        disk_mib: 1,
        slots: 0,
    };
    hello_of(nothing, session, attempts)
}

fn hello_of(capacity: Capacity, session: Option<SessionId>, attempts: Vec<HeldAttempt>) -> FromWorker {
    FromWorker::Hello {
        protocol: PROTOCOL_VERSION,
        session,
        description: description(capacity),
        condition: Condition::Ready,
        draining: false,
        attempts,
    }
}

fn description(capacity: Capacity) -> WorkerDescription {
    WorkerDescription {
        version: "0.1.0".into(),
        hostname: "node".into(),
        os: "linux".into(),
        architecture: "x86_64".into(),
        pool: Default::default(),
        labels: Default::default(),
        capacity,
        notes: vec![],
    }
}

async fn read(mut stream: SplitStream<Socket>, sender: mpsc::Sender<Arrived>) {
    let mut closed = None;
    while let Some(Ok(frame)) = stream.next().await {
        match frame {
            Message::Text(text) => {
                let message = serde_json::from_str(text.as_str()).unwrap();
                if sender.send(Arrived::Message(message)).await.is_err() {
                    return;
                }
            }
            Message::Close(frame) => closed = frame.map(|frame| u16::from(frame.code)),
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
    let _ = sender.send(Arrived::Closed(closed)).await;
}

impl Agent {
    /// Reports success; assignments that arrive before the answer are kept.
    pub async fn exit_keeping(
        &mut self,
        assignment: &Assignment,
        kept: &mut Vec<Assignment>,
    ) -> ResultVerdict {
        self.finish(assignment, &AttemptReport::bare(Outcome::Exited { code: 0 }))
            .await;
        loop {
            match self.hear().await {
                ToWorker::JobAssign(another) => kept.push(*another),
                ToWorker::ResultAck { attempt, verdict, .. } if attempt == assignment.attempt => {
                    return verdict;
                }
                _ => {}
            }
        }
    }
}
