//! The modelled world: one row, a lock, a term counter, two leaders, two workers with their gateways, one client.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use common::attempt::{AttemptReport, Outcome};
use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{CancelRequest, CancelledBy, Epoch, Job, JobSpec, Lease, StateName};
use common::lifecycle::testing::{job, spec};
use common::lifecycle::{JobEvent, Refusal, Rules, step_by};
use common::log::MissingLogs;
use common::retry::{INFRA_RETRIES_MAX, RetryPolicy};
use common::time::Timestamp;

use super::laws;

const NOW: Timestamp = Timestamp::from_millis(0);
const TERMS_MAX: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    NoAttemptCheck,
    NoEpochCheck,
    TakeOverKeepsRevision,
    ExpireOnlyOwnTerm,
    NoSecondLook,
    FinishIgnoresCancel,
    FinishGivesUpOnConflict,
    ExpireLeavesAttemptOpen,
    RetriesAreFree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    TakeLock(usize),
    LockExpires,
    BeginTerm(usize),
    SecondLook(usize),
    /// One look of the take-over sweep; ends it when nothing is left to take over.
    SweepLoad(usize),
    SweepCommit(usize),
    Load(usize),
    Claim {
        leader: usize,
        worker: usize,
    },
    Expire(usize),
    Due(usize),
    DeclareLost {
        leader: usize,
        worker: usize,
    },
    Resign(usize),
    /// The worker learns of its assignment and runs it.
    Deliver(usize),
    /// The run ends; its result waits at the worker.
    RunEnds(usize),
    FinishLoad(usize),
    FinishCommit(usize),
    CancelLoad,
    CancelCommit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Standby,
    HasLock,
    Looking(u64),
    Sweeping(u64),
    Active(u64),
}

#[derive(Clone, Hash)]
struct Leader {
    phase: Phase,
    /// The row as it was read last.
    seen: Option<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Run {
    Nothing,
    Running(AttemptId),
    Ended(AttemptId),
}

#[derive(Clone, Hash)]
struct Worker {
    lost: bool,
    run: Run,
    /// The row as its gateway read it last, on the way to finish.
    seen: Option<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    Quiet,
    Confirmed,
}

/// A job that hashes by what decides; the rest follows from it.
#[derive(Clone)]
struct Row(Job);

impl Hash for Row {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let job = &self.0;
        job.state.name().hash(hasher);
        job.state
            .held()
            .map(|(attempt, lease)| (attempt, lease.clone()))
            .hash(hasher);
        (
            job.epoch,
            job.revision,
            job.cancel.is_some(),
            job.attempts_total,
            job.infra_retries,
        )
            .hash(hasher);
        for attempt in &job.attempts {
            (attempt.id, attempt.end.as_ref().map(|end| end.outcome.word())).hash(hasher);
        }
    }
}

#[derive(Clone, Hash)]
pub struct World {
    row: Row,
    lock: Option<usize>,
    terms: u64,
    leaders: [Leader; 2],
    workers: [Worker; 2],
    client: Client,
    client_seen: Option<Row>,
    ends: u8,
    /// The law that a write broke by what it replaced.
    overwritten: Option<&'static str>,
    mutant: Settings,
}

#[derive(Clone)]
struct Settings {
    rules: Rules,
    mutant: Option<Mutant>,
}

impl Hash for Settings {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl World {
    pub fn new(mutant: Option<Mutant>) -> Self {
        let all = Rules::default();
        let rules = match mutant {
            Some(Mutant::NoAttemptCheck) => Rules {
                check_attempt: false,
                ..all
            },
            Some(Mutant::NoEpochCheck) => Rules {
                check_epoch: false,
                ..all
            },
            Some(Mutant::TakeOverKeepsRevision) => Rules {
                take_over_raises_revision: false,
                ..all
            },
            Some(Mutant::ExpireOnlyOwnTerm) => Rules {
                expire_older_terms: false,
                ..all
            },
            Some(Mutant::FinishIgnoresCancel) => Rules {
                finish_honours_cancel: false,
                ..all
            },
            Some(
                Mutant::NoSecondLook
                | Mutant::FinishGivesUpOnConflict
                | Mutant::ExpireLeavesAttemptOpen
                | Mutant::RetriesAreFree,
            )
            | None => all,
        };
        let retry = RetryPolicy {
            backoff: Duration::ZERO,
            ..RetryPolicy::default()
        };
        let mut job = job(JobSpec { retry, ..spec() });
        job.id = JobId::from_u128(1);
        // The first leader leads already: the steps of a start would only eat into the depth.
        let leader = Leader {
            phase: Phase::Standby,
            seen: None,
        };
        let worker = Worker {
            lost: false,
            run: Run::Nothing,
            seen: None,
        };
        Self {
            row: Row(job),
            lock: Some(0),
            terms: 1,
            leaders: [
                Leader {
                    phase: Phase::Active(1),
                    seen: None,
                },
                leader,
            ],
            workers: [worker.clone(), worker],
            client: Client::Quiet,
            client_seen: None,
            ends: 0,
            overwritten: None,
            mutant: Settings { rules, mutant },
        }
    }

