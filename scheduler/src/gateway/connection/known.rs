//! What a connection knows of the attempts that its agent speaks of, and how much of each stream is stored.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::Job;
use common::log::Stream;
use common::time::Mono;

/// Most attempts remembered. Far above what an agent may hold; the ended ones among them go first.
const ATTEMPTS_MAX: usize = 4_096;

/// Most separate pieces of a stream that may be ahead of a gap.
const PIECES_MAX: usize = 256;

/// How long a gap is waited on. Agents send in order, so a gap is the middle that the cap dropped; one that was only
/// shuffled on the way closes at once.
pub const GAP_PATIENCE: Duration = Duration::from_millis(500);

/// Whose an attempt is, as the row said when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Current, and of this session.
    Ours,
    /// This worker's, but not current or of another session; or unknown.
    Stale,
    /// Another worker's.
    Foreign,
}

/// What the row says of `attempt`.
pub fn standing(row: Option<&Job>, attempt: AttemptId, worker: &WorkerId, session: SessionId) -> Standing {
    let Some(job) = row else { return Standing::Stale };
    match (job.attempt(attempt), job.state.held()) {
        (Some(found), _) if found.lease.worker != *worker => Standing::Foreign,
        (Some(_), Some((current, lease))) if current == attempt && lease.session == session => Standing::Ours,
        (Some(_), _) | (None, _) => Standing::Stale,
    }
}

#[derive(Debug)]
pub struct Known {
    pub job: JobId,
    pub standing: Standing,
    /// The assignment was sent on this connection.
    pub assigned: bool,
    pub cancelled: bool,
    /// The agent listed it in its hello.
    pub in_hello: bool,
    pub tracks: [Track; 2],
    /// The tracks begin where the store ended.
    pub tracks_loaded: bool,
    /// What came since the size of its log was looked at.
    pub unlooked: u64,
    /// Its log is larger than an honest agent's can be: nothing more of it is stored.
    pub flooded: bool,
}

impl Known {
    pub fn new(job: JobId, standing: Standing) -> Self {
        Self {
            job,
            standing,
            assigned: false,
            cancelled: false,
            in_hello: false,
            tracks: [Track::default(), Track::default()],
            tracks_loaded: false,
            unlooked: 0,
            flooded: false,
        }
    }

    pub fn track(&mut self, stream: Stream) -> &mut Track {
        &mut self.tracks[stream.index()]
    }
}

/// All of them, bounded.
#[derive(Debug, Default)]
pub struct Attempts(HashMap<AttemptId, Known>);

impl Attempts {
    pub fn get(&mut self, attempt: AttemptId) -> Option<&mut Known> {
        self.0.get_mut(&attempt)
    }

    pub fn insert(&mut self, attempt: AttemptId, known: Known) -> &mut Known {
        if self.0.len() >= ATTEMPTS_MAX {
            self.0.retain(|_, known| known.standing == Standing::Ours);
            if self.0.len() >= ATTEMPTS_MAX {
                // Only forgotten: the rows tell everything again.
                self.0.clear();
            }
        }
        self.0.entry(attempt).or_insert(known)
    }

    /// Streams whose gap has been waited on for long enough.
    pub fn overdue(&self, now: Mono) -> Vec<(AttemptId, Stream)> {
        let overdue = self.gaps().filter(|(_, _, at)| now >= *at);
        overdue.map(|(attempt, stream, _)| (attempt, stream)).collect()
    }

    /// When the first of them will be.
    pub fn first_overdue(&self) -> Option<Mono> {
        self.gaps().map(|(_, _, at)| at).min()
    }

    fn gaps(&self) -> impl Iterator<Item = (AttemptId, Stream, Mono)> {
        self.0.iter().flat_map(|(attempt, known)| {
            let overdue_at = |stream: Stream| known.tracks[stream.index()].overdue_at();
            Stream::ALL
                .into_iter()
                .filter_map(move |stream| Some((*attempt, stream, overdue_at(stream)?)))
        })
    }
}

/// How far one stream is stored without a gap.
#[derive(Debug, Default)]
pub struct Track {
    /// Every chunk before this one is stored, or was dropped by the agent.
    next: u64,
    /// Stored pieces beyond a gap, as `from -> until`.
    ahead: BTreeMap<u64, u64>,
    gap_since: Option<Mono>,
    /// A gap was passed over, so that `next` proves nothing.
    jumped: bool,
}

impl Track {
    /// Goes on where the store ended.
    pub const fn begin_at(&mut self, next: u64) {
        self.next = next;
    }

