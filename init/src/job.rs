//! The job while it lives: its main process, its pipes, and the stages of its end.
//!
//! `Starting` until it is known whether the command runs, `Running` until the main process ends, `Lingering` while
//! others hold its pipes, `Clearing` once everything was killed. Nobody waits for a lifeless thing for ever: a
//! process that even KILL does not move is given up after a while, and said to be over.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use jobworker_init::protocol::{
    CHUNK_BYTES_MAX, EndedBy, Exit, ExitStatus, Frame, NotStarted, NotStartedReason, Run, Stream,
};

use crate::{
    oom,
    outbox::Outbox,
    reap::kill_everything,
    spawn::{Spawned, Verdict, VerdictPipe},
    sys::{
        fd::{self, Moved},
        process::{self, Pid, Reaped},
    },
};

/// How long others may hold the job's pipes after the main process ended: time for a `tee` or a shell's
/// background writer to finish, not to run on.
const LINGER_MS: u64 = 2_000;
/// How often KILL is repeated while something still lives.
const KILL_AGAIN_MS: u64 = 20;
/// How often to look while the last output waits for room in the ring: an outage may last for hours.
const CLEAR_FULL_LOOK_MS: u64 = 1_000;
/// How long to wait for what KILL does not move (a process in the kernel's uninterruptible sleep).
const CLEAR_PATIENCE_MS: u64 = 5_000;

pub struct Job {
    main: Pid,
    stop_signal: libc::c_int,
    grace_ms: u64,
    pipes: [Option<OwnedFd>; 2],
    stage: Stage,
    ended_by: EndedBy,
    /// Set once by the first stop, deadline or engine: when everything is killed.
    kill_at_ms: Option<u64>,
    /// When the command replaced the child; `None` while that is not known.
    started_at_ms: Option<u64>,
    /// When everything was killed for the first time after the main process ended.
    cleared_at_ms: Option<u64>,
    /// No child is left; orphans fall to init, so no descendant either, and nobody who could still write.
    alone: bool,
    oom_kills_before: Option<u64>,
    pid_1: bool,
    chunk: Box<[u8]>,
}

enum Stage {
    Starting(VerdictPipe),
    Running,
    Lingering {
        status: ExitStatus,
        ended_at_ms: u64,
        left_ms: u64,
    },
    Clearing {
        end: Clearing,
        left_ms: u64,
    },
}

#[derive(Clone, Copy)]
enum Clearing {
    Exited { status: ExitStatus, ended_at_ms: u64 },
    NeverRan(NotStartedReason),
}

/// What a step of the job's life tells its supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The command runs.
    Started,
    /// The ending is in the outbox.
    Ended,
}

impl Job {
    pub fn new(run: &Run, spawned: Spawned, pid_1: bool) -> Self {
        let stop_signal = if (1..=64).contains(&run.stop_signal) {
            run.stop_signal
        } else {
            libc::SIGTERM
        };
        Self {
            main: spawned.pid,
            stop_signal,
            grace_ms: run.grace_ms.min(run.grace_max_ms),
            pipes: [Some(spawned.stdout), Some(spawned.stderr)],
            stage: Stage::Starting(spawned.verdict),
            ended_by: EndedBy::Itself,
            kill_at_ms: None,
            started_at_ms: None,
            cleared_at_ms: None,
            alone: false,
            oom_kills_before: oom::kills_so_far(pid_1),
            pid_1,
            chunk: vec![0; CHUNK_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Descriptors to watch: the verdict while starting, then the pipes. Output is not touched before `started`
    /// is on its way, so that the agent always hears that first.
    pub fn watched(&self) -> impl Iterator<Item = RawFd> + '_ {
        let verdict = match &self.stage {
            Stage::Starting(verdict) => Some(verdict.fd()),
            Stage::Running | Stage::Lingering { .. } | Stage::Clearing { .. } => None,
        };
        let pipes = self.pipes.iter().flatten().filter(move |_| verdict.is_none());
        verdict.into_iter().chain(pipes.map(AsRawFd::as_raw_fd))
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting(_))
    }

    pub fn stopping(&self) -> bool {
        self.kill_at_ms.is_some()
    }

    pub fn started_at_ms(&self) -> Option<u64> {
        self.started_at_ms
    }

    /// How long everything has been dead, as far as KILL moves it.
    pub fn cleared_for_ms(&self, now: u64) -> u64 {
        self.cleared_at_ms.map_or(0, |at| now.saturating_sub(at))
    }

    /// Begins the end; the first cause counts. Once the main process has ended by itself only the kill of what
    /// it left is hastened.
    pub fn stop(&mut self, why: EndedBy, now: u64) {
        if self.stopping() {
            return;
        }
        match self.stage {
            Stage::Starting(_) | Stage::Running => {
                self.ended_by = why;
                self.kill_at_ms = Some(now.saturating_add(self.grace_ms));
                // to the main process's group: a shell's foreground command should hear it as well
                process::signal(-self.main, self.stop_signal);
                if self.is_starting() {
                    process::signal(self.main, self.stop_signal);
                }
            }
            Stage::Lingering { .. } | Stage::Clearing { .. } => self.kill_at_ms = Some(now),
        }
    }

    /// Asks whether the command runs by now.
    pub fn look_at_verdict(&mut self, now: u64) -> Step {
        let Stage::Starting(verdict) = &self.stage else {
            return Step::Nothing;
        };
        match verdict.look() {
            Verdict::Pending => Step::Nothing,
            Verdict::Runs => {
                self.stage = Stage::Running;
                self.started_at_ms = Some(now);
                Step::Started
            }
            Verdict::Failed(reason) => {
                self.pipes = [None, None];
                self.stage = Stage::Clearing {
                    end: Clearing::NeverRan(reason),
                    left_ms: CLEAR_PATIENCE_MS,
                };
                Step::Nothing
            }
        }
    }

    /// Takes at most one chunk from each pipe into the outbox.
    pub fn relay(&mut self, outbox: &mut Outbox) {
        if self.is_starting() {
            return;
        }
        for (pipe, stream) in self.pipes.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            let Some(end) = pipe else { continue };
            if outbox.is_full() {
                return;
            }
            match fd::read(end.as_raw_fd(), &mut self.chunk) {
                Moved::Bytes(n) => outbox.push_data(stream, &self.chunk[..n]),
                Moved::Later => {}
                Moved::Gone => *pipe = None,
            }
        }
    }