    /// Its job was lost as often as it may be: what is next is its last attempt.
    pub fn with_budget_spent() -> Self {
        let mut world = Self::new(None);
        world.row.0.attempts_total = INFRA_RETRIES_MAX;
        world.row.0.infra_retries = INFRA_RETRIES_MAX;
        world
    }

    /// What anybody could do next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.lock.is_some() {
            actions.push(Action::LockExpires);
        }
        for (number, leader) in self.leaders.iter().enumerate() {
            self.leader_actions(number, leader, &mut actions);
        }
        for (number, worker) in self.workers.iter().enumerate() {
            self.worker_actions(number, worker, &mut actions);
        }
        match (self.client, &self.client_seen) {
            (Client::Quiet, None) => actions.push(Action::CancelLoad),
            (Client::Quiet, Some(_)) => actions.push(Action::CancelCommit),
            (Client::Confirmed, _) => {}
        }
        actions
    }

    fn leader_actions(&self, number: usize, leader: &Leader, actions: &mut Vec<Action>) {
        match leader.phase {
            Phase::Standby if self.lock.is_none() => actions.push(Action::TakeLock(number)),
            Phase::Standby => {}
            Phase::HasLock if self.terms < TERMS_MAX => actions.push(Action::BeginTerm(number)),
            Phase::HasLock => {}
            Phase::Looking(_) => actions.push(Action::SecondLook(number)),
            Phase::Sweeping(_) if leader.seen.is_none() => actions.push(Action::SweepLoad(number)),
            Phase::Sweeping(_) => actions.push(Action::SweepCommit(number)),
            Phase::Active(_) => {
                actions.push(Action::Resign(number));
                actions.push(Action::Load(number));
                for worker in 0..2 {
                    if !self.workers[worker].lost {
                        actions.push(Action::DeclareLost {
                            leader: number,
                            worker,
                        });
                    }
                }
                if let Some(Row(seen)) = &leader.seen {
                    match seen.state.name() {
                        StateName::Queued => {
                            actions.extend((0..2).map(|worker| Action::Claim {
                                leader: number,
                                worker,
                            }));
                        }
                        StateName::Scheduled => actions.push(Action::Due(number)),
                        StateName::Assigned | StateName::Running => {
                            let lost = seen
                                .state
                                .lease()
                                .is_some_and(|lease| self.workers[worker_of(lease)].lost);
                            if lost {
                                actions.push(Action::Expire(number));
                            }
                        }
                        StateName::Succeeded | StateName::Failed | StateName::Cancelled => {}
                    }
                }
            }
        }
    }

    fn worker_actions(&self, number: usize, worker: &Worker, actions: &mut Vec<Action>) {
        match worker.run {
            Run::Nothing => {
                if self
                    .row
                    .0
                    .state
                    .lease()
                    .is_some_and(|lease| worker_of(lease) == number)
                {
                    actions.push(Action::Deliver(number));
                }
            }
            Run::Running(_) => actions.push(Action::RunEnds(number)),
            Run::Ended(_) if worker.seen.is_none() => actions.push(Action::FinishLoad(number)),
            Run::Ended(_) => actions.push(Action::FinishCommit(number)),
        }
    }

    /// Takes one step; the invariant that this very step broke, if any.
    pub fn act(&mut self, action: Action) -> Option<&'static str> {
        match action {
            Action::LockExpires => self.lock = None,
            Action::TakeLock(leader) => {
                self.lock = Some(leader);
                self.leaders[leader].phase = Phase::HasLock;
            }
            Action::BeginTerm(leader) => {
                self.terms += 1;
                self.leaders[leader].phase = Phase::Looking(self.terms);
            }
            Action::SecondLook(leader) => return self.second_look(leader),
            Action::SweepLoad(leader) => self.sweep_load(leader),
            Action::SweepCommit(leader) => self.sweep_commit(leader),
            Action::Load(leader) => self.leaders[leader].seen = Some(self.row.clone()),
            Action::Claim { leader, worker } => {
                let epoch = self.term_of(leader);
                let number = u128::from(
                    self.leaders[leader]
                        .seen
                        .as_ref()
                        .map_or(0, |row| row.0.attempts_total),
                ) + 1;
                let attempt = AttemptId::from_u128(number * 10 + leader as u128);
                return self.lead(
                    leader,
                    JobEvent::Claimed {
                        attempt,
                        lease: lease_of(worker),
                        epoch,
                    },
                );
            }
            Action::Due(leader) => return self.lead(leader, JobEvent::Due),
            Action::Expire(leader) => return self.expire(leader),
            Action::DeclareLost { worker, .. } => self.workers[worker].lost = true,
            Action::Resign(leader) => {
                if self.lock == Some(leader) {
                    self.lock = None;
                }
                self.leaders[leader] = Leader {
                    phase: Phase::Standby,
                    seen: None,
                };
            }
            Action::Deliver(worker) => {
                if let Some(attempt) = self.row.0.state.attempt() {
                    self.workers[worker].run = Run::Running(attempt);
                }
            }
            Action::RunEnds(worker) => {
                if let Run::Running(attempt) = self.workers[worker].run {
                    self.workers[worker].run = Run::Ended(attempt);
                }
            }
            Action::FinishLoad(worker) => self.workers[worker].seen = Some(self.row.clone()),
            Action::FinishCommit(worker) => return self.finish(worker),
            Action::CancelLoad => self.client_seen = Some(self.row.clone()),
            Action::CancelCommit => return self.cancel(),
        }
        None
    }

    /// What must hold in every state.
    pub fn broken(&self) -> Option<&'static str> {
        let job = &self.row.0;
        if self.ends > 1 {
            return Some("I3");
        }
        if self.client == Client::Confirmed
            && job.state.is_terminal()
            && job.state.name() != StateName::Cancelled
        {
            return Some("I8");
        }
        if let Some(attempt) = job.state.attempt() {
            // A leader of the newest term that has taken over could expire it, now or after another sweep.
            for leader in &self.leaders {
                if let Phase::Active(term) = leader.phase
                    && term == self.terms
                {
                    let expire = JobEvent::Expired {
                        attempt,
                        epoch: Epoch(term),
                    };
                    if let Err(Refusal::StaleEpoch { .. }) = step_by(&self.mutant.rules, job, expire, NOW) {
                        return Some("never-expires");
                    }
                }
            }
        }
        self.overwritten.or_else(|| laws::broken_by_row(job))
    }

    fn second_look(&mut self, leader: usize) -> Option<&'static str> {
        let Phase::Looking(term) = self.leaders[leader].phase else {
            return None;
        };
        if self.lock != Some(leader) && self.mutant.mutant != Some(Mutant::NoSecondLook) {
            self.leaders[leader].phase = Phase::Standby;
            return None;
        }
        self.leaders[leader].phase = Phase::Sweeping(term);
        (self.lock.is_some_and(|holder| holder != leader)).then_some("one-leader")
    }

    fn sweep_load(&mut self, leader: usize) {
        let Phase::Sweeping(term) = self.leaders[leader].phase else {
            return;
        };
        if self.row.0.state.held().is_some() && self.row.0.epoch < Epoch(term) {
            self.leaders[leader].seen = Some(self.row.clone());
        } else {
            self.leaders[leader].phase = Phase::Active(term);
        }
    }

    fn sweep_commit(&mut self, leader: usize) {
        let epoch = self.term_of(leader);
        if let Some(Row(seen)) = self.leaders[leader].seen.take()
            && let Ok(step) = step_by(&self.mutant.rules, &seen, JobEvent::TakenOver { epoch }, NOW)
        {
            self.compare_and_set(&seen, step.job);
        }
    }

    /// A leader's write by what it saw; a conflict makes it forget.
    fn lead(&mut self, leader: usize, event: JobEvent) -> Option<&'static str> {
        let Row(seen) = self.leaders[leader].seen.take()?;
        if let Ok(step) = step_by(&self.mutant.rules, &seen, event, NOW) {
            self.compare_and_set(&seen, step.job);
        }
        None
    }

    fn expire(&mut self, leader: usize) -> Option<&'static str> {
        let epoch = self.term_of(leader);
        let Row(seen) = self.leaders[leader].seen.take()?;
        let attempt = seen.state.attempt()?;
        let before = self.row.0.epoch;
        let mut step = step_by(
            &self.mutant.rules,
            &seen,
            JobEvent::Expired { attempt, epoch },
            NOW,
        )
        .ok()?;
        if self.mutant.mutant == Some(Mutant::ExpireLeavesAttemptOpen)
            && let Some(last) = step.job.attempts.last_mut()
        {
            last.end = None;
        }
        if self.mutant.mutant == Some(Mutant::RetriesAreFree) {
            step.job.infra_retries = seen.infra_retries;
        }
        let written = self.compare_and_set(&seen, step.job);
        (written && before > epoch).then_some("I10")
    }

    /// The gateway's finish: on a changed revision it loads again and decides again.
    fn finish(&mut self, worker: usize) -> Option<&'static str> {
        let Run::Ended(attempt) = self.workers[worker].run else {
            return None;
        };
        let Row(seen) = self.workers[worker].seen.take()?;
        let current = self.row.0.state.attempt();
        let event = JobEvent::Finished {
            attempt,
            report: Box::new(AttemptReport::bare(Outcome::Exited { code: 0 })),
            logs_missing: MissingLogs::default(),
        };
        match step_by(&self.mutant.rules, &seen, event, NOW) {
            Ok(step) => {
                if self.compare_and_set(&seen, step.job) {
                    self.workers[worker].run = Run::Nothing;
                    return (current != Some(attempt)).then_some("I6");
                }
                if self.mutant.mutant == Some(Mutant::FinishGivesUpOnConflict) {
                    self.workers[worker].run = Run::Nothing;
                    return (current == Some(attempt)).then_some("good-result-refused");
                }
            }
            Err(_) => {
                self.workers[worker].run = Run::Nothing;
                return (current == Some(attempt)).then_some("good-result-refused");
            }
        }
        None
    }

    fn cancel(&mut self) -> Option<&'static str> {
        let Row(seen) = self.client_seen.take()?;
        let request = CancelRequest {
            by: CancelledBy::System,
            why: None,
            at: NOW,
        };
        match step_by(&self.mutant.rules, &seen, JobEvent::CancelAsked(request), NOW) {
            Ok(step) => {
                if self.compare_and_set(&seen, step.job) {
                    self.client = Client::Confirmed;
                }
            }
            Err(_) => self.client = Client::Quiet,
        }
        None
    }

    fn compare_and_set(&mut self, seen: &Job, changed: Job) -> bool {
        if self.row.0.revision != seen.revision {
            return false;
        }
        self.overwritten = self
            .overwritten
            .or_else(|| laws::broken_by_write(&self.row.0, &changed));
        let was_over = self.row.0.state.is_terminal();
        if changed.state.is_terminal() && (!was_over || changed.state != self.row.0.state) {
            self.ends += 1;
        }
        self.row = Row(changed);
        true
    }

    fn term_of(&self, leader: usize) -> Epoch {
        match self.leaders[leader].phase {
            Phase::Active(term) | Phase::Sweeping(term) | Phase::Looking(term) => Epoch(term),
            Phase::Standby | Phase::HasLock => Epoch(0),
        }
    }
}

fn lease_of(worker: usize) -> Lease {
    let name = ["w0", "w1"][worker];
    Lease {
        worker: WorkerId::new(name).expect("a good name"),
        session: SessionId::from_u128(worker as u128),
    }
}

fn worker_of(lease: &Lease) -> usize {
    usize::from(lease.worker.as_str() == "w1")
}
