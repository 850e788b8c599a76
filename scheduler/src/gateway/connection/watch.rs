//! What a connection has to do unasked, and when the next of it is due.
//!
//! Everything else comes as an event. Nothing here is periodic: whatever is heard and said moves the deadlines on, so
//! that a connection that beats and is answered is never woken for its own sake, and thousands of them cost what they
//! say. Pure: the loop sleeps until [`Watch::next`] and then asks [`Watch::due`].

use std::time::Duration;

use common::config::LeaseTimes;
use common::time::Mono;

/// The allowance of messages is renewed this often.
const ALLOWANCE_PERIOD: Duration = Duration::from_secs(1);

/// What the store did not take is brought to it again after this long.
pub const AGAIN_AFTER: Duration = Duration::from_millis(250);

pub struct Watch {
    ping: Duration,
    /// How long an agent waits for a sign before it takes a connection for dead, and so do we.
    patience: Duration,
    heard: Mono,
    said: Mono,
    pinged: Mono,
    reads: bool,
    /// Messages that may still be read in this period.
    allowance: u32,
    allowance_whole: u32,
    allowance_since: Mono,
    gap: Option<Mono>,
    again: Option<Mono>,
}

/// What is due at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// The peer was silent for too long.
    pub silence: bool,
    pub ping: bool,
    /// A gap in a stream has been waited on for long enough.
    pub gap: bool,
    /// What the store did not take is to be tried again.
    pub again: bool,
}

impl Watch {
    pub fn new(times: &LeaseTimes, allowance: u32, now: Mono) -> Self {
        Self {
            ping: times.ping,
            patience: times.ping + times.pong_deadline,
            heard: now,
            said: now,
            pinged: now,
            reads: true,
            allowance,
            allowance_whole: allowance,
            allowance_since: now,
            gap: None,
            again: None,
        }
    }

    /// A message came.
    pub fn heard(&mut self, now: Mono) {
        self.heard = now;
        self.renew(now);
        self.allowance = self.allowance.saturating_sub(1);
    }

    /// Something was sent.
    pub fn said(&mut self, now: Mono) {
        self.said = now;
    }

    /// Whether one more message may be read in this period.
    pub const fn allows(&self) -> bool {
        self.allowance > 0
    }

    /// Whether the socket is read from now on. A peer that we do not read cannot be blamed for its silence: it counts
    /// from when it is read again.
    pub fn reads(&mut self, reads: bool, now: Mono) {
        if !reads || !self.reads {
            self.heard = now;
        }
        self.reads = reads;
    }

    /// A gap will have been waited on for long enough then, if there is one. That it closes before need not be told.
    pub fn gap_by(&mut self, at: Option<Mono>) {
        self.gap = self.gap.into_iter().chain(at).min();
    }

    /// The store has not taken something.
    pub fn again(&mut self, now: Mono) {
        self.again.get_or_insert(now.after(AGAIN_AFTER));
    }

    /// The first moment at which anything is due.
    pub fn next(&self) -> Mono {
        let silence = self.reads.then(|| self.heard.after(self.patience));
        let allowance = (!self.allows()).then(|| self.allowance_since.after(ALLOWANCE_PERIOD));
        [silence, allowance, self.gap, self.again]
            .into_iter()
            .flatten()
            .fold(self.ping_at(), Mono::min)
    }

    /// What is due now; it is not due any more when it has been told.
    pub fn due(&mut self, now: Mono) -> Due {
        self.renew(now);
        let silence = self.reads && now >= self.heard.after(self.patience);
        let ping = now >= self.ping_at();
        if ping {
            self.pinged = now;
        }
        Due {
            silence,
            ping,
            gap: self.gap.take_if(|at| now >= *at).is_some(),
            again: self.again.take_if(|at| now >= *at).is_some(),
        }
    }

    /// Both sides want a sign at least this often: what is heard and said anyway is one.
    fn ping_at(&self) -> Mono {
        self.pinged.max(self.heard.min(self.said)).after(self.ping)
    }

