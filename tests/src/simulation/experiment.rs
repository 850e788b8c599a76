//! What is tried with a seed: the system as it is, or with checks left out, among the faults that they are there for.

use std::str::FromStr;
use std::time::Duration;

use common::lifecycle::Rules;

use super::plan::{CLOCK_STEP, Event, Faults, Plan};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experiment {
    AsDrawn,
    /// A leader is stopped past its lock, another takes over, the first goes on.
    LeaderStopped,
    LeaderStoppedUnfenced,
    /// A worker is stopped past its lease, its jobs run elsewhere, the first goes on.
    WorkerStopped,
    WorkerStoppedUnfenced,
    /// Calendars are set an hour ahead and back, the leader's lock ends early, and nothing else happens.
    ClocksStepped,
    /// The same among everything else that a seed draws.
    ClocksSteppedInTrouble,
    WithoutAttempt,
    WithoutRevision,
    WithoutCancel,
}

/// All that fences leaders and agents is left out.
fn unfenced() -> Rules {
    Rules {
        check_attempt: false,
        check_epoch: false,
        take_over_raises_revision: false,
        ..Rules::default()
    }
}

impl Experiment {
    pub const ALL: [Self; 10] = [
        Self::AsDrawn,
        Self::LeaderStopped,
        Self::LeaderStoppedUnfenced,
        Self::WorkerStopped,
        Self::WorkerStoppedUnfenced,
        Self::ClocksStepped,
        Self::ClocksSteppedInTrouble,
        Self::WithoutAttempt,
        Self::WithoutRevision,
        Self::WithoutCancel,
    ];

    pub fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::of(seed);
        match self {
            Self::AsDrawn | Self::WithoutCancel => {}
            Self::LeaderStopped | Self::LeaderStoppedUnfenced | Self::WithoutRevision => {
                leader_stopped(&mut plan);
            }
            Self::WorkerStopped | Self::WorkerStoppedUnfenced | Self::WithoutAttempt => {
                worker_stopped(&mut plan);
            }
            Self::ClocksStepped => {
                plan.faults = Faults::only(&[Event::ClockStepped, Event::LockDropped], 1_500);
                plan.lasting = None;
                clocks_stepped(&mut plan);
            }
            Self::ClocksSteppedInTrouble => {
                // As often as all others together.
                let others = plan.faults.events.len().max(1);
                plan.faults.events.extend(vec![Event::ClockStepped; others]);
                clocks_stepped(&mut plan);
            }
        }
        plan.rules = self.rules();
        plan
    }

    fn rules(self) -> Rules {
        let mut rules = Rules::default();
        match self {
            Self::AsDrawn
            | Self::LeaderStopped
            | Self::WorkerStopped
            | Self::ClocksStepped
            | Self::ClocksSteppedInTrouble => {}
            Self::LeaderStoppedUnfenced | Self::WorkerStoppedUnfenced => rules = unfenced(),
            Self::WithoutAttempt => rules.check_attempt = false,
            Self::WithoutRevision => rules.take_over_raises_revision = false,
            Self::WithoutCancel => rules.finish_honours_cancel = false,
        }
        rules
    }
}

impl FromStr for Experiment {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let named = |experiment: &Self| format!("{experiment:?}") == text;
        Self::ALL.into_iter().find(named).ok_or(())
    }
}

/// Workers that are not heard give the leader something to expire, and it is stopped at its writes.
fn leader_stopped(plan: &mut Plan) {
    plan.faults = Faults::only(
        &[Event::LeaderStopped, Event::LeaderStopped, Event::AgentApart],
        800,
    );
    plan.load_for = Duration::from_secs(60);
    plan.jobs = 60;
    plan.lasting = None;
}

fn worker_stopped(plan: &mut Plan) {
    plan.faults = Faults::only(&[Event::AgentPausedLong], 4_000);
    plan.load_for = Duration::from_secs(40);
    plan.jobs = 40;
    plan.lasting = None;
}

/// What an hour that was wrong has put off may take that hour.
fn clocks_stepped(plan: &mut Plan) {
    plan.quiet_within += CLOCK_STEP;
}
