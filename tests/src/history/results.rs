//! I3 and I6: one result is accepted and stands for good; late ones are refused and dropped.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::{AttemptId, JobId};
use common::job::StateName;

use super::{Event, History, Row, Violation};

/// A result may be refused again where the refusal itself was lost on the way; more often than this means that the
/// agent does not drop it.
const REFUSALS_MAX: usize = 3;

pub fn one_is_accepted(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (job, readings) in history.readings() {
        let mut add = |what| violations.push(Violation { job: Some(job), what });
        let mut ended: Option<&Row> = None;
        for (_, row) in readings {
            match ended {
                Some(first) if first.hash != row.hash => {
                    add(format!(
                        "it had ended as {} and changed, to {}",
                        first.state, row.state
                    ));
                    break;
                }
                None if row.state.is_terminal() => ended = Some(row),
                Some(_) | None => {}
            }
        }
        if let Some(row) = ended {
            violations.extend(of_ended(job, row));
        }
    }
    violations
}

/// An end belongs to the last attempt alone: the ones before it ended by the infrastructure's doing or were retried.
fn of_ended(job: JobId, row: &Row) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut add = |what: String| violations.push(Violation { job: Some(job), what });
    if let Some(open) = row.attempts.iter().find(|attempt| attempt.outcome.is_none()) {
        add(format!("it has ended, and attempt {} has not", open.number));
    }
    let own_ends = row
        .attempts
        .iter()
        .filter(|attempt| !attempt.was_infrastructure())
        .count();
    let most = usize::try_from(row.retries_max)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    if own_ends > most {
        add(format!("{own_ends} results were accepted, {most} can be"));
    }
    if row.state == StateName::Succeeded
        && row.attempts.last().and_then(|attempt| attempt.outcome.as_deref()) != Some("exited")
    {
        add("it succeeded without an attempt that exited".to_owned());
    }
    violations
}

pub fn late_ones_are_refused(history: &History, seen: usize) -> Vec<Violation> {
    let mut times: BTreeMap<AttemptId, usize> = BTreeMap::new();
    for attempt in history.refused() {
        *times.entry(attempt).or_default() += 1;
    }
    let mut violations = Vec::new();
    if times.len() < seen {
        violations.push(Violation {
            job: None,
            what: format!("{} late results were seen, expected {seen}", times.len()),
        });
    }
    let still_held = held_at_the_end(history);
    let rows = history.rows();
    for (attempt, times) in times {
        let found = rows.values().find_map(|row| {
            let attempt = row.attempts.iter().find(|other| other.id == attempt)?;
            Some((row.job, attempt))
        });
        let mut add = |what| {
            violations.push(Violation {
                job: found.map(|(job, _)| job),
                what: format!("{attempt} {what}"),
            });
        };
        if found.is_some_and(|(_, row)| !row.was_infrastructure()) {
            add("was refused, and its result is the accepted one".to_owned());
        }
        if times > REFUSALS_MAX {
            add(format!("was refused {times} times: its agent does not drop it"));
        }
        if still_held.contains(&attempt) {
            add("was refused, and its agent still holds it".to_owned());
        }
    }
    violations
}

fn held_at_the_end(history: &History) -> BTreeSet<AttemptId> {
    let mut held = BTreeMap::new();
    for line in history.lines() {
        if let Event::Holds { worker, attempts, .. } = &line.event {
            held.insert(worker, attempts);
        }
    }
    held.into_values().flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use common::job::StateName::{Failed, Running, Succeeded};

    use super::super::testing::{Story, attempt, broken};
    use crate::history::Event;
    use crate::history::Invariant::{I3, I6};

    #[test]
    fn what_has_ended_never_changes() {
        let ended = [attempt(1, "exited")];
        let good = Story::new()
            .row(1, "a", Running, &[attempt(1, "")])
            .row(2, "a", Succeeded, &ended)
            .row(3, "a", Succeeded, &ended);
        assert_eq!(broken(&good, I3), Vec::<String>::new());
        let turned = good.clone().row(4, "a", Failed, &ended);
        assert!(broken(&turned, I3)[0].contains("changed, to failed"));
        let risen = good.row(4, "a", Running, &ended);
        assert!(broken(&risen, I3)[0].contains("changed, to running"));
    }

    #[test]
    fn only_the_last_attempt_has_a_result() {
        let lost_and_done = [attempt(1, "worker_lost"), attempt(2, "exited")];
        let good = Story::new().row(1, "a", Succeeded, &lost_and_done);
        assert_eq!(broken(&good, I3), Vec::<String>::new());
        let twice = Story::new().row(1, "a", Succeeded, &[attempt(1, "exited"), attempt(2, "exited")]);
        assert!(broken(&twice, I3)[0].contains("2 results were accepted"));
        let open = Story::new().row(1, "a", Succeeded, &[attempt(1, ""), attempt(2, "exited")]);
        assert!(broken(&open, I3)[0].contains("attempt 1 has not"));
        let none = Story::new().row(1, "a", Succeeded, &[attempt(1, "worker_lost")]);
        assert!(broken(&none, I3)[0].contains("without an attempt that exited"));
    }

    #[test]
    fn a_late_result_is_refused_counted_and_dropped() {
        let (lost, done) = (attempt(1, "worker_lost"), attempt(2, "exited"));
        let rows = Story::new().row(1, "a", Succeeded, &[lost.clone(), done.clone()]);
        let refused = |attempt| Event::Refused { attempt };
        let good = rows.clone().tell(2, refused(lost.id)).holds(3, &[]);
        assert_eq!(broken(&good, I6 { seen: 1 }), Vec::<String>::new());
        assert!(broken(&good, I6 { seen: 2 })[0].contains("expected 2"));
        let accepted = rows.clone().tell(2, refused(done.id));
        assert!(broken(&accepted, I6 { seen: 1 })[0].contains("is the accepted one"));
        let kept = good.clone().holds(4, &[lost.id]);
        assert!(broken(&kept, I6 { seen: 1 })[0].contains("still holds it"));
        let mut endless = good;
        for at in 5..9 {
            endless = endless.tell(at, refused(lost.id));
        }
        assert!(broken(&endless, I6 { seen: 1 })[0].contains("does not drop it"));
    }
}