    fn renew(&mut self, now: Mono) {
        if now.since(self.allowance_since) >= ALLOWANCE_PERIOD {
            self.allowance = self.allowance_whole;
            self.allowance_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use common::time::{Clock, ManualClock, Timestamp};
    use proptest::prelude::*;

    use super::*;

    const TIMES: LeaseTimes = LeaseTimes::REAL;

    fn begun() -> (ManualClock, Watch) {
        let clock = ManualClock::new(Timestamp::default());
        let watch = Watch::new(&TIMES, 3, clock.mono());
        (clock, watch)
    }

    /// Turns the clock on to what is due next.
    fn until_due(clock: &ManualClock, watch: &mut Watch) -> (Duration, Due) {
        let wait = watch.next().since(clock.mono());
        clock.advance(wait);
        (wait, watch.due(clock.mono()))
    }

    #[test]
    fn a_connection_that_beats_and_is_answered_is_never_woken_for_its_own_sake() {
        let (clock, mut watch) = begun();
        for _ in 0..1_000 {
            let next = watch.next();
            clock.advance(TIMES.heartbeat);
            assert!(
                clock.mono() < next,
                "it would have been woken before the heartbeat"
            );
            watch.heard(clock.mono());
            // the renewal's window
            clock.advance(Duration::from_millis(500));
            assert!(
                clock.mono() < watch.next(),
                "it would have been woken before the answer"
            );
            watch.said(clock.mono());
        }
    }

    #[test]
    fn a_silent_peer_is_pinged_and_ends_when_the_pong_is_overdue() {
        let (clock, mut watch) = begun();
        let ping = Due {
            ping: true,
            ..Due::default()
        };
        assert_eq!(until_due(&clock, &mut watch), (TIMES.ping, ping));
        watch.said(clock.mono());
        let (wait, due) = until_due(&clock, &mut watch);
        assert_eq!(wait, TIMES.pong_deadline);
        assert!(due.silence);
    }

    #[test]
    fn a_peer_that_is_not_answered_hears_a_ping_in_time() {
        let (clock, mut watch) = begun();
        let (mut woken, mut silent) = (0, Duration::ZERO);
        for _ in 0..100 {
            // it speaks each second and nothing answers, as while the store is away
            clock.advance(Duration::from_secs(1));
            silent += Duration::from_secs(1);
            watch.heard(clock.mono());
            if clock.mono() >= watch.next() && watch.due(clock.mono()).ping {
                watch.said(clock.mono());
                (woken, silent) = (woken + 1, Duration::ZERO);
            }
            assert!(silent <= TIMES.ping, "it would have given the connection up");
        }
        assert_eq!(woken, 10);
    }

    #[test]
    fn a_peer_that_is_not_read_is_not_blamed_for_its_silence() {
        let (clock, mut watch) = begun();
        watch.reads(false, clock.mono());
        for _ in 0..50 {
            assert!(!until_due(&clock, &mut watch).1.silence);
        }
        watch.reads(true, clock.mono());
        assert_eq!(watch.next(), clock.mono().after(TIMES.ping));
        assert!(!until_due(&clock, &mut watch).1.silence);
        assert!(until_due(&clock, &mut watch).1.silence);
    }

    #[test]
    fn a_used_up_allowance_is_renewed_within_its_period() {
        let (clock, mut watch) = begun();
        for left in [true, true, false] {
            watch.heard(clock.mono());
            assert_eq!(watch.allows(), left);
        }
        watch.reads(false, clock.mono());
        assert_eq!(until_due(&clock, &mut watch), (ALLOWANCE_PERIOD, Due::default()));
        assert!(watch.allows());
    }

    #[test]
    fn what_the_store_did_not_take_and_gaps_are_due_once() {
        let (clock, mut watch) = begun();
        watch.again(clock.mono());
        watch.gap_by(Some(clock.mono().after(2 * AGAIN_AFTER)));
        let (wait, due) = until_due(&clock, &mut watch);
        assert!(wait == AGAIN_AFTER && due.again && !due.gap);
        let (wait, due) = until_due(&clock, &mut watch);
        assert!(wait == AGAIN_AFTER && due.gap && !due.again);
        assert!(watch.next() > clock.mono().after(AGAIN_AFTER));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Heard,
        Said,
        Reads(bool),
        Again,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u64..8_000).prop_map(Step::Wait),
            Just(Step::Heard),
            Just(Step::Said),
            any::<bool>().prop_map(Step::Reads),
            Just(Step::Again),
        ]
    }

    proptest! {
        /// Nothing is due before the moment told, something to be done is due at it, and it is never told in vain.
        #[test]
        fn the_next_moment_is_the_first_at_which_anything_is_due(
            steps in prop::collection::vec(any_step(), 0..40),
        ) {
            let (clock, mut watch) = begun();
            for step in steps {
                let now = clock.mono();
                match step {
                    Step::Wait(millis) => {
                        let wait = Duration::from_millis(millis).min(watch.next().since(now));
                        clock.advance(wait);
                    }
                    Step::Heard => watch.heard(now),
                    Step::Said => watch.said(now),
                    Step::Reads(reads) => watch.reads(reads, now),
                    Step::Again => watch.again(now),
                }
                let (next, now) = (watch.next(), clock.mono());
                let blocked = !watch.allows();
                let due = watch.due(now);
                let any = due != Due::default() || (blocked && watch.allows());
                prop_assert_eq!(any, now >= next, "{:?} of {:?} at {:?}", due, next, now);
                if !due.silence {
                    prop_assert!(watch.next() > now, "it is told again at once");
                }
            }
        }
    }
}
