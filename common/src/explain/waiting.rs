//! The explanation of a job as it stands. Every state has one; a job that waits has exactly one reason.

use std::time::Duration;

use super::ending::{self, Ending};
use super::estimate::{self, Estimate, Typical};
use super::{Fleet, KeptRooms, Reason, VerdictKind, Verdicts, summary};
use crate::attempt::Outcome;
use crate::fit::Wanted;
use crate::ids::{AttemptId, WorkerId};
use crate::job::{Job, JobState, Lease};
use crate::time::Timestamp;
use crate::words::{count, show_duration};

/// Workers named in a sentence; the list of verdicts has the rest.
const NAMED_MAX: usize = 3;

/// A job that is next and was not given out for so long: the leader looks several times a second.
const SCHEDULER_SUSPECT: Duration = Duration::from_secs(10);

/// What is known, as it was seen a moment ago.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub now: Timestamp,
    /// Silent for this long, a worker is given no work.
    pub contact: Duration,
    pub fleet: &'a Fleet,
    /// The account's own limit of attempts at the same time.
    pub running_max: Option<u32>,
    /// None where the job does not wait in the queue, or the queue does not know it yet.
    pub place: Option<Place>,
    /// How long jobs like it took lately.
    pub typical: Option<Typical>,
    /// None where it is not known, or where the job does not wait in the queue.
    pub kept: Option<&'a KeptRooms>,
}

/// Where a queued job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Jobs of its account and class before it.
    pub before: u64,
    /// Jobs of its account and class that wait, itself included.
    pub of: u64,
    /// Jobs of its account that wait.
    pub account: u64,
    /// Jobs that wait in all.
    pub all: u64,
}

