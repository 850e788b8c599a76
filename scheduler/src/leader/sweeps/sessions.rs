//! Sessions that have been silent for T are declared lost, by compare-and-set on the beat that was seen.
//!
//! Silence is counted on this host's monotonic clock from the moment a beat was seen to move. A new leader, or one
//! that could not look for a while (its store was away, or it was paused), first gives the agents one reconnect grace:
//! beats could not be written, or were not seen, meanwhile.

use std::collections::HashMap;
use std::time::Duration;

use common::config::LeaseTimes;
use common::ids::SessionId;
use common::time::Mono;
use common::worker::Session;

use crate::leader::Context;
use crate::leader::term::{DutyError, Term};

pub struct Sessions {
    silence: Silence,
}

impl Sessions {
    pub fn new(times: &LeaseTimes, now: Mono) -> Self {
        Self {
            silence: Silence::new(times, now),
        }
    }

    /// # Errors
    /// When the term ended, or the store does not answer.
    pub async fn run(&mut self, context: &Context, term: &Term) -> Result<(), DutyError> {
        let live = context.stores.workers.live_sessions().await?;
        for (session, beat) in self.silence.observe(&live, context.clock.mono()) {
            term.check()?;
            if context.stores.workers.declare_lost(session, beat).await? {
                tracing::warn!(%session, "a worker's session is lost");
            }
        }
        Ok(())
    }
}

/// Watches beats. Pure.
#[derive(Debug)]
struct Silence {
    lost_after: Duration,
    grace: Duration,
    /// Looks further apart than this mean that we were away.
    look_gap: Duration,
    looked: Mono,
    /// Silence is counted from here at the earliest.
    counts_from: Mono,
    seen: HashMap<SessionId, (u64, Mono)>,
}

impl Silence {
    fn new(times: &LeaseTimes, now: Mono) -> Self {
        Self {
            lost_after: times.lost_after,
            grace: times.reconnect_grace(),
            look_gap: (3 * times.sweep).max(2 * times.heartbeat),
            looked: now,
            counts_from: now.after(times.reconnect_grace()),
            seen: HashMap::new(),
        }
    }

    /// The sessions that have been silent for too long, each with the beat seen.
    fn observe(&mut self, live: &[Session], now: Mono) -> Vec<(SessionId, u64)> {
        if now.since(self.looked) > self.look_gap {
            self.counts_from = now.after(self.grace);
        }
        self.looked = now;
        let before = std::mem::take(&mut self.seen);
        let mut silent = Vec::new();
        for session in live {
            let (moved, first) = match before.get(&session.id) {
                Some((beat, at)) if *beat == session.beat => (*at, false),
                Some(_) => (now, false),
                None => (now, true),
            };
            self.seen.insert(session.id, (session.beat, moved));
            if !first && now.since(moved.max(self.counts_from)) >= self.lost_after {
                silent.push((session.id, session.beat));
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::WorkerId;
    use common::time::Timestamp;

    const TIMES: LeaseTimes = LeaseTimes::REAL;

    fn at(seconds: u64) -> Mono {
        Mono::from_millis(seconds * 1_000)
    }

    fn session(beat: u64) -> Session {
        Session {
            id: SessionId::from_u128(1),
            worker: WorkerId::new("w").unwrap(),
            beat,
            conn: 1,
            lost: false,
            opened_at: Timestamp::default(),
        }
    }

    /// Looks each 5 s from `from` until the session is found silent.
    fn lost_at(silence: &mut Silence, from: u64, beat: u64) -> u64 {
        (0..)
            .map(|n| from + 5 * n)
            .find(|&second| !silence.observe(&[session(beat)], at(second)).is_empty())
            .unwrap()
    }

    #[test]
    fn a_new_leader_waits_one_grace_and_then_counts() {
        let mut silence = Silence::new(&TIMES, at(0));
        let (grace, lost_after) = (TIMES.reconnect_grace().as_secs(), TIMES.lost_after.as_secs());
        assert_eq!(lost_at(&mut silence, 0, 1), grace + lost_after);
    }

    #[test]
    fn a_moved_beat_starts_the_count_anew() {
        let mut silence = Silence::new(&TIMES, at(0));
        for second in (0..=200).step_by(5) {
            assert!(silence.observe(&[session(1)], at(second)).is_empty());
        }
        assert_eq!(lost_at(&mut silence, 205, 2), 205 + 300);
    }

    #[test]
    fn after_being_away_nobody_is_lost_before_a_grace_and_a_whole_count() {
        let mut silence = Silence::new(&TIMES, at(0));
        for second in (0..=300).step_by(5) {
            assert!(silence.observe(&[session(1)], at(second)).is_empty());
        }
        let back = 300 + 120;
        assert_eq!(
            lost_at(&mut silence, back, 1),
            back + TIMES.reconnect_grace().as_secs() + 300
        );
    }

    #[test]
    fn a_session_that_beats_is_never_lost() {
        let mut silence = Silence::new(&TIMES, at(0));
        for n in 0..1_000 {
            assert!(silence.observe(&[session(n)], at(5 * n)).is_empty());
        }
    }
}
