//! What each worker has to say to a job.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Fleet, KeptRoom, KeptRooms, Seen};
use crate::fit::{self, Absence, Lack, Offer, Wanted};
use crate::ids::WorkerId;
use crate::time::Timestamp;
use crate::words::show_duration;

/// Most verdicts that are told one by one; the rest is counted. A fleet that a person reads through is smaller.
pub const VERDICTS_MAX: usize = 200;

/// Nearest to running the job first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// It has room now.
    Fits,
    /// It has room, and holds it back for a larger job.
    Reserved,
    /// It could run it, but has not enough free.
    Busy,
    /// It could run it, but cannot start jobs now, by its own word.
    NotReady,
    /// It could run it, but takes nothing new.
    Draining,
    /// It could run it, but is out of contact.
    Away,
    /// It could never run it.
    Unsuitable,
}

impl VerdictKind {
    pub const ALL: [Self; 7] = [
        Self::Fits,
        Self::Reserved,
        Self::Busy,
        Self::NotReady,
        Self::Draining,
        Self::Away,
        Self::Unsuitable,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fits => "fits",
            Self::Reserved => "reserved",
            Self::Busy => "busy",
            Self::NotReady => "not_ready",
            Self::Draining => "draining",
            Self::Away => "away",
            Self::Unsuitable => "unsuitable",
        }
    }
}

/// Of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub worker: &'a WorkerId,
    pub kind: VerdictKind,
    /// With `Busy` and `Unsuitable`; with `Reserved`, beside what is held back.
    pub lacks: Vec<Lack<'a>>,
    /// With `Away`: since the last word from it.
    pub silent: Option<Duration>,
    /// With `NotReady`.
    pub reasons: &'a [String],
    /// With `Reserved`: what is held back, and how long it was.
    pub kept: Option<(&'a KeptRoom, Duration)>,
}

impl<'a> Verdict<'a> {
    pub fn of(
        wanted: Wanted<'a>,
        seen: &'a Seen,
        kept: Option<&'a KeptRoom>,
        now: Timestamp,
        contact: Duration,
    ) -> Self {
        let worker = &seen.worker;
        let mut verdict = Self {
            worker: &worker.id,
            kind: VerdictKind::Fits,
            lacks: fit::lacks(wanted, Offer::idle(worker)).collect(),
            silent: None,
            reasons: &[],
            kept: None,
        };
        if !verdict.lacks.is_empty() {
            verdict.kind = VerdictKind::Unsuitable;
            return verdict;
        }
        match fit::absence(worker, seen.silent(now), contact) {
            Some(Absence::Away { .. }) => {
                verdict.kind = VerdictKind::Away;
                verdict.silent = Some(now.since(worker.heard_at));
            }
            Some(Absence::Draining) => verdict.kind = VerdictKind::Draining,
            Some(Absence::NotReady { reasons }) => {
                verdict.kind = VerdictKind::NotReady;
                verdict.reasons = reasons;
            }
            None => {
                verdict.lacks = fit::lacks(wanted, seen.offer()).collect();
                if !verdict.lacks.is_empty() {
                    verdict.kind = VerdictKind::Busy;
                } else if let Some(kept) = kept {
                    // as placement sees it: what is kept for another is no room
                    let mut left = seen.offer();
                    left.used = left.used.with(&kept.resources);
                    verdict.lacks = fit::lacks(wanted, left).collect();
                    if !verdict.lacks.is_empty() {
                        verdict.kind = VerdictKind::Reserved;
                        verdict.kept = Some((kept, now.since(kept.since)));
                    }
                }
            }
        }
        verdict
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            VerdictKind::Fits => f.write_str("has room"),
            VerdictKind::Reserved => {
                f.write_str("its room is held for ")?;
                match self.kept {
                    Some((KeptRoom { job: Some(job), .. }, since)) => {
                        write!(f, "the larger job {job} since {}", show_duration(since))
                    }
                    Some((_, since)) => write!(f, "a larger job since {}", show_duration(since)),
                    None => f.write_str("a larger job"),
                }
            }
            VerdictKind::Draining => f.write_str("draining"),
            VerdictKind::NotReady if self.reasons.is_empty() => f.write_str("not ready"),
            VerdictKind::NotReady => write!(f, "not ready: {}", self.reasons.join("; ")),
            VerdictKind::Away => {
                let silent = self.silent.unwrap_or_default();
                write!(f, "not heard for {}", show_duration(silent))
            }
            VerdictKind::Busy | VerdictKind::Unsuitable => {
                for (place, lack) in self.lacks.iter().enumerate() {
                    let between = if place > 0 { "; " } else { "" };
                    write!(f, "{between}{lack}")?;
                }
                Ok(())
            }
        }
    }
}

/// Of the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts<'a> {
    /// Nearest to running it first, [`VERDICTS_MAX`] at the most.
    pub shown: Vec<Verdict<'a>>,
    /// How many workers have which verdict, of all.
    pub counts: BTreeMap<VerdictKind, u32>,
}

impl<'a> Verdicts<'a> {
    pub fn of(
        wanted: Wanted<'a>,
        fleet: &'a Fleet,
        kept: Option<&'a KeptRooms>,
        now: Timestamp,
        contact: Duration,
    ) -> Self {
        let mut counts = BTreeMap::new();
        let mut shown: Vec<Verdict<'a>> = fleet
            .workers()
            .iter()
            .map(|seen| {
                let kept = kept.and_then(|kept| kept.on(&seen.worker.id));
                Verdict::of(wanted, seen, kept, now, contact)
            })
            .inspect(|verdict| *counts.entry(verdict.kind).or_insert(0) += 1)
            .collect();
        shown.sort_by(|one, other| (one.kind, one.worker).cmp(&(other.kind, other.worker)));
        shown.truncate(VERDICTS_MAX);
        Self { shown, counts }
    }

    /// The verdict nearest to running it; none where no worker is registered.
    pub fn best(&self) -> Option<VerdictKind> {
        self.counts.keys().next().copied()
    }
}
