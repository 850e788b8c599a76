//! What a seed means: how large the system is, what it is set to, and which faults it meets. Each seed draws its own
//! set, since a mix of everything hides what a few faults alone would show.

use std::time::Duration;

use common::config::LeaseTimes;
use common::lifecycle::Rules;

use super::dice::Dice;

/// The last lease has to be lost, and some dozens of jobs of a few seconds tried again a few times on one slot.
const QUIET_WITHIN: Duration = Duration::from_secs(180);

/// How far a clock that is set wrong is off.
pub const CLOCK_STEP: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub schedulers: u32,
    pub agents: u32,
    pub slots: u32,
    pub jobs: u32,
    /// For so long jobs and faults come; then everything is mended.
    pub load_for: Duration,
    pub times: LeaseTimes,
    pub rules: Rules,
    pub faults: Faults,
    /// Stays when everything else is mended; work has to go on without it.
    pub lasting: Option<Lasting>,
    /// Longest that the mended system may take to be done with everything.
    pub quiet_within: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// What the first agent says is heard by nobody.
    AgentUnheard,
    /// The first scheduler hangs.
    SchedulerPaused,
}

/// Shares are of calls, frames or hints.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub call_lost: f64,
    pub call_unheard: f64,
    pub call_late: f64,
    /// How much later a call that was given up may arrive, in milliseconds.
    pub late_max: u64,
    /// The ordinary time of a call, one way.
    pub call_max: u64,
    pub call_slow: f64,
    pub slow_max: u64,
    pub hint_lost: f64,
    pub hint_twice: f64,
    pub hint_max: u64,
    pub frame_max: u64,
    pub frame_twice: f64,
    /// An old frame is said again, on whatever connection there is.
    pub frame_again: f64,
    pub prepare_fails: f64,
    pub adopt_fails: f64,
    pub skew_max: u64,
    pub events: Vec<Event>,
    /// Longest pause between two events, in milliseconds.
    pub event_every: u64,
}

/// What happens to the system at some instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    LockDropped,
    QueueWiped,
    QueueThinned,
    CoordLost,
    RowsAway,
    CoordAway,
    LinkCut,
    LinkHeld,
    LinkHalfCut,
    AgentApart,
    AgentPaused,
    AgentPausedLong,
    AgentKilled,
    AgentKilledLong,
    NodeReboots,
    ContainerVanishes,
    SchedulerPaused,
    SchedulerKilled,
    /// A leader is stopped between its look at the lock and its write, and goes on when the lock is another's.
    LeaderStopped,
    /// The calendar of a scheduler or an agent is set an hour ahead or back.
    ClockStepped,
}

impl Event {
    /// What a seed may draw. Not the clock: what is to happen at a time may then wait for an hour, which would hide
    /// what waits for ever.
    pub const DRAWN: [Self; 19] = [
        Self::LockDropped,
        Self::QueueWiped,
        Self::QueueThinned,
        Self::CoordLost,
        Self::RowsAway,
        Self::CoordAway,
        Self::LinkCut,
        Self::LinkHeld,
        Self::LinkHalfCut,
        Self::AgentApart,
        Self::AgentPaused,
        Self::AgentPausedLong,
        Self::AgentKilled,
        Self::AgentKilledLong,
        Self::NodeReboots,
        Self::ContainerVanishes,
        Self::SchedulerPaused,
        Self::SchedulerKilled,
        Self::LeaderStopped,
    ];
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let dice = Dice::of(seed);
        let agents = dice.number(2, 3);
        let lasting = match dice.number(0, 9) {
            0 => Some(Lasting::AgentUnheard),
            1 => Some(Lasting::SchedulerPaused),
            _ => None,
        };
        Self {
            seed,
            schedulers: 2,
            agents: u32::try_from(agents).unwrap_or(2),
            slots: u32::try_from(dice.number(1, 4)).unwrap_or(1),
            jobs: u32::try_from(dice.number(8, 28)).unwrap_or(8),
            load_for: dice.millis(6_000, 16_000),
            times: times(&dice),
            rules: Rules::default(),
            faults: Faults::drawn(&dice),
            lasting,
            quiet_within: QUIET_WITHIN,
        }
    }
}

impl Faults {
    /// Nothing but these events, on a good network.
    pub fn only(events: &[Event], event_every: u64) -> Self {
        Self {
            call_max: 5,
            frame_max: 5,
            events: events.to_vec(),
            event_every,
            ..Self::default()
        }
    }

    fn drawn(dice: &Dice) -> Self {
        let share = |most: u64| {
            if dice.chance(0.4) {
                dice.number(1, most) as f64 / 1_000.0
            } else {
                0.0
            }
        };
        let often = [2, 5, 20][usize::try_from(dice.number(0, 2)).unwrap_or(0)];
        Self {
            call_lost: share(100),
            call_unheard: share(100),
            call_late: share(50),
            late_max: dice.number(500, 6_000),
            call_max: often,
            call_slow: share(30),
            slow_max: dice.number(100, 3_000),
            hint_lost: share(1_000),
            hint_twice: share(200),
            hint_max: dice.number(0, 50),
            frame_max: [1, 5, 30][usize::try_from(dice.number(0, 2)).unwrap_or(0)],
            frame_twice: share(200),
            frame_again: share(100),
            prepare_fails: share(100),
            adopt_fails: share(500),
            skew_max: dice.number(0, 300),
            events: Event::DRAWN.into_iter().filter(|_| dice.chance(0.3)).collect(),
            event_every: dice.number(500, 4_000),
        }
    }
}

fn times(dice: &Dice) -> LeaseTimes {
    let scaled = LeaseTimes::SCALED;
    LeaseTimes {
        lock_ttl: dice.millis(800, 2_000),
        heartbeat: dice.millis(200, 700),
        contact: dice.millis(1_000, 2_500),
        lost_after: dice.millis(5_500, 8_000),
        kill_grace: dice.millis(300, 1_000),
        sweep: dice.millis(300, 1_000),
        ..scaled
    }
}