/// What the account may still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub running: u32,
    pub running_max: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    pub sentence: String,
    /// What to do about it, where something can be done.
    pub next: Option<String>,
    pub detail: Detail<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail<'a> {
    Waiting(Box<Waiting<'a>>),
    Running(Running<'a>),
    Ended(Box<Ending<'a>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting<'a> {
    pub reason: Reason,
    /// In this state.
    pub since: Timestamp,
    /// With `Backoff` and `NotBefore`: when it will be queued.
    pub until: Option<Timestamp>,
    /// With `Backoff`: how the attempt before ended.
    pub after: Option<&'a Outcome>,
    /// With `ImagePulling` and `Starting`.
    pub worker: Option<&'a WorkerId>,
    pub place: Option<Place>,
    /// Where the account has a limit.
    pub room: Option<Room>,
    /// None once a worker has it.
    pub verdicts: Option<Verdicts<'a>>,
    pub estimate: Option<Estimate>,
    /// When it stops waiting and fails.
    pub gives_up_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running<'a> {
    pub worker: &'a WorkerId,
    pub since: Timestamp,
    /// When its limit of time ends it.
    pub ends_by: Timestamp,
    /// How long its worker was not heard; none where the session is lost or the worker unknown.
    pub silent: Option<Duration>,
    pub cancelling: bool,
}

/// Why the job is where it is.
pub fn explain<'a>(job: &'a Job, facts: &Facts<'a>) -> Explanation<'a> {
    match &job.state {
        JobState::Scheduled { at } => scheduled(job, *at, facts),
        JobState::Queued { since } => queued(job, *since, facts),
        JobState::Assigned {
            attempt,
            lease,
            since,
            ..
        } => starting(job, *attempt, lease, *since, facts),
        JobState::Running { lease, since, .. } => running(job, lease, *since, facts),
        JobState::Succeeded { at } | JobState::Failed { at, .. } | JobState::Cancelled { at, .. } => {
            let ending = ending::of_ended(job, *at);
            Explanation {
                sentence: ending.sentence.clone(),
                next: ending.next.clone(),
                detail: Detail::Ended(Box::new(ending)),
            }
        }
    }
}

fn scheduled<'a>(job: &'a Job, at: Timestamp, facts: &Facts<'a>) -> Explanation<'a> {
    let due = if at > facts.now {
        format!("in {}", show_duration(at.since(facts.now)))
    } else {
        "now, and it is queued within seconds".to_owned()
    };
    let last = job.last_attempt();
    let after = last
        .and_then(|attempt| attempt.end.as_ref())
        .map(|end| &end.outcome);
    let (reason, since, sentence) = match (last, after) {
        (Some(attempt), Some(outcome)) => (
            Reason::Backoff,
            attempt.end.as_ref().map_or(attempt.assigned_at, |end| end.at),
            format!(
                "Attempt {} ended: {}. The next one is due {due}.",
                attempt.number,
                ending::short(outcome)
            ),
        ),
        (Some(_) | None, _) => (
            Reason::NotBefore,
            job.created_at,
            format!("It was asked to wait for a time that comes {due}."),
        ),
    };
    let wanted = Wanted::of_job(job);
    let waiting = Waiting {
        reason,
        until: Some(at),
        after,
        verdicts: Some(Verdicts::of(
            wanted,
            facts.fleet,
            facts.kept,
            facts.now,
            facts.contact,
        )),
        estimate: Some(estimate::scheduled(at, facts.now)),
        ..Waiting::bare(reason, since)
    };
    waiting.told(sentence, None)
}

fn queued<'a>(job: &'a Job, since: Timestamp, facts: &Facts<'a>) -> Explanation<'a> {
    let wanted = Wanted::of_job(job);
    let verdicts = Verdicts::of(wanted, facts.fleet, facts.kept, facts.now, facts.contact);
    let room = facts.running_max.map(|running_max| Room {
        running: facts.fleet.running(&job.account),
        running_max,
    });
    let before = facts.place.map_or(0, |place| place.before);
    let full = room.filter(|room| room.running >= room.running_max);
    let reason = match verdicts.best() {
        None => Reason::NoWorkers,
        Some(VerdictKind::Unsuitable) => Reason::NoWorkerFits,
        Some(_) if full.is_some() => Reason::AccountLimit,
        Some(VerdictKind::Fits) if before > 0 => Reason::WaitingForTurn,
        Some(VerdictKind::Fits) => Reason::NextInLine,
        Some(VerdictKind::Reserved) => Reason::Reserved,
        Some(VerdictKind::Busy) => Reason::WorkersBusy,
        Some(VerdictKind::NotReady) => Reason::WorkersNotReady,
        Some(VerdictKind::Draining) => Reason::WorkersDraining,
        Some(VerdictKind::Away) => Reason::WorkersAway,
    };
    let (sentence, next) = told(reason, wanted, &verdicts, room, before, since, facts);
    let waiting = Waiting {
        place: facts.place,
        room,
        estimate: estimate::queued(job, reason, facts),
        verdicts: Some(verdicts),
        gives_up_at: job.queue_deadline(),
        ..Waiting::bare(reason, since)
    };
    waiting.told(sentence, next)
}

/// The sentence of a queued job's reason, and what to do.
fn told(
    reason: Reason,
    wanted: Wanted<'_>,
    verdicts: &Verdicts<'_>,
    room: Option<Room>,
    before: u64,
    since: Timestamp,
    facts: &Facts<'_>,
) -> (String, Option<&'static str>) {
    match reason {
        Reason::NoWorkers => (
            "No worker is registered.".to_owned(),
            Some("Start an agent, or `jobworker up` without `--no-agent`."),
        ),
        Reason::NoWorkerFits => (
            format!(
                "No registered worker could ever run it: {}.",
                summary::never(wanted, facts.fleet)
            ),
            Some("Add a worker that could, or cancel it and ask for less, another pool or other labels."),
        ),
        Reason::AccountLimit => {
            let room = room.unwrap_or(Room {
                running: 0,
                running_max: 0,
            });
            (
                format!(
                    "The account has {}, and may have {} at the same time.",
                    count(u64::from(room.running), "attempt"),
                    room.running_max
                ),
                Some("It starts when one of them ends; an administrator can raise the account's limit."),
            )
        }
        Reason::WorkersAway => (
            unavailable(verdicts),
            Some("Look at the worker's machine and network; its agent comes back by itself."),
        ),
        Reason::WorkersDraining => (
            unavailable(verdicts),
            Some("An administrator can let the worker take work again, or add another."),
        ),
        Reason::WorkersNotReady => (
            unavailable(verdicts),
            Some("Mend on the worker what it names; it looks again by itself."),
        ),
        Reason::WorkersBusy => (busy(verdicts, before, facts), None),
        Reason::Reserved => (
            format!(
                "The room that it would have is held for a job that needs more and has waited too long: {}.",
                named(verdicts)
            ),
            Some("It starts after that job has begun, or where other room becomes free."),
        ),
        Reason::WaitingForTurn => (
            format!(
                "A worker has room, and {} of its account and class {} before it.",
                count(before, "job"),
                if before == 1 { "is" } else { "are" }
            ),
            None,
        ),
        Reason::NextInLine
        | Reason::Backoff
        | Reason::NotBefore
        | Reason::ImagePulling
        | Reason::Starting => next_in_line(since, facts),
    }
}

fn next_in_line(since: Timestamp, facts: &Facts<'_>) -> (String, Option<&'static str>) {
    let sentence = "It is the next of its account and class, and a worker has room for it.";
    if facts.now.since(since) < SCHEDULER_SUSPECT {
        return (sentence.to_owned(), None);
    }
    (
        format!("{sentence} It should have been given out by now, unless others' turns came first."),
        Some("If this lasts, look whether a scheduler runs: it gives jobs out several times a second."),
    )
}

fn busy(verdicts: &Verdicts<'_>, before: u64, facts: &Facts<'_>) -> String {
    let behind = match before {
        0 => String::new(),
        before => format!(
            "; {} of its account and class {} before it",
            count(before, "job"),
            if before == 1 { "is" } else { "are" }
        ),
    };
    let kept = match facts.kept.and_then(KeptRooms::own) {
        Some(worker) => format!(" What becomes free on {worker} is kept for it."),
        None => String::new(),
    };
    format!(
        "Every worker that could run it is busy: {}{behind}.{kept}",
        named(verdicts)
    )
}

/// For a job that some worker could run, and of those none takes work now.
pub(super) fn unavailable(verdicts: &Verdicts<'_>) -> String {
    format!("No worker that could run it takes work now: {}.", named(verdicts))
}

/// The workers that could run it, each with its verdict.
fn named(verdicts: &Verdicts<'_>) -> String {
    let able: u32 = verdicts
        .counts
        .iter()
        .filter(|(kind, _)| **kind != VerdictKind::Unsuitable)
        .map(|(_, number)| number)
        .sum();
    let told: Vec<String> = verdicts
        .shown
        .iter()
        .filter(|verdict| verdict.kind != VerdictKind::Unsuitable)
        .take(NAMED_MAX)
        .map(|verdict| format!("{}: {verdict}", verdict.worker))
        .collect();
    match u64::from(able).saturating_sub(told.len() as u64) {
        0 => told.join(", "),
        more => format!("{}, and {more} more", told.join(", ")),
    }
}

fn starting<'a>(
    job: &'a Job,
    attempt: AttemptId,
    lease: &'a Lease,
    since: Timestamp,
    facts: &Facts<'a>,
) -> Explanation<'a> {
    let given = show_duration(facts.now.since(since));
    // By the worker's last heartbeat: the image may be there by now.
    let pulling = facts
        .fleet
        .worker(&lease.worker)
        .is_some_and(|seen| seen.worker.load.pulling.contains(&attempt));
    let (reason, does) = if pulling {
        let (image, limit) = (&job.spec.image, show_duration(job.spec.limits.pull));
        (
            Reason::ImagePulling,
            format!("fetches its image {image}, for {limit} at the most"),
        )
    } else {
        let does = "gets it ready: its inputs, its image, its container";
        (Reason::Starting, does.to_owned())
    };
    let mut sentence = format!("{} was given it {given} ago and {does}.", lease.worker);
    sentence.push_str(&told_of_worker(job, lease, facts));
    let waiting = Waiting {
        worker: Some(&lease.worker),
        ..Waiting::bare(reason, since)
    };
    waiting.told(sentence, None)
}

fn running<'a>(job: &'a Job, lease: &'a Lease, since: Timestamp, facts: &Facts<'a>) -> Explanation<'a> {
    let (limit, ran) = (job.spec.limits.run, facts.now.since(since));
    let mut sentence = format!(
        "It runs on {} for {}, of {} at the most.",
        lease.worker,
        show_duration(ran),
        show_duration(limit)
    );
    sentence.push_str(&told_of_worker(job, lease, facts));
    Explanation {
        sentence,
        next: None,
        detail: Detail::Running(Running {
            worker: &lease.worker,
            since,
            ends_by: since.after(limit),
            silent: silent(lease, facts),
            cancelling: job.cancel.is_some(),
        }),
    }
}