    pub fn stored(&mut self, seq: u64, now: Mono) {
        let mut until = seq.saturating_add(1);
        if seq >= self.next {
            let mut from = seq;
            if let Some((&before, &end)) = self.ahead.range(..=seq).next_back()
                && end >= seq
            {
                (from, until) = (before, until.max(end));
            }
            while let Some((&after, &end)) = self.ahead.range(from..).next()
                && after <= until
            {
                until = until.max(end);
                self.ahead.remove(&after);
            }
            self.ahead.insert(from, until);
            self.close(now);
        }
        if self.ahead.len() > PIECES_MAX {
            self.jump(now);
        }
    }

    /// Passes over the gap.
    pub fn jump(&mut self, now: Mono) {
        if let Some((&from, _)) = self.ahead.first_key_value() {
            self.next = from;
            self.jumped = true;
            self.gap_since = None;
            self.close(now);
        }
    }

    /// When its gap will have been waited on for long enough.
    pub fn overdue_at(&self) -> Option<Mono> {
        self.gap_since.map(|since| since.after(GAP_PATIENCE))
    }

    /// The highest chunk that can be acknowledged.
    pub fn acknowledge(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// Whether the first `chunks` are known to be stored, every one.
    pub const fn holds(&self, chunks: u64) -> bool {
        chunks == 0 || (!self.jumped && self.next >= chunks)
    }

    fn close(&mut self, now: Mono) {
        if let Some((&from, &until)) = self.ahead.first_key_value()
            && from <= self.next
        {
            self.next = self.next.max(until);
            self.ahead.remove(&from);
            self.gap_since = None;
        }
        if self.ahead.is_empty() {
            self.gap_since = None;
        } else if self.gap_since.is_none() {
            self.gap_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::lifecycle::testing::{job, spec};
    use common::lifecycle::{JobEvent, step};
    use common::time::Timestamp;
    use proptest::prelude::*;

    const NOW: Mono = Mono::from_millis(0);

    proptest! {
        #[test]
        fn any_order_with_repeats_ends_with_every_chunk_acknowledged(
            order in Just((0u64..64).flat_map(|seq| [seq, seq, seq]).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut track = Track::default();
            let mut seen = std::collections::BTreeSet::new();
            for seq in order {
                seen.insert(seq);
                track.stored(seq, NOW);
                let contiguous = (0..).find(|seq| !seen.contains(seq)).unwrap();
                prop_assert_eq!(track.acknowledge(), contiguous.checked_sub(1));
            }
            prop_assert!(track.holds(64) && !track.holds(65) && track.gap_since.is_none());
        }

        #[test]
        fn no_sequence_grows_without_bound(seqs in proptest::collection::vec(any::<u64>(), 0..2_000)) {
            let mut track = Track::default();
            for seq in seqs {
                track.stored(seq, NOW);
                prop_assert!(track.ahead.len() <= PIECES_MAX + 1);
            }
        }
    }

    #[test]
    fn a_gap_that_stays_is_passed_over_and_proves_nothing() {
        let mut attempts = Attempts::default();
        let attempt = AttemptId::random();
        let track = attempts
            .insert(attempt, Known::new(JobId::random(), Standing::Ours))
            .track(Stream::Stdout);
        track.stored(0, NOW);
        track.stored(9, NOW);
        assert_eq!(attempts.overdue(NOW), vec![]);
        assert_eq!(attempts.first_overdue(), Some(NOW.after(GAP_PATIENCE)));
        assert_eq!(
            attempts.overdue(NOW.after(GAP_PATIENCE)),
            vec![(attempt, Stream::Stdout)]
        );
        let track = attempts.get(attempt).unwrap().track(Stream::Stdout);
        assert_eq!(track.acknowledge(), Some(0));
        track.jump(NOW);
        assert_eq!(track.acknowledge(), Some(9));
        assert!(!track.holds(5));
        assert_eq!(attempts.first_overdue(), None);
    }

    #[test]
    fn an_attempt_is_ours_only_while_the_row_says_so() {
        let (worker, session) = (WorkerId::new("w").unwrap(), SessionId::random());
        let attempt = AttemptId::random();
        let lease = common::job::Lease {
            worker: worker.clone(),
            session,
        };
        let claim = JobEvent::Claimed {
            attempt,
            lease,
            epoch: Default::default(),
        };
        let held = step(&job(spec()), claim, Timestamp::default()).unwrap().job;
        let lost = step(&held, JobEvent::Absent { attempt }, Timestamp::default())
            .unwrap()
            .job;
        let other = WorkerId::new("other").unwrap();
        assert_eq!(standing(Some(&held), attempt, &worker, session), Standing::Ours);
        assert_eq!(
            standing(Some(&held), attempt, &worker, SessionId::random()),
            Standing::Stale
        );
        assert_eq!(standing(Some(&held), attempt, &other, session), Standing::Foreign);
        assert_eq!(standing(Some(&lost), attempt, &worker, session), Standing::Stale);
        assert_eq!(standing(None, attempt, &worker, session), Standing::Stale);
    }
}
