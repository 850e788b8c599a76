//! The invariants, looked at with every change, while it happens. What is not one instant's matter is in `verdict`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use common::attempt::{Attempt, Outcome, ReportHash};
use common::ids::{AttemptId, JobId};
use common::job::{Epoch, Job, JobState, StateName};
use common::retry::INFRA_RETRIES_MAX;
use common::worker::Session;
use sha2::{Digest, Sha256};

use super::history::History;
use super::store::{Caller, Observer, Write, held};

/// Counted: writes of a leader that a row of a later term refused.
pub const STALE_WRITE: &str = "stale write of a leader refused";

/// Counted: results of attempts that were not the current ones any more, refused.
pub const STALE_RESULT: &str = "stale result refused";

pub struct Checker {
    pub history: Arc<History>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Counts events.
    clock: u64,
    jobs: BTreeMap<JobId, Job>,
    /// When the current attempt was assigned.
    assigned: BTreeMap<JobId, u64>,
    /// Terms that were begun, by whom, when, and whose take-over is not over.
    taking_over: BTreeMap<Caller, (Epoch, u64)>,
    reports: BTreeMap<AttemptId, BTreeSet<String>>,
    runs: BTreeMap<JobId, AttemptId>,
    ever_run: BTreeSet<AttemptId>,
    printed: BTreeMap<AttemptId, [u64; 2]>,
}

/// A report's hash as text; it shows itself nowhere else.
fn text_of(hash: &ReportHash) -> String {
    format!("{hash:?}")
}

impl Checker {
    pub fn new(history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            history,
            known: Mutex::default(),
        })
    }

    /// An agent said so of an attempt.
    pub fn reported(&self, attempt: AttemptId, hash: ReportHash) {
        let mut known = held(&self.known);
        known.reports.entry(attempt).or_default().insert(text_of(&hash));
    }

    /// How many chunks of each stream a run printed up to its end.
    pub fn printed(&self, attempt: AttemptId, chunks: [u64; 2]) {
        held(&self.known).printed.insert(attempt, chunks);
    }

    pub fn printed_by(&self, attempt: AttemptId) -> Option<[u64; 2]> {
        held(&self.known).printed.get(&attempt).copied()
    }

    pub fn run_started(&self, job: JobId, attempt: AttemptId, number: u32, node: &str) {
        self.history
            .note(format_args!("RUN {attempt} ({number}) of {job} begins on {node}"));
        let mut known = held(&self.known);
        if !known.ever_run.insert(attempt) {
            self.history
                .violated(format!("I4b: attempt {attempt} was started twice"));
        }
        if let Some(other) = known.runs.insert(job, attempt) {
            self.history
                .violated(format!("I4b: {attempt} of {job} runs while {other} still does"));
        }
    }

    pub fn run_ended(&self, job: JobId, attempt: AttemptId, how: &str) {
        self.history
            .note(format_args!("RUN {attempt} of {job} ends: {how}"));
        let mut known = held(&self.known);
        if known.runs.get(&job) == Some(&attempt) {
            known.runs.remove(&job);
        }
    }

    /// Runs that have not ended.
    pub fn still_running(&self) -> Vec<(JobId, AttemptId)> {
        held(&self.known)
            .runs
            .iter()
            .map(|(job, attempt)| (*job, *attempt))
            .collect()
    }

    fn change(&self, before: &Job, after: &Job) -> Vec<String> {
        let mut broken = Vec::new();
        let id = after.id;
        if before.state.is_terminal() && (before.state != after.state || before.attempts != after.attempts) {
            broken.push(format!(
                "I3: {id} had ended as {} and became {}",
                before.state.name(),
                after.state.name()
            ));
        }
        if after.epoch < before.epoch {
            broken.push(format!(
                "I4: the epoch of {id} fell from {:?} to {:?}",
                before.epoch, after.epoch
            ));
        }
        broken.extend(attempts(before, after));
        if before.cancel.is_some()
            && !before.state.is_terminal()
            && after.state.is_terminal()
            && after.state.name() != StateName::Cancelled
        {
            broken.push(format!(
                "I8: {id} was to be cancelled and became {}",
                after.state.name()
            ));
        }
        let most = 1 + after.spec.retry.max_retries + INFRA_RETRIES_MAX;
        if after.attempts_total > most {
            broken.push(format!(
                "I11: {id} had {} attempts, {most} at the most",
                after.attempts_total
            ));
        }
        let known = held(&self.known);
        for attempt in newly_ended(before, after) {
            let Some(hash) = attempt.end.as_ref().and_then(|end| end.report_hash.as_ref()) else {
                continue;
            };
            let given = known.reports.get(&attempt.id);
            if !given.is_some_and(|given| given.contains(&text_of(hash))) {
                broken.push(format!(
                    "I6: {id} took a result for {} that was never given of it",
                    attempt.id
                ));
            }
        }
        broken
    }
}

fn newly_ended<'a>(before: &'a Job, after: &'a Job) -> impl Iterator<Item = &'a Attempt> {
    after.attempts.iter().filter(|attempt| {
        attempt.end.is_some()
            && before
                .attempt(attempt.id)
                .is_none_or(|earlier| earlier.end.is_none())
    })
}

