//! I7: what is stored of a job's output is what the job wrote.

use std::collections::BTreeSet;

use common::job::StateName;
use common::log::Stream;

use super::{Event, History, Key, Violation};

pub fn are_whole(history: &History) -> Vec<Violation> {
    let mut compared: BTreeSet<(&Key, &str)> = BTreeSet::new();
    let acknowledged = history.acknowledged();
    let mut violations = Vec::new();
    for line in history.lines() {
        let Event::Output {
            key,
            stream,
            stored,
            written,
        } = &line.event
        else {
            continue;
        };
        compared.insert((key, stream.as_str()));
        if stored != written {
            violations.push(Violation {
                job: acknowledged.get(key).copied(),
                what: format!(
                    "{} is stored as {stored:?}, written was {written:?}",
                    stream.as_str()
                ),
            });
        }
    }
    let ran: BTreeSet<Key> = history.runs().into_iter().map(|run| run.key).collect();
    for (job, row) in history.rows() {
        if row.state != StateName::Succeeded || !ran.contains(&row.key) {
            continue;
        }
        let mut add = |what| violations.push(Violation { job: Some(job), what });
        if row.attempts.last().is_some_and(|attempt| attempt.log_incomplete) {
            add("its log is told to be incomplete".to_owned());
        }
        for stream in Stream::ALL {
            if !compared.contains(&(&row.key, stream.as_str())) {
                add(format!("nobody compared its {}", stream.as_str()));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use common::job::StateName::Succeeded;
    use common::log::Stream;

    use super::super::testing::{Story, attempt, broken};
    use crate::history::Invariant::I7;

    #[test]
    fn every_stream_of_a_real_run_is_compared_and_equal() {
        let ran = Story::new()
            .run("a", "c1", 1, Some(2))
            .row(3, "a", Succeeded, &[attempt(1, "exited")]);
        assert_eq!(broken(&ran, I7).len(), 2, "nobody compared anything");
        let good = ran
            .output(4, "a", Stream::Stdout, "same", "same")
            .output(4, "a", Stream::Stderr, "", "");
        assert_eq!(broken(&good, I7), Vec::<String>::new());
        let bad = good.output(5, "a", Stream::Stdout, "other", "same");
        assert!(broken(&bad, I7)[0].contains("stdout is stored as"));
    }

    #[test]
    fn a_log_that_is_told_to_be_incomplete_is_not_whole() {
        let mut cut = attempt(1, "exited");
        cut.log_incomplete = true;
        let story = Story::new()
            .run("a", "c1", 1, Some(2))
            .row(3, "a", Succeeded, &[cut])
            .output(4, "a", Stream::Stdout, "x", "x")
            .output(4, "a", Stream::Stderr, "", "");
        assert!(broken(&story, I7)[0].contains("incomplete"));
        // a simulated job has no processes to ask
        let simulated = Story::new().row(3, "a", Succeeded, &[attempt(1, "exited")]);
        assert_eq!(broken(&simulated, I7), Vec::<String>::new());
    }
}
