//! The run of an attempt: from a container that is ready, or one that is taken over, to its start and its stop.
//!
//! Invariants: the container is in the journal, synced, before `run`; nothing is started under a deadline that has
//! passed; the first stop that was asked for stands. What cannot be started or taken over ends in a report.

use common::attempt::Outcome;
use common::time::Mono;

use super::steps::Ready;
use super::{Attempt, Phase, Way, later, outcome};
use crate::executor::{AdoptFailure, End, ExecEvent, Prepared, Running, StartFailure, StopWhy};
use crate::journal::{Durability, Entry};

impl Attempt {
    pub(super) async fn on_prepared(&mut self, result: Result<Ready, Outcome>) -> Way {
        let ready = match result {
            Ok(ready) => ready,
            Err(outcome) => {
                self.report_bare(outcome).await;
                return Way::On;
            }
        };
        let container = ready.prepared.container().clone();
        self.held.container = Some(container.clone());
        self.held.facts = ready.facts.clone();
        let entry = Entry::Container {
            attempt: self.id(),
            container,
            facts: ready.facts,
        };
        // On the disk before `run`: a container that no journal knows must never have run anything.
        if !self.note(entry, Durability::Synced).await {
            ready.prepared.destroy().await;
            self.report_bare(outcome::infra("the agent's journal cannot be written"))
                .await;
            return Way::On;
        }
        let deadline = *self.lease.borrow();
        match deadline {
            Some(deadline) => self.start(ready.prepared, deadline).await,
            None => self.phase = Phase::Waiting(ready.prepared),
        }
        Way::On
    }

    pub(super) async fn start(&mut self, prepared: Box<dyn Prepared>, deadline: Mono) {
        if deadline <= self.context.clock.mono() {
            prepared.destroy().await;
            self.report_bare(Outcome::WorkerLost).await;
            return;
        }
        match prepared.run(deadline).await {
            Ok(running) => self.phase = Phase::Running(running),
            Err(failure) => {
                // Before the failure is reported, so that the next try goes elsewhere.
                if let StartFailure::Infra { .. } = failure {
                    self.context.condition.look().await;
                }
                self.report_bare(outcome::of_start_failure(&failure)).await;
            }
        }
    }

    pub(super) async fn on_adopted(&mut self, result: Result<Box<dyn Running>, AdoptFailure>) -> Way {
        self.asked.started = self.held.started_at.is_some();
        match result {
            Ok(mut running) => {
                let deadline = *self.lease.borrow();
                if let Some(deadline) = deadline {
                    running.set_deadline(deadline).await;
                }
                if let Some(why) = self.asked.stop {
                    running.stop(why).await;
                }
                self.phase = Phase::Running(running);
                self.arm_run_timeout();
                // The end was journaled already: what remains is to collect.
                if let Some(ended) = self.held.ended.clone() {
                    return self.on_ended(ended).await;
                }
            }
            Err(failure) => {
                self.seal();
                let outcome = match self.held.ended.clone() {
                    Some(ended) => outcome::of_end(&ended.end, &self.asked),
                    None => outcome::of_end(
                        &End::Silent {
                            engine_restarted: true,
                            oom: false,
                            message: failure.to_string(),
                        },
                        &self.asked,
                    ),
                };
                let report = self.report_of(outcome, None);
                self.conclude(report).await;
            }
        }
        Way::On
    }

    pub(super) async fn on_run(&mut self, event: ExecEvent) -> Way {
        match event {
            ExecEvent::Started => {
                self.on_started().await;
                Way::On
            }
            ExecEvent::Chunk(chunk) => self.on_chunks(chunk).await,
            ExecEvent::Ended(ended) => self.on_ended(ended).await,
        }
    }

    pub(super) async fn on_started(&mut self) {
        if self.held.started_at.is_none() {
            let (attempt, at) = (self.id(), self.context.clock.mono());
            self.held.started_at = Some(at);
            self.note(Entry::Started { attempt, at }, Durability::Written)
                .await;
        }
        self.say.started = true;
        if self.run_until.is_none() {
            self.arm_run_timeout();
        }
    }

    fn arm_run_timeout(&mut self) {
        if let Some(at) = self.held.started_at {
            let ran = self.context.clock.mono().since(at);
            let left = self.held.assignment.spec.limits.run.saturating_sub(ran);
            self.run_until = later(left);
        }
    }

    /// Ends the run, or what leads to it; nothing where the run has ended already.
    pub(super) async fn stop_run(&mut self, why: StopWhy) {
        match std::mem::replace(&mut self.phase, Phase::Reporting) {
            Phase::Running(mut running) => {
                self.asked.stop.get_or_insert(why);
                running.stop(why).await;
                self.phase = Phase::Running(running);
            }
            Phase::Adopting(adopting) => {
                self.asked.stop.get_or_insert(why);
                self.phase = Phase::Adopting(adopting);
            }
            // The task that prepares finds that nobody waits, and puts away what it has made.
            Phase::Preparing(_) => {
                let why = *self.asked.stop.get_or_insert(why);
                self.report_bare(outcome::stopped(why, &self.asked)).await;
            }
            Phase::Waiting(prepared) => {
                let why = *self.asked.stop.get_or_insert(why);
                prepared.destroy().await;
                self.report_bare(outcome::stopped(why, &self.asked)).await;
            }
            other @ (Phase::Gathering(_) | Phase::Reporting) => self.phase = other,
        }
    }
}
