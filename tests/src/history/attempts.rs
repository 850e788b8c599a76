//! I4, I4b and I11: one attempt at a time, in the rows and in the world, and not more of them than a job may have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::job::ATTEMPTS_KEPT;
use common::retry::INFRA_RETRIES_MAX;

use super::jobs::nanos;
use common::ids::{AttemptId, JobId};

use super::{AttemptRow, History, Nanos, Row, Run, Violation};

pub fn one_at_a_time(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (job, readings) in history.readings() {
        let broken = readings.iter().find_map(|(_, row)| in_order(row));
        let broken = broken.or_else(|| written_in_order(&readings));
        violations.extend(broken.map(|what| Violation { job: Some(job), what }));
    }
    violations.extend(shared_attempts(history));
    violations
}

/// In the order in which the row was written, whoever read it when: a leader's term never falls, so no leader wrote after
/// a later one; and what was once an attempt's stays that attempt's.
fn written_in_order(readings: &[(Nanos, &Row)]) -> Option<String> {
    let mut rows: Vec<&Row> = readings.iter().map(|(_, row)| *row).collect();
    rows.sort_by_key(|row| row.revision);
    let mut known: BTreeMap<u32, &AttemptRow> = BTreeMap::new();
    for pair in rows.windows(2) {
        let [before, after] = pair else { continue };
        if before.revision == after.revision
            && (before.epoch, &before.attempts) != (after.epoch, &after.attempts)
        {
            return Some(format!("revision {} was read in two ways", after.revision));
        }
        if after.epoch < before.epoch {
            return Some(format!(
                "the term {} wrote revision {}, after the later term {} had written {}",
                after.epoch, after.revision, before.epoch, before.revision
            ));
        }
        if after.attempts_total < before.attempts_total {
            return Some(format!(
                "{} attempts were counted, and {} later",
                before.attempts_total, after.attempts_total
            ));
        }
    }
    for attempt in rows.iter().flat_map(|row| &row.attempts) {
        let first = *known.entry(attempt.number).or_insert(attempt);
        let lease = |attempt: &AttemptRow| (attempt.id, attempt.worker.clone(), attempt.session);
        if lease(first) != lease(attempt) {
            return Some(format!(
                "attempt {} is {} on {} in {:?}, and {} on {} in {:?}",
                attempt.number,
                first.id,
                first.worker,
                first.session,
                attempt.id,
                attempt.worker,
                attempt.session
            ));
        }
    }
    None
}

/// An id is one attempt's of one job.
fn shared_attempts(history: &History) -> Vec<Violation> {
    let mut owners: BTreeMap<AttemptId, (JobId, u32)> = BTreeMap::new();
    let mut violations = Vec::new();
    for (job, readings) in history.readings() {
        for attempt in readings.iter().flat_map(|(_, row)| &row.attempts) {
            let (owner, number) = *owners.entry(attempt.id).or_insert((job, attempt.number));
            if (owner, number) != (job, attempt.number) {
                let what = format!(
                    "{} is attempt {number} of {owner}, and attempt {} of this",
                    attempt.id, attempt.number
                );
                violations.push(Violation { job: Some(job), what });
            }
        }
    }
    violations.dedup();
    violations
}

/// Each attempt begins after the one before it has ended; numbers follow one another, ids are never used again.
fn in_order(row: &Row) -> Option<String> {
    let ids: BTreeSet<_> = row.attempts.iter().map(|attempt| attempt.id).collect();
    if ids.len() != row.attempts.len() {
        return Some("an attempt's id stands there twice".to_owned());
    }
    let total = usize::try_from(row.attempts_total).unwrap_or(usize::MAX);
    if row.attempts.len() != total.min(ATTEMPTS_KEPT) {
        return Some(format!(
            "{total} attempts are counted, {} are there",
            row.attempts.len()
        ));
    }
    row.attempts.windows(2).find_map(|pair| {
        let [before, after] = pair else { return None };
        if after.number != before.number + 1 {
            return Some(format!("attempt {} follows {}", after.number, before.number));
        }
        match before.ended_at {
            Some(ended) if ended <= after.assigned_at => None,
            Some(_) | None => Some(format!(
                "attempt {} began before {} had ended",
                after.number, before.number
            )),
        }
    })
}

pub fn runs_overlap_at_most(history: &History, most: Duration) -> Vec<Violation> {
    let acknowledged = history.acknowledged();
    let runs = history.runs();
    let mut violations = Vec::new();
    for (place, one) in runs.iter().enumerate() {
        for other in runs[place + 1..].iter().filter(|other| other.key == one.key) {
            let overlap = overlap(one, other);
            if overlap > nanos(most) {
                violations.push(Violation {
                    job: acknowledged.get(&one.key).copied(),
                    what: format!(
                        "ran twice for {:?}, in {} and {}; {most:?} are allowed",
                        Duration::from_nanos(overlap),
                        one.container,
                        other.container
                    ),
                });
            }
        }
    }
    violations
}

/// A run that was not seen to end lasts for ever.
fn overlap(one: &Run, other: &Run) -> u64 {
    let end = |run: &Run| run.ended.unwrap_or(u64::MAX);
    let (from, until) = (one.began.max(other.began), end(one).min(end(other)));
    until.saturating_sub(from)
}