/// One attempt after the other, and what was accepted of each stays.
fn attempts(before: &Job, after: &Job) -> Vec<String> {
    let (mut broken, id) = (Vec::new(), after.id);
    if after.attempts_total < before.attempts_total || after.attempts_total > before.attempts_total + 1 {
        broken.push(format!(
            "I4: {id} counted {} attempts and then {}",
            before.attempts_total, after.attempts_total
        ));
    }
    let current = after.state.attempt();
    for attempt in &after.attempts {
        if attempt.end.is_none() && current != Some(attempt.id) {
            broken.push(format!(
                "I4: {} of {id} has neither an end nor the job",
                attempt.id
            ));
        }
        if let Some(earlier) = before.attempt(attempt.id)
            && earlier.end.is_some()
            && earlier.end != attempt.end
        {
            broken.push(format!("I3: the accepted end of {} of {id} changed", attempt.id));
        }
    }
    for pair in after.attempts.windows(2) {
        if pair[1].number != pair[0].number + 1 {
            broken.push(format!(
                "I4: attempts {} and {} of {id} follow each other",
                pair[0].number, pair[1].number
            ));
        }
    }
    if let (Some(was), Some(is)) = (before.state.attempt(), current)
        && was != is
    {
        broken.push(format!(
            "I4: {is} of {id} took the place of {was}, which had not ended"
        ));
    }
    broken
}

/// What changed, for a reader; and all of it, for the hash.
fn line(by: Caller, job: &Job) -> String {
    let whole = serde_json::to_vec(job).unwrap_or_default();
    let sum = data_encoding::HEXLOWER.encode(&Sha256::digest(whole)[..6]);
    let mut text = format!(
        "ROW by {}: {} r{} e{} {}",
        by.0,
        job.id,
        job.revision.0,
        job.epoch.0,
        job.state.name()
    );
    if let JobState::Assigned { attempt, lease, .. } | JobState::Running { attempt, lease, .. } = &job.state {
        // Writing into a text does not fail.
        let _ = write!(text, " {attempt} on {} in {}", lease.worker, lease.session);
    } else if let Some(end) = job.last_attempt().and_then(|attempt| attempt.end.as_ref()) {
        let _ = write!(text, " after {}", end.outcome.word());
    }
    if job.cancel.is_some() {
        text.push_str(" cancel");
    }
    text + " #" + &sum
}

impl Observer for Checker {
    fn job_stored(&self, by: Caller, job: &Job) {
        self.history.note(line(by, job));
        held(&self.known).jobs.insert(job.id, job.clone());
    }

    fn job_changed(&self, by: Caller, before: &Job, after: &Job) {
        self.history.note(line(by, after));
        for broken in self.change(before, after) {
            self.history.violated(broken);
        }
        let mut known = held(&self.known);
        known.clock += 1;
        let now = known.clock;
        if after.attempts_total > before.attempts_total {
            known.assigned.insert(after.id, now);
        }
        known.jobs.insert(after.id, after.clone());
        for attempt in newly_ended(before, after) {
            let word = attempt.end.as_ref().map_or("", |end| end.outcome.word());
            self.history.count(word);
            if matches!(
                attempt.end.as_ref().map(|end| &end.outcome),
                Some(Outcome::WorkerLost)
            ) {
                self.history.count("expired");
            }
        }
    }

    fn write_refused(&self, by: Caller, write: Write, wanted: &Job, row: &Job) {
        let is_stale = wanted.epoch < row.epoch;
        let whose = if is_stale { "an older term's" } else { "a" };
        self.history.note(format_args!(
            "REFUSED by {}: {whose} {} of {} at r{} e{}",
            by.0,
            write.name(),
            row.id,
            row.revision.0,
            row.epoch.0
        ));
        if is_stale {
            self.history.count(STALE_WRITE);
        }
    }

    fn session_changed(&self, by: Caller, session: &Session) {
        self.history.note(format_args!(
            "SESSION by {}: {} of {} conn {} beat {} lost {}",
            by.0, session.id, session.worker, session.conn, session.beat, session.lost
        ));
        if session.lost {
            self.history.count("session lost");
        }
    }

    fn term_begun(&self, by: Caller, epoch: Epoch) {
        self.history.note(format_args!("TERM {} by {}", epoch.0, by.0));
        self.history.count("term");
        let mut known = held(&self.known);
        known.clock += 1;
        let now = known.clock;
        known.taking_over.insert(by, (epoch, now));
    }

    /// The first time in a term this is right after the take-over: what was held when the term began is the term's.
    fn queue_built(&self, by: Caller) {
        self.history.note(format_args!("QUEUE built by {}", by.0));
        let mut known = held(&self.known);
        let Some((epoch, begun)) = known.taking_over.remove(&by) else {
            return;
        };
        for job in known.jobs.values() {
            let since = known.assigned.get(&job.id).copied().unwrap_or(0);
            if job.state.held().is_some() && since < begun && job.epoch < epoch {
                self.history
                    .violated(format!("I10: {} was not taken over by term {}", job.id, epoch.0));
            }
        }
    }
}
