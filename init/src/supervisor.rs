//! What the agent's words, the engine's signals and time do: waiting, a job alive, ended.
//!
//! Invariants: at most one job is ever run; once a deadline has passed nothing of the job is left a grace later;
//! the ending is given its number after all output.

use std::process::ExitCode;

use jobworker_init::protocol::{
    Command, ControlLine, EndedBy, Frame, Gate, NotStarted, NotStartedReason, PROTOCOL_VERSION, Phase, Ready,
    Run, Started,
};

use crate::{
    job::{Job, Step},
    outbox::{Outbox, Unnumbered},
    spawn,
    sys::{
        clock,
        fd::Moved,
        process::{self, Pid},
        signals::Heard,
    },
};

/// How long init stays after the ending at least, though its deadline passed: the agent may be only a little
/// late, and the job is dead already.
const FAREWELL_MS: u64 = 2_000;
const PID_1: Pid = 1;

/// Why init leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// The agent said so.
    Bye,
    /// Nobody came in time, or the engine sent it away.
    Abandoned,
}

impl Leave {
    pub fn code(self) -> ExitCode {
        match self {
            Self::Bye => ExitCode::SUCCESS,
            Self::Abandoned => ExitCode::from(75),
        }
    }
}

enum State {
    Waiting,
    Live(Box<Job>),
    Ended { at_ms: u64, started_at_ms: Option<u64> },
}

pub struct Supervisor {
    outbox: Outbox,
    gate: Gate,
    state: State,
    deadline_ms: u64,
    engine_asked_at_ms: Option<u64>,
    last_tick_ms: u64,
    /// Whether the ring was full at the last tick, and so during the sleep that followed.
    was_full: bool,
    pid_1: bool,
}

impl Supervisor {
    pub fn new(ring_bytes: usize, wait_until_ms: u64, now: u64) -> Self {
        Self {
            outbox: Outbox::new(ring_bytes),
            gate: Gate::default(),
            state: State::Waiting,
            deadline_ms: wait_until_ms,
            engine_asked_at_ms: None,
            last_tick_ms: now,
            was_full: false,
            pid_1: process::own_pid() == PID_1,
        }
    }

    /// The job while it lives.
    pub fn job(&self) -> Option<&Job> {
        match &self.state {
            State::Live(job) => Some(job),
            State::Waiting | State::Ended { .. } => None,
        }
    }

    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub fn obey(&mut self, line: ControlLine, now: u64) -> Option<Leave> {
        if !self.gate.admit(line.generation) {
            return None;
        }
        match line.command {
            Command::Run(run) => self.start(&run, now),
            Command::Deadline { at_ms } => self.deadline_ms = at_ms,
            Command::Stop { why } => match &mut self.state {
                State::Waiting => self.never_ran(NotStartedReason::Stopped, now),
                State::Live(job) => job.stop(EndedBy::Stop { why }, now),
                State::Ended { .. } => {}
            },
            Command::Ack { seq } => self.outbox.ack(seq),
            Command::Resume { seq } => {
                let started = self.started_at_ms().is_some();
                self.outbox.resume(seq, started);
            }
            Command::Bye => match self.state {
                State::Waiting | State::Ended { .. } => return Some(Leave::Bye),
                State::Live(_) => {}
            },
        }
        None
    }

    pub fn hear(&mut self, heard: Heard, now: u64) {
        if heard.engine_asked {
            self.engine_asked_at_ms.get_or_insert(now);
            if let State::Live(job) = &mut self.state {
                job.stop(EndedBy::Engine, now);
            }
        }
        if heard.child_ended {
            match &mut self.state {
                State::Live(job) => {
                    let step = job.reap(now);
                    self.take(step, now);
                }
                State::Waiting | State::Ended { .. } => {
                    while let process::Reaped::Child(..) = process::reap_one() {}
                }
            }
        }
    }

    /// What the job's descriptors have to say.
    pub fn relay(&mut self, now: u64) {
        if let State::Live(job) = &mut self.state {
            let step = job.look_at_verdict(now);
            job.relay(&mut self.outbox);
            self.take(step, now);
        }
    }