pub fn within_budget(history: &History) -> Vec<Violation> {
    let over = |row: &Row| {
        let most = row.retries_max + 1 + INFRA_RETRIES_MAX;
        let too_many = row.attempts_total > most || row.infra_retries > INFRA_RETRIES_MAX;
        too_many.then(|| Violation {
            job: Some(row.job),
            what: format!(
                "{} attempts, {} of them after failures of the infrastructure; {most} and {INFRA_RETRIES_MAX} are allowed",
                row.attempts_total, row.infra_retries
            ),
        })
    };
    history.rows().into_values().filter_map(over).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::ids::{AttemptId, SessionId};
    use common::job::StateName::{Failed, Running, Succeeded};

    use super::super::AttemptRow;
    use super::super::testing::{Story, attempt, attempt_between, broken};
    use crate::history::Invariant::{I4, I4b, I11};

    #[test]
    fn an_attempt_begins_after_the_one_before_has_ended() {
        let first = attempt_between(1, 10, Some(20));
        let good = Story::new().row(1, "a", Running, &[first.clone(), attempt_between(2, 20, None)]);
        assert_eq!(broken(&good, I4), Vec::<String>::new());
        for (second, what) in [
            (attempt_between(2, 19, None), "began before 1 had ended"),
            (attempt_between(3, 21, None), "attempt 3 follows 1"),
            (first.clone(), "stands there twice"),
        ] {
            let bad = Story::new().row(1, "a", Running, &[first.clone(), second]);
            assert!(broken(&bad, I4)[0].contains(what), "{what}");
        }
        let both = [attempt_between(1, 10, None), attempt_between(2, 20, None)];
        // a later reading that looks well does not mend an earlier one
        let bad = Story::new()
            .row(1, "a", Running, &both)
            .row(2, "a", Succeeded, &[first]);
        assert!(broken(&bad, I4)[0].contains("began before"));
    }

    #[test]
    fn no_leader_writes_after_a_later_one_whoever_read_when() {
        let (first, second) = (attempt_between(1, 10, Some(20)), attempt_between(2, 21, None));
        let both = [first.clone(), second.clone()];
        let open = [attempt_between(1, 10, None)];
        // read late, but written early
        let good = Story::new()
            .row_written(1, "a", &open, (2, 1))
            .row_written(2, "a", &both, (5, 3))
            .row_written(3, "a", &open, (3, 2));
        assert_eq!(broken(&good, I4), Vec::<String>::new());
        let stale = good.clone().row_written(4, "a", &both, (6, 2));
        assert!(broken(&stale, I4)[0].contains("the term 2 wrote revision 6, after the later term 3"));
        let twice = good.clone().row_written(4, "a", &both, (5, 4));
        assert!(broken(&twice, I4)[0].contains("revision 5 was read in two ways"));
        let fewer = good.row_written(4, "a", &[first], (6, 3));
        assert!(broken(&fewer, I4)[0].contains("2 attempts were counted, and 1 later"));
    }

    #[test]
    fn a_number_is_one_attempt_and_an_id_is_one_jobs() {
        let one = attempt_between(1, 10, None);
        let story = Story::new().row_written(1, "a", std::slice::from_ref(&one), (1, 1));
        let elsewhere = AttemptRow {
            session: Some(SessionId::from_u128(2)),
            ..one.clone()
        };
        let other = AttemptRow {
            id: AttemptId::from_u128(9),
            ..one.clone()
        };
        for changed in [elsewhere, other.clone()] {
            let bad = story.clone().row_written(2, "a", &[changed], (2, 1));
            assert!(broken(&bad, I4)[0].contains("attempt 1 is"));
        }
        let apart = story.clone().row_written(2, "b", &[other], (2, 1));
        assert_eq!(broken(&apart, I4), Vec::<String>::new());
        let shared = story.row_written(2, "b", &[one], (2, 1));
        assert!(broken(&shared, I4)[0].contains("and attempt 1 of this"));
    }

    #[test]
    fn real_runs_of_one_job_overlap_no_longer_than_allowed() {
        let none = Duration::ZERO;
        let good = Story::new().run("a", "c1", 1, Some(5)).run("a", "c2", 5, Some(9));
        let good = good.run("b", "c3", 1, Some(9));
        assert_eq!(broken(&good, I4b(none)), Vec::<String>::new());
        let twice = Story::new().run("a", "c1", 1, Some(7)).run("a", "c2", 5, Some(9));
        assert!(broken(&twice, I4b(none))[0].contains("ran twice for 2s"));
        assert_eq!(broken(&twice, I4b(Duration::from_secs(2))), Vec::<String>::new());
        let endless = Story::new()
            .run("a", "c1", 1, None)
            .run("a", "c2", 500, Some(501));
        assert!(broken(&endless, I4b(none))[0].contains("ran twice for 1s"));
    }

    #[test]
    fn no_job_is_tried_for_ever() {
        let lost =
            |count: u32| -> Vec<_> { (1..=count).map(|number| attempt(number, "worker_lost")).collect() };
        let good = Story::new().row(1, "a", Failed, &lost(4));
        assert_eq!(broken(&good, I11), Vec::<String>::new());
        let bad = Story::new().row(1, "a", Failed, &lost(5));
        assert!(broken(&bad, I11)[0].contains("5 attempts"));
    }
}
