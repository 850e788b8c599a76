//! How a job or an attempt ended: by whom, by which evidence, and what to do next. One page for every outcome.

use std::time::Duration;

use crate::attempt::{Attempt, AttemptEnd, NotStartedReason, Outcome};
use crate::ids::{JobId, UserId, WorkerId};
use crate::job::{CancelledBy, Job, JobState};
use crate::time::Timestamp;
use crate::words::{show_bytes, show_duration};

/// Who made it end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor<'a> {
    /// The command itself.
    Job,
    User(&'a UserId),
    /// The control plane.
    System,
    /// The worker that had it: its kernel, its engine, its owner's rules.
    Worker(&'a WorkerId),
}

/// A limit of the job's own that it went over, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHit {
    MemoryMib(u32),
    Run(Duration),
    Queue(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending<'a> {
    pub at: Timestamp,
    /// The stable word of the outcome.
    pub cause: &'static str,
    pub actor: Actor<'a>,
    /// One sentence that says what happened.
    pub sentence: String,
    /// What to do next; none after a success.
    pub next: Option<String>,
    pub worker: Option<&'a WorkerId>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub limit: Option<LimitHit>,
    /// From the start of the process to the end of the attempt.
    pub ran: Option<Duration>,
}

impl<'a> Ending<'a> {
    /// Of a job that has ended.
    pub fn of_job(job: &'a Job) -> Option<Self> {
        job.state.ended_at().map(|at| of_ended(job, at))
    }

    /// Of an attempt that has ended.
    pub fn of_attempt(job: &'a Job, attempt: &'a Attempt) -> Option<Self> {
        let end = attempt.end.as_ref()?;
        let said = Said {
            job,
            attempt: Some((attempt, end)),
            tried: None,
        };
        Some(said.page(end.at, &end.outcome, cancelled_by(job)))
    }
}

/// Of a job whose state is one of the ended ones.
pub(super) fn of_ended(job: &Job, at: Timestamp) -> Ending<'_> {
    let last = job
        .last_attempt()
        .and_then(|attempt| Some((attempt, attempt.end.as_ref()?)));
    let said = |attempt| Said {
        job,
        attempt,
        tried: (job.attempts_total > 1).then_some(job.attempts_total),
    };
    match &job.state {
        JobState::Cancelled { by, .. } => {
            let why = job.cancel.as_ref().and_then(|cancel| cancel.why.clone());
            let outcome = Outcome::Cancelled { by: by.clone(), why };
            said(last).page(at, &outcome, Some(by))
        }
        JobState::Failed { cause, .. } => {
            let waited = matches!(cause.outcome, Outcome::QueueTimeout);
            said(last.filter(|_| !waited)).page(at, &cause.outcome, cancelled_by(job))
        }
        JobState::Succeeded { .. }
        | JobState::Scheduled { .. }
        | JobState::Queued { .. }
        | JobState::Assigned { .. }
        | JobState::Running { .. } => {
            let done = Outcome::Exited { code: 0 };
            said(last).page(at, last.map_or(&done, |(_, end)| &end.outcome), cancelled_by(job))
        }
    }
}

/// Whose word a cancel was: agents do not know, the row does.
fn cancelled_by(job: &Job) -> Option<&CancelledBy> {
    match &job.state {
        JobState::Cancelled { by, .. } => Some(by),
        JobState::Scheduled { .. }
        | JobState::Queued { .. }
        | JobState::Assigned { .. }
        | JobState::Running { .. }
        | JobState::Succeeded { .. }
        | JobState::Failed { .. } => job.cancel.as_ref().map(|cancel| &cancel.by),
    }
}

struct Said<'a> {
    job: &'a Job,
    attempt: Option<(&'a Attempt, &'a AttemptEnd)>,
    /// How often, where that is worth saying.
    tried: Option<u32>,
}