    /// Takes leave of all that has ended. The end of the main process decides the outcome.
    pub fn reap(&mut self, now: u64) -> Step {
        let mut step = Step::Nothing;
        loop {
            let (pid, status) = match process::reap_one() {
                Reaped::Child(pid, status) => (pid, status),
                rest @ (Reaped::NoneEnded | Reaped::NoChildren) => {
                    self.alone = rest == Reaped::NoChildren;
                    return step;
                }
            };
            if pid == self.main {
                // what it reported before it ended must be known first; after its end the report is there
                step = self.look_at_verdict(now);
                if let Stage::Starting(_) | Stage::Running = self.stage {
                    self.stage = Stage::Lingering {
                        status,
                        ended_at_ms: now,
                        left_ms: LINGER_MS,
                    };
                }
            }
        }
    }

    /// What time does to the job. `counted_ms` is the time since the last tick as far as the job could write.
    pub fn tick(&mut self, now: u64, counted_ms: u64, outbox: &mut Outbox) -> Step {
        let over = self.kill_at_ms.is_some_and(|at| now >= at);
        match &mut self.stage {
            Stage::Starting(_) | Stage::Running => {
                if over {
                    kill_everything(self.pid_1);
                }
                Step::Nothing
            }
            Stage::Lingering {
                status,
                ended_at_ms,
                left_ms,
            } => {
                *left_ms = left_ms.saturating_sub(counted_ms);
                if over || *left_ms == 0 || self.alone || self.pipes.iter().all(Option::is_none) {
                    let end = Clearing::Exited {
                        status: *status,
                        ended_at_ms: *ended_at_ms,
                    };
                    self.stage = Stage::Clearing {
                        end,
                        left_ms: CLEAR_PATIENCE_MS,
                    };
                    return self.clear(now, outbox);
                }
                Step::Nothing
            }
            Stage::Clearing { left_ms, .. } => {
                *left_ms = left_ms.saturating_sub(counted_ms);
                self.clear(now, outbox)
            }
        }
    }

    /// When `tick` has something to do next, if nothing else happens.
    pub fn next_tick_ms(&self, now: u64, outbox: &Outbox) -> Option<u64> {
        let again = now + KILL_AGAIN_MS;
        match &self.stage {
            Stage::Starting(_) | Stage::Running => {
                self.kill_at_ms.map(|at| if at > now { at } else { again })
            }
            Stage::Lingering { left_ms, .. } => {
                let linger = (!outbox.is_full()).then(|| now + left_ms);
                linger.into_iter().chain(self.kill_at_ms).min()
            }
            // with the ring full nothing can end anyway: it waits for an acknowledgement
            Stage::Clearing { .. } => Some(if outbox.is_full() {
                now + CLEAR_FULL_LOOK_MS
            } else {
                again
            }),
        }
    }

    /// Kills until nothing lives, empties the pipes (what was written before the kill counts), then says it.
    fn clear(&mut self, now: u64, outbox: &mut Outbox) -> Step {
        self.cleared_at_ms.get_or_insert(now);
        kill_everything(self.pid_1);
        self.reap(now);
        let Stage::Clearing { end, left_ms } = &self.stage else {
            return Step::Nothing;
        };
        let (end, given_up) = (*end, *left_ms == 0);
        let emptied = self.pipes.iter().all(Option::is_none);
        let over = given_up || (self.alone && emptied);
        if !over {
            return Step::Nothing;
        }
        self.pipes = [None, None];
        let oom_kills = oom::kills_so_far(self.pid_1)
            .zip(self.oom_kills_before)
            .map(|(after, before)| after.saturating_sub(before));
        outbox.push_ending(|seq, totals| match end {
            Clearing::NeverRan(reason) => Frame::NotStarted(NotStarted { seq, reason, totals }),
            Clearing::Exited { status, ended_at_ms } => Frame::Exit(Exit {
                seq,
                status,
                ended_by: self.ended_by,
                rusage: process::children_rusage(),
                oom_kills,
                totals,
                started_at_ms: self.started_at_ms.unwrap_or(ended_at_ms),
                ended_at_ms,
            }),
        });
        Step::Ended
    }
}
