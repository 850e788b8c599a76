//! I8: a cancel wins or loses, as its answer said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::ids::JobId;
use common::job::StateName;

use super::jobs::nanos;
use super::{Answer, Event, History, Nanos, Request, Violation};

/// It has ended already.
const CONFLICT: u16 = 409;

pub fn win_or_lose(history: &History, gone_within: Duration) -> Vec<Violation> {
    let rows = history.rows();
    let (won, lost) = answers(history);
    let mut violations = Vec::new();
    for (job, at) in &won {
        let mut add = |what| {
            violations.push(Violation {
                job: Some(*job),
                what,
            })
        };
        let Some(row) = rows.get(job) else {
            add("was cancelled and has no row".to_owned());
            continue;
        };
        if row.state != StateName::Cancelled {
            add(format!("the cancel was accepted, and the job is {}", row.state));
        }
        for run in history.runs_of(&row.key) {
            let lived = run.ended.map_or(Nanos::MAX, |ended| ended.saturating_sub(*at));
            if lived > nanos(gone_within) {
                add(format!(
                    "its processes in {} lived for {:?} after the cancel, {gone_within:?} are allowed",
                    run.container,
                    Duration::from_nanos(lived)
                ));
            }
        }
    }
    for job in lost {
        let cancelled = rows
            .get(&job)
            .is_some_and(|row| row.state == StateName::Cancelled);
        if cancelled && !won.contains_key(&job) {
            violations.push(Violation {
                job: Some(job),
                what: "the cancel was answered with `ended already`, and the job is cancelled".to_owned(),
            });
        }
    }
    violations
}

/// When each cancel that was accepted was first answered, and the jobs whose cancel came too late.
fn answers(history: &History) -> (BTreeMap<JobId, Nanos>, BTreeSet<JobId>) {
    let mut asked = BTreeMap::new();
    let (mut won, mut lost) = (BTreeMap::new(), BTreeSet::new());
    for line in history.lines() {
        match &line.event {
            Event::Asked {
                call,
                request: Request::Cancel { job },
            } => {
                asked.insert(*call, *job);
            }
            Event::Answered { call, answer } => match (asked.get(call), answer) {
                (Some(job), Answer::Ok { .. }) => {
                    won.entry(*job).or_insert(line.at);
                }
                (Some(job), Answer::Fail { status: CONFLICT }) => {
                    lost.insert(*job);
                }
                _ => {}
            },
            _ => {}
        }
    }
    (won, lost)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::job::StateName::{Cancelled, Succeeded};

    use super::super::testing::{Story, broken};
    use crate::history::Answer;
    use crate::history::Invariant::I8;

    const LAW: crate::history::Invariant = I8(Duration::from_secs(6));

    #[test]
    fn the_answer_and_the_end_agree() {
        let (won, late) = (
            Answer::Ok {
                job: super::super::testing::job("a"),
            },
            Answer::Fail { status: 409 },
        );
        for (answer, state, breaks) in [
            (&won, Cancelled, None),
            (&late, Succeeded, None),
            (&won, Succeeded, Some("is succeeded")),
            (&late, Cancelled, Some("is cancelled")),
            (&Answer::Info, Cancelled, None),
            (&Answer::Info, Succeeded, None),
        ] {
            let story = Story::new()
                .cancelled(1, "a", answer.clone())
                .row(5, "a", state, &[]);
            let told = broken(&story, LAW);
            match breaks {
                None => assert_eq!(told, Vec::<String>::new(), "{answer:?} {state}"),
                Some(what) => assert!(told[0].contains(what), "{told:?}"),
            }
        }
    }

    #[test]
    fn no_process_outlives_a_cancel_that_won() {
        let won = Answer::Ok {
            job: super::super::testing::job("a"),
        };
        let story = |ended| {
            Story::new()
                .run("a", "c1", 1, ended)
                .cancelled(10, "a", won.clone())
                .row(12, "a", Cancelled, &[])
        };
        assert_eq!(broken(&story(Some(16)), LAW), Vec::<String>::new());
        assert!(broken(&story(Some(17)), LAW)[0].contains("lived for 7s"));
        assert_eq!(broken(&story(None), LAW).len(), 1);
    }
}