impl<'a> Said<'a> {
    fn page(&self, at: Timestamp, outcome: &Outcome, cancelled_by: Option<&'a CancelledBy>) -> Ending<'a> {
        let attempt = self.attempt;
        let (mut sentence, next) = self.words(outcome, cancelled_by);
        if let Some(times) = self.tried {
            sentence.push_str(&format!(" It was tried {times} times."));
        }
        Ending {
            at,
            cause: outcome.word(),
            actor: self.actor(outcome, cancelled_by),
            sentence,
            next,
            worker: attempt.map(|(attempt, _)| &attempt.lease.worker),
            exit_code: outcome.exit_code(),
            signal: signal(outcome),
            limit: self.limit(outcome),
            ran: attempt.and_then(|(attempt, end)| Some(end.at.since(attempt.started_at?))),
        }
    }

    fn actor(&self, outcome: &Outcome, cancelled_by: Option<&'a CancelledBy>) -> Actor<'a> {
        let worker = self
            .attempt
            .map_or(Actor::System, |(attempt, _)| Actor::Worker(&attempt.lease.worker));
        match outcome {
            Outcome::Exited { .. } | Outcome::NotStarted { .. } | Outcome::Signaled { .. } => Actor::Job,
            Outcome::OomKilled
            | Outcome::RunTimeout
            | Outcome::ImageUnavailable { .. }
            | Outcome::RejectedByWorker { .. }
            | Outcome::InfraError { .. } => worker,
            Outcome::QueueTimeout | Outcome::WorkerLost => Actor::System,
            Outcome::Cancelled { .. } => match cancelled_by {
                Some(CancelledBy::User(user)) => Actor::User(user),
                Some(CancelledBy::System) | None => Actor::System,
            },
        }
    }

    fn limit(&self, outcome: &Outcome) -> Option<LimitHit> {
        let spec = &self.job.spec;
        match outcome {
            Outcome::OomKilled => Some(LimitHit::MemoryMib(spec.resources.memory_mib)),
            Outcome::RunTimeout => Some(LimitHit::Run(spec.limits.run)),
            Outcome::QueueTimeout => spec.limits.queue.map(LimitHit::Queue),
            Outcome::Exited { .. }
            | Outcome::NotStarted { .. }
            | Outcome::Signaled { .. }
            | Outcome::ImageUnavailable { .. }
            | Outcome::RejectedByWorker { .. }
            | Outcome::Cancelled { .. }
            | Outcome::WorkerLost
            | Outcome::InfraError { .. } => None,
        }
    }

    /// The sentence, and what to do next.
    fn words(&self, outcome: &Outcome, cancelled_by: Option<&CancelledBy>) -> (String, Option<String>) {
        let (job, spec) = (self.job, &self.job.spec);
        let on = self.attempt.map_or_else(
            || "the worker".to_owned(),
            |(attempt, _)| attempt.lease.worker.to_string(),
        );
        match outcome {
            Outcome::Exited { code: 0 } => ("The command exited with status 0.".to_owned(), None),
            Outcome::Exited { code } => exited(*code, job.id),
            Outcome::NotStarted { reason, message } => not_started(*reason, message),
            Outcome::Signaled { signal } => signaled(*signal, job.id),
            Outcome::OomKilled => {
                let limit = spec.resources.memory_mib;
                let peak = self
                    .attempt
                    .map(|(_, end)| end.usage.memory_peak_bytes)
                    .filter(|peak| *peak > 0)
                    .map(|peak| format!(" (it had {} at its peak)", show_bytes(peak)))
                    .unwrap_or_default();
                (
                    format!("The job used more than its {limit} MiB of memory and was killed{peak}."),
                    Some(format!(
                        "Ask for more with `--memory {}m`, or make it use less.",
                        limit.saturating_mul(2)
                    )),
                )
            }
            Outcome::RunTimeout => {
                let limit = show_duration(spec.limits.run);
                (
                    format!("The command ran longer than its limit of {limit} and was stopped."),
                    Some("Raise the limit with `--timeout`, or split the work.".to_owned()),
                )
            }
            Outcome::QueueTimeout => {
                let limit = spec.limits.queue.map_or_else(|| "what it asked for".to_owned(), show_duration);
                (
                    format!("It waited in the queue longer than {limit}, its own limit."),
                    Some(
                        "Raise the limit with `--queue-timeout` or leave it out; `jobworker workers` shows who could \
                         run it."
                            .to_owned(),
                    ),
                )
            }
            Outcome::ImageUnavailable { message } => (
                format!("{on} could not get the image {}{}.", spec.image, because(message)),
                Some(
                    "Check the image's name and tag, and that the worker may fetch it or has it already.".to_owned(),
                ),
            ),
            Outcome::RejectedByWorker { message } => (
                format!("{on} refused it{}.", because(message)),
                Some(
                    "The worker's owner decides what runs there: change what the sentence names, or choose workers by \
                     `--pool` or `--worker-label`."
                        .to_owned(),
                ),
            ),
            Outcome::Cancelled { why, .. } => cancelled(why.as_deref(), cancelled_by),
            Outcome::WorkerLost => (
                format!("{on} was not heard for so long that it was given up; how far the command came is not known."),
                Some(
                    "Look at that machine; submit again if the command may run twice."
                        .to_owned(),
                ),
            ),
            Outcome::InfraError { message } => (
                format!("The system failed, not the command{}.", because(message)),
                Some(format!("Tell the operator: the log of {on} has more. Submit again if the command may run twice.")),
            ),
        }
    }
}

/// How an attempt ended, as part of a sentence.
pub(super) fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited { code } => format!("the command exited with status {code}"),
        Outcome::NotStarted { .. } => "the command could not be started".to_owned(),
        Outcome::Signaled { signal } => format!("signal {signal}{} ended it", name_in_brackets(*signal)),
        Outcome::OomKilled => "it used more memory than it asked for".to_owned(),
        Outcome::RunTimeout => "it ran longer than its limit".to_owned(),
        Outcome::QueueTimeout => "it waited longer than its limit".to_owned(),
        Outcome::ImageUnavailable { message } => format!("the image could not be had{}", because(message)),
        Outcome::RejectedByWorker { message } => format!("the worker refused it{}", because(message)),
        Outcome::Cancelled { .. } => "it was cancelled".to_owned(),
        Outcome::WorkerLost => "its worker was lost".to_owned(),
        Outcome::InfraError { message } => format!("the system failed{}", because(message)),
    }
}

