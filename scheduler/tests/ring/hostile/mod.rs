//! A worker with a good key that means harm: whatever it sends is refused, its connection is closed with the code for
//! it, no row changes, and no memory grows.

mod floods;
mod forged;
mod frames;
mod order;

use common::ids::{JobId, SessionId};
use common::job::{Job, StateName};
use common::lifecycle::testing::spec;
use common::protocol::{Assignment, CloseCode, FromWorker, HeldAttempt};
use common::worker::{Condition, Load, Session, Worker};
use tokio_tungstenite::tungstenite::Message;

use crate::agent::{Agent, Arrived};
use crate::ring::Ring;

const BAD: Option<u16> = Some(CloseCode::BadMessage.code());
const TOO_LARGE: Option<u16> = Some(CloseCode::FrameTooLarge.code());
const NOT_YOURS: Option<u16> = Some(CloseCode::NotYours.code());

/// A job that runs on an honest worker, and everything that a hostile one has to leave as it is.
struct Victim {
    agent: Agent,
    assignment: Assignment,
    beats: u64,
    before: Rows,
}

#[derive(Debug, PartialEq)]
struct Rows {
    job: Job,
    chunks: u64,
    session: Session,
    worker: Worker,
}

impl Victim {
    async fn start(ring: &Ring) -> Self {
        let mut agent = ring.agent("victim").await;
        let id = ring.submit(spec()).await;
        let assignment = agent.hear_assignment().await;
        agent.start(&assignment).await;
        ring.job_becomes(id, StateName::Running).await;
        let before = rows(ring, id, &agent).await;
        Self {
            agent,
            assignment,
            beats: 0,
            before,
        }
    }

    /// No row has changed.
    async fn is_unchanged(&self, ring: &Ring, after: &str) {
        let now = rows(ring, self.assignment.job, &self.agent).await;
        assert_eq!(now, self.before, "after {after}");
    }

    /// The honest worker is served as if nothing had happened.
    async fn goes_on(&mut self) {
        self.beats += 1;
        let held = vec![crate::agent::held(&self.assignment)];
        assert_eq!(self.agent.beat(self.beats, held).await.len(), 1);
    }
}

async fn rows(ring: &Ring, id: JobId, agent: &Agent) -> Rows {
    let job = ring.job(id).await;
    let attempt = job.state.attempt().unwrap();
    let extent = ring.stores.logs.extent(attempt).await.unwrap();
    let session: SessionId = agent.session.unwrap();
    let worker = job.state.lease().unwrap().worker.clone();
    let sessions = ring.stores.workers.sessions(&[session]).await.unwrap();
    Rows {
        job,
        chunks: extent.stdout.chunks + extent.stderr.chunks,
        session: sessions[0].clone(),
        worker: ring.stores.workers.get(&worker).await.unwrap().unwrap(),
    }
}

/// A connected worker that is given no work.
async fn hostile(ring: &Ring) -> Agent {
    let mut agent = Agent::connect(ring, "hostile").await;
    agent.capacity.slots = 0;
    agent.greet(None, vec![]).await;
    agent
}

fn heartbeat(number: u64, attempts: Vec<HeldAttempt>) -> FromWorker {
    FromWorker::Heartbeat {
        number,
        attempts,
        condition: Condition::Ready,
        draining: false,
        load: Load::default(),
    }
}

fn text(message: &FromWorker) -> Message {
    Message::text(serde_json::to_string(message).unwrap())
}

/// Waits until everything said before was heard: the connection goes on (none), or closes with a code.
async fn ends_with(agent: &mut Agent, number: u64) -> Option<u16> {
    let _ = agent.try_send(text(&heartbeat(number, vec![]))).await;
    loop {
        match agent.arrived().await {
            Arrived::Message(common::protocol::ToWorker::HeartbeatAck { number: heard, .. })
                if heard == number =>
            {
                return None;
            }
            Arrived::Message(_) => {}
            Arrived::Closed(code) => return Some(code.unwrap_or(0)),
        }
    }
}

/// Resident memory of this process, in bytes. A test has a process of its own.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Random numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() >> 33) as usize % end.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.roll() >> 56) as u8).collect()
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }
}
