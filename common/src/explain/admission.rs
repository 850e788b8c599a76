//! Whether a job is taken at all: what no registered worker could ever run is refused before it is stored.

use std::time::Duration;

use super::{Fleet, Reason, VerdictKind, Verdicts, summary};
use crate::fit::{self, Wanted};
use crate::job::Resources;
use crate::time::Timestamp;

/// What becomes of a submission, as far as the fleet is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission<'a> {
    /// A worker that takes work could run it.
    Good,
    /// It is taken, and it is known already why it will wait.
    Waits { reason: Reason, sentence: String },
    /// No registered worker could ever run it.
    Refused {
        sentence: String,
        verdicts: Verdicts<'a>,
    },
}

/// Judges a job by the registered workers, those out of contact included. Where none is registered, or where a
/// worker of size `ceiling` may still come and would be large enough, it is taken. `hint`: the worker that took the
/// job before this one, which is asked first.
pub fn admit<'a>(
    wanted: Wanted<'a>,
    fleet: &'a Fleet,
    ceiling: Option<&Resources>,
    now: Timestamp,
    contact: Duration,
    hint: &mut usize,
) -> Admission<'a> {
    let workers = fleet.workers();
    if workers.is_empty() {
        return Admission::Waits {
            reason: Reason::NoWorkers,
            sentence: "No worker is registered; it starts when one comes that is large enough.".to_owned(),
        };
    }
    let takes = |place: usize| {
        workers.get(place).is_some_and(|seen| {
            fit::could_ever(wanted, &seen.worker)
                && fit::absence(&seen.worker, seen.silent(now), contact).is_none()
        })
    };
    if takes(*hint) {
        return Admission::Good;
    }
    if let Some(place) = (0..workers.len()).find(|place| takes(*place)) {
        *hint = place;
        return Admission::Good;
    }
    let verdicts = Verdicts::of(wanted, fleet, None, now, contact);
    let reason = match verdicts.best() {
        None | Some(VerdictKind::Unsuitable) => {
            let sentence = summary::never(wanted, fleet);
            return if ceiling.is_some_and(|ceiling| holds(ceiling, wanted.resources)) {
                Admission::Waits {
                    reason: Reason::NoWorkerFits,
                    sentence: format!(
                        "No registered worker could run it, but the fleet may grow: {sentence}."
                    ),
                }
            } else {
                Admission::Refused { sentence, verdicts }
            };
        }
        Some(VerdictKind::Fits | VerdictKind::Reserved | VerdictKind::Busy) => return Admission::Good,
        Some(VerdictKind::NotReady) => Reason::WorkersNotReady,
        Some(VerdictKind::Draining) => Reason::WorkersDraining,
        Some(VerdictKind::Away) => Reason::WorkersAway,
    };
    let sentence = super::waiting::unavailable(&verdicts);
    Admission::Waits { reason, sentence }
}

const fn holds(ceiling: &Resources, wanted: Resources) -> bool {
    ceiling.cpu_millis >= wanted.cpu_millis
        && ceiling.memory_mib >= wanted.memory_mib
        && ceiling.disk_mib >= wanted.disk_mib
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::lifecycle::testing::{spec, worker};
    use crate::worker::Worker;

    const CONTACT: Duration = Duration::from_secs(15);

    fn fleet(workers: Vec<Worker>) -> Fleet {
        let live: HashSet<_> = workers.iter().filter_map(|worker| worker.session).collect();
        Fleet::new(workers, &live, Vec::new(), false)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn what_no_registered_worker_could_run_is_refused_unless_the_fleet_may_grow() {
        let (mut spec, fleet) = (spec(), fleet(vec![worker("w")]));
        spec.resources.memory_mib = 32_000;
        let wanted = Wanted::of(&spec);
        let judge = |ceiling: Option<&Resources>| admit(wanted, &fleet, ceiling, at(0), CONTACT, &mut 0);
        let Admission::Refused { sentence, verdicts } = judge(None) else {
            panic!("taken");
        };
        assert!(
            sentence.contains("needs 32000 MiB, it has 4096 MiB"),
            "{sentence}"
        );
        assert_eq!(verdicts.best(), Some(VerdictKind::Unsuitable));
        let large = Resources {
            memory_mib: 64_000,
            ..spec.resources
        };
        assert!(matches!(
            judge(Some(&large)),
            Admission::Waits {
                reason: Reason::NoWorkerFits,
                ..
            }
        ));
        let small = Resources {
            memory_mib: 31_999,
            ..spec.resources
        };
        assert!(matches!(judge(Some(&small)), Admission::Refused { .. }));
    }

    #[test]
    fn what_only_an_absent_worker_could_run_is_taken_with_the_reason() {
        let spec = spec();
        let wanted = Wanted::of(&spec);
        let empty = fleet(Vec::new());
        assert!(matches!(
            admit(wanted, &empty, None, at(0), CONTACT, &mut 0),
            Admission::Waits {
                reason: Reason::NoWorkers,
                ..
            }
        ));
        let away = fleet(vec![worker("w")]);
        let Admission::Waits { reason, sentence } = admit(wanted, &away, None, at(60), CONTACT, &mut 0)
        else {
            panic!("not told");
        };
        assert_eq!(reason, Reason::WorkersAway);
        assert!(sentence.contains("w: not heard for 1m 00s"), "{sentence}");
    }

    #[test]
    fn the_worker_that_took_the_last_one_is_asked_first() {
        let mut spec = spec();
        spec.resources.memory_mib = 5_000;
        let mut large = worker("w9");
        large.description.capacity.memory_mib = 8_000;
        let mut workers: Vec<Worker> = (0..9).map(|number| worker(&format!("w{number}"))).collect();
        workers.push(large);
        let (fleet, mut hint) = (fleet(workers), 0);
        let wanted = Wanted::of(&spec);
        assert_eq!(
            admit(wanted, &fleet, None, at(0), CONTACT, &mut hint),
            Admission::Good
        );
        assert_eq!(hint, 9);
        hint = 1_000;
        assert_eq!(
            admit(wanted, &fleet, None, at(0), CONTACT, &mut hint),
            Admission::Good
        );
    }
}