    pub fn tick(&mut self, now: u64) -> Option<Leave> {
        // an agent that is away must not use up the time in which output may still come
        let counted_ms = if self.was_full {
            0
        } else {
            now.saturating_sub(self.last_tick_ms)
        };
        self.last_tick_ms = now;
        self.was_full = self.outbox.is_full();
        let overdue = now >= self.deadline_ms;
        match &mut self.state {
            State::Waiting => (overdue || self.engine_asked_at_ms.is_some()).then_some(Leave::Abandoned),
            State::Live(job) => {
                if overdue {
                    job.stop(EndedBy::Deadline, now);
                }
                let step = job.tick(now, counted_ms, &mut self.outbox);
                self.take(step, now);
                // everything is dead and nobody takes the rest of its output any more
                let deserted = self
                    .job()
                    .is_some_and(|job| job.cleared_for_ms(now) >= FAREWELL_MS)
                    && self.outbox.is_full()
                    && overdue;
                deserted.then_some(Leave::Abandoned)
            }
            State::Ended { .. } => (now >= self.leave_at_ms()).then_some(Leave::Abandoned),
        }
    }

    /// When `tick` has something to do next, if nothing else happens.
    pub fn next_tick_ms(&self, now: u64) -> u64 {
        match &self.state {
            State::Waiting => self.deadline_ms,
            State::Live(job) => {
                let deadline = (!job.stopping()).then_some(self.deadline_ms);
                deadline
                    .into_iter()
                    .chain(job.next_tick_ms(now, &self.outbox))
                    .min()
                    .unwrap_or(u64::MAX)
            }
            State::Ended { .. } => self.leave_at_ms(),
        }
    }

    /// Writes as much as `write` takes.
    pub fn flush(&mut self, write: impl FnMut(&[u8]) -> Moved) -> Moved {
        let phase = match self.state {
            State::Waiting => Phase::Waiting,
            State::Live(_) => Phase::Running,
            State::Ended { .. } => Phase::Ended,
        };
        let (generation, acked_seq, last_seq) = (
            self.gate.highest(),
            self.outbox.acked_seq(),
            self.outbox.last_seq(),
        );
        let started_at_ms = self.started_at_ms().unwrap_or(0);
        let unnumbered = |kind| match kind {
            Unnumbered::Ready => Frame::Ready(Ready {
                protocol: PROTOCOL_VERSION,
                boot_clock_ms: clock::boot_ms(),
                phase,
                generation,
                acked_seq,
                last_seq,
            }),
            Unnumbered::Started => Frame::Started(Started {
                boot_clock_ms: started_at_ms,
            }),
        };
        self.outbox.flush(unnumbered, write)
    }

    fn start(&mut self, run: &Run, now: u64) {
        let State::Waiting = self.state else { return };
        self.deadline_ms = run.deadline_ms;
        if now >= run.deadline_ms {
            return self.never_ran(NotStartedReason::DeadlinePassed, now);
        }
        match spawn::spawn(run) {
            Ok(spawned) => self.state = State::Live(Box::new(Job::new(run, spawned, self.pid_1))),
            Err(reason) => self.never_ran(reason, now),
        }
    }

    fn never_ran(&mut self, reason: NotStartedReason, now: u64) {
        self.outbox
            .push_ending(|seq, totals| Frame::NotStarted(NotStarted { seq, reason, totals }));
        self.state = State::Ended {
            at_ms: now,
            started_at_ms: None,
        };
    }

    fn take(&mut self, step: Step, now: u64) {
        match step {
            Step::Nothing => {}
            Step::Started => self.outbox.started(),
            Step::Ended => {
                let started_at_ms = self.started_at_ms();
                self.state = State::Ended {
                    at_ms: now,
                    started_at_ms,
                };
            }
        }
    }

    fn started_at_ms(&self) -> Option<u64> {
        match &self.state {
            State::Waiting => None,
            State::Live(job) => job.started_at_ms(),
            State::Ended { started_at_ms, .. } => *started_at_ms,
        }
    }

    fn leave_at_ms(&self) -> u64 {
        let State::Ended { at_ms, .. } = self.state else {
            return u64::MAX;
        };
        match self.engine_asked_at_ms {
            Some(asked) => asked.max(at_ms) + FAREWELL_MS,
            None => self.deadline_ms.max(at_ms + FAREWELL_MS),
        }
    }
}