fn because(message: &str) -> String {
    let message = message.trim().trim_end_matches('.');
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

fn signal(outcome: &Outcome) -> Option<i32> {
    match outcome {
        Outcome::Signaled { signal } => Some(*signal),
        Outcome::Exited { .. }
        | Outcome::NotStarted { .. }
        | Outcome::OomKilled
        | Outcome::RunTimeout
        | Outcome::QueueTimeout
        | Outcome::ImageUnavailable { .. }
        | Outcome::RejectedByWorker { .. }
        | Outcome::Cancelled { .. }
        | Outcome::WorkerLost
        | Outcome::InfraError { .. } => None,
    }
}

fn exited(code: i32, job: JobId) -> (String, Option<String>) {
    let meaning = match code {
        126 => ", which a shell says of a command that it may not execute".to_owned(),
        127 => ", which a shell says of a command that it does not find".to_owned(),
        129..=192 => {
            let signal = code - 128;
            format!(
                ", which a shell says of a command that signal {signal}{} ended",
                name_in_brackets(signal)
            )
        }
        _ => String::new(),
    };
    (
        format!("The command exited with status {code}{meaning}."),
        Some(format!("Read what it wrote: `jobworker logs {job}`.")),
    )
}

fn not_started(reason: NotStartedReason, message: &str) -> (String, Option<String>) {
    let (what, next) = match reason {
        NotStartedReason::NoSuchCommand => (
            "The image has no such command",
            "Check its spelling and the image; a line for a shell needs `--shell`.",
        ),
        NotStartedReason::NotExecutable => (
            "The command is not executable",
            "Make it executable, or start it with its interpreter.",
        ),
        NotStartedReason::WrongArchitecture => (
            "The command was made for another kind of CPU than the worker's",
            "Use an image for the worker's CPU, or choose workers with `--worker-label`.",
        ),
        NotStartedReason::BadWorkingDirectory => (
            "The working directory is not there",
            "Check `--workdir`, and that an input or the image makes that folder.",
        ),
        NotStartedReason::BadInputs => (
            "An input could not be put in place",
            "Check the inputs: their archives and their paths below /workspace.",
        ),
        NotStartedReason::Other => (
            "The command could not be started",
            "Check the command, the image and the environment; the sentence has the engine's own words.",
        ),
    };
    (format!("{what}{}.", because(message)), Some(next.to_owned()))
}

fn signaled(signal: i32, job: JobId) -> (String, Option<String>) {
    let next = match signal {
        4 | 7 | 8 | 11 => format!("That is a crash of the command; `jobworker logs {job}` has its last words."),
        6 => format!("The command gave up by itself; `jobworker logs {job}` should say why."),
        9 => "Nothing of JobWorker's asked for it: look for a `kill` of its own, or for memory that the whole worker \
              lacked."
            .to_owned(),
        13 => "Whoever read from it had gone: look at the commands that it is piped into.".to_owned(),
        31 => "It made a system call that the sandbox does not allow.".to_owned(),
        _ => format!("Nothing of JobWorker's sent it: look at what the command does; `jobworker logs {job}`."),
    };
    (
        format!("Signal {signal}{} ended the command.", name_in_brackets(signal)),
        Some(next),
    )
}

fn cancelled(why: Option<&str>, by: Option<&CancelledBy>) -> (String, Option<String>) {
    let who = match by {
        Some(CancelledBy::User(user)) => format!("The user {user} cancelled it"),
        Some(CancelledBy::System) | None => "The system cancelled it".to_owned(),
    };
    (
        format!("{who}{}.", because(why.unwrap_or_default())),
        Some("Submit it again if it is wanted after all.".to_owned()),
    )
}

/// `SEGV` of 11; none of a number without a common name.
pub const fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "HUP",
        2 => "INT",
        3 => "QUIT",
        4 => "ILL",
        5 => "TRAP",
        6 => "ABRT",
        7 => "BUS",
        8 => "FPE",
        9 => "KILL",
        10 => "USR1",
        11 => "SEGV",
        12 => "USR2",
        13 => "PIPE",
        14 => "ALRM",
        15 => "TERM",
        24 => "XCPU",
        25 => "XFSZ",
        31 => "SYS",
        _ => return None,
    })
}

fn name_in_brackets(signal: i32) -> String {
    signal_name(signal)
        .map(|name| format!(" ({name})"))
        .unwrap_or_default()
}