fn silent(lease: &Lease, facts: &Facts<'_>) -> Option<Duration> {
    facts
        .fleet
        .worker(&lease.worker)
        .and_then(|seen| seen.silent(facts.now))
}

/// What else is to be said of a job that a worker has.
fn told_of_worker(job: &Job, lease: &Lease, facts: &Facts<'_>) -> String {
    let mut text = String::new();
    match silent(lease, facts) {
        Some(silent) if silent < facts.contact => {}
        Some(silent) => text.push_str(&format!(
            " The worker was not heard for {}; what it runs goes on, and is tried elsewhere once it is given up.",
            show_duration(silent)
        )),
        None => text.push_str(" The worker is lost; the job is tried elsewhere within seconds, or ends."),
    }
    if job.cancel.is_some() {
        text.push_str(" Its cancel was asked for, and waits for the worker's word.");
    }
    text
}

impl<'a> Waiting<'a> {
    const fn bare(reason: Reason, since: Timestamp) -> Self {
        Self {
            reason,
            since,
            until: None,
            after: None,
            worker: None,
            place: None,
            room: None,
            verdicts: None,
            estimate: None,
            gives_up_at: None,
        }
    }

    fn told(self, sentence: String, next: Option<&str>) -> Explanation<'a> {
        Explanation {
            sentence,
            next: next.map(str::to_owned),
            detail: Detail::Waiting(Box::new(self)),
        }
    }
}
