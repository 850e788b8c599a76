//! I1, I2 and I5: no job is lost, none comes from nowhere, none is stuck.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::ids::JobId;

use super::{Event, History, Key, Nanos, Request, Violation};

/// Keys of jobs that are submitted after the last fault begin so.
pub const CANARY: &str = "canary";

pub fn none_is_lost(history: &History) -> Vec<Violation> {
    let rows = history.rows();
    let lost = |(key, job): (Key, JobId)| {
        let what = match rows.get(&job) {
            None => format!("`{key}` was acknowledged and has no row"),
            Some(row) if !row.state.is_terminal() => {
                format!("`{key}` was acknowledged and is still {}", row.state)
            }
            Some(_) => return None,
        };
        Some(Violation { job: Some(job), what })
    };
    history.acknowledged().into_iter().filter_map(lost).collect()
}

pub fn none_comes_from_nowhere(history: &History) -> Vec<Violation> {
    let asked: BTreeSet<&Key> = history
        .lines()
        .iter()
        .filter_map(|line| match &line.event {
            Event::Asked {
                request: Request::Submit { key },
                ..
            } => Some(key),
            _ => None,
        })
        .collect();
    let mut first: BTreeMap<&Key, JobId> = BTreeMap::new();
    let mut violations = Vec::new();
    for (job, row) in history.rows() {
        let mut add = |what| violations.push(Violation { job: Some(job), what });
        if !asked.contains(&row.key) {
            add(format!("nobody asked for `{}`", row.key));
        }
        if let Some(other) = first.insert(&row.key, job) {
            add(format!("`{}` made {other} as well", row.key));
        }
    }
    let rows = history.rows();
    for (key, job) in history.acknowledged() {
        if let Some(row) = rows.get(&job).filter(|row| row.key != key) {
            violations.push(Violation {
                job: Some(job),
                what: format!("`{key}` was answered with the job of `{}`", row.key),
            });
        }
    }
    violations
}

pub fn none_is_stuck(history: &History, all: Duration, canary: Duration) -> Vec<Violation> {
    let Some(healed) = history.healed_at() else {
        return vec![about_the_run("nobody said when the faults were over")];
    };
    let mut violations = Vec::new();
    let mut canaries = 0;
    for (job, readings) in history.readings() {
        let Some((_, row)) = readings.last() else { continue };
        let (begins, within) = if row.key.starts_with(CANARY) {
            canaries += 1;
            (asked_at(history, &row.key).unwrap_or(healed), canary)
        } else {
            (healed, all)
        };
        let ended = readings.iter().find(|(_, row)| row.state.is_terminal());
        let late = ended.is_none_or(|(at, _)| at.saturating_sub(begins) > nanos(within));
        if late {
            let what = match ended {
                Some((at, _)) => format!("`{}` took {:?}", row.key, since(begins, *at)),
                None => format!("`{}` never ended and is {}", row.key, row.state),
            };
            violations.push(Violation {
                job: Some(job),
                what: format!("{what}, {within:?} are allowed"),
            });
        }
    }
    if canaries == 0 {
        violations.push(about_the_run("no canary was submitted after the faults"));
    }
    violations
}

fn asked_at(history: &History, key: &str) -> Option<Nanos> {
    history.lines().iter().find_map(|line| match &line.event {
        Event::Asked {
            request: Request::Submit { key: of },
            ..
        } if of == key => Some(line.at),
        _ => None,
    })
}

fn about_the_run(what: &str) -> Violation {
    Violation {
        job: None,
        what: what.to_owned(),
    }
}

pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

fn since(earlier: Nanos, later: Nanos) -> Duration {
    Duration::from_nanos(later.saturating_sub(earlier))
}

#[cfg(test)]
mod tests {
    use common::job::StateName::{Queued, Running, Succeeded};

    use super::super::testing::{Story, broken, job};
    use crate::history::Invariant::{I1, I2, I5};
    use std::time::Duration;

    #[test]
    fn an_acknowledged_job_has_a_row_that_ends() {
        let good = Story::new().submitted(1, "a").row(2, "a", Succeeded, &[]);
        assert_eq!(broken(&good, I1), Vec::<String>::new());
        // an unknown answer promises nothing
        let unknown = Story::new().asked(1, "a");
        assert_eq!(broken(&unknown, I1), Vec::<String>::new());
        let lost = Story::new().submitted(1, "a");
        assert!(broken(&lost, I1)[0].contains("has no row"));
        let stuck = Story::new().submitted(1, "a").row(2, "a", Running, &[]);
        assert!(broken(&stuck, I1)[0].contains("still running"));
        // what was read last decides
        let back = good.row(3, "a", Queued, &[]);
        assert!(broken(&back, I1)[0].contains("still queued"));
    }

    #[test]
    fn a_job_that_nobody_asked_for_is_a_phantom() {
        let good = Story::new().asked(1, "a").row(2, "a", Succeeded, &[]);
        assert_eq!(broken(&good, I2), Vec::<String>::new());
        let phantom = good.clone().row(3, "b", Queued, &[]);
        assert!(broken(&phantom, I2)[0].contains("nobody asked"));
        let twice = good.clone().row_of(job("b"), 3, "a", Succeeded, &[]);
        assert!(broken(&twice, I2)[0].contains("as well"));
        let mixed_up = good
            .clone()
            .asked(3, "b")
            .answered(4, "b", job("a"))
            .row(5, "a", Succeeded, &[]);
        assert!(broken(&mixed_up, I2)[0].contains("was answered with the job of"));
    }

    #[test]
    fn what_ends_too_late_after_the_faults_is_stuck() {
        let law = I5 {
            all: Duration::from_secs(30),
            canary: Duration::from_secs(10),
        };
        let good = Story::new()
            .submitted(1, "a")
            .healed(10)
            .submitted(11, "canary")
            .row(20, "canary", Succeeded, &[])
            .row(39, "a", Succeeded, &[]);
        assert_eq!(broken(&good, law), Vec::<String>::new());
        let late = Story::new().submitted(1, "a").healed(10).submitted(11, "canary");
        let late = late
            .row(22, "canary", Succeeded, &[])
            .row(41, "a", Succeeded, &[])
            .row(42, "a", Succeeded, &[]);
        let told = broken(&late, law);
        assert_eq!(told.len(), 2, "{told:?}");
        let unasked = Story::new().healed(1);
        assert!(broken(&unasked, law)[0].contains("no canary"));
        assert!(broken(&Story::new(), law)[0].contains("nobody said"));
    }
}
