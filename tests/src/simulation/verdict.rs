//! What has to hold at the end: nothing lost, nothing left, nothing told wrong, and the logs whole.

use common::attempt::{Attempt, Outcome};
use common::job::{Job, StateName};
use common::log::{LogEnd, Stream};

use super::engine::output;
use super::store::held;
use super::world::World;

impl World {
    /// What a mended system still has to do.
    pub fn left(&self) -> Vec<String> {
        let jobs = self.around.backends.all_jobs();
        let mut left: Vec<String> = jobs
            .iter()
            .filter(|job| !job.state.is_terminal())
            .map(|job| format!("{} is {}", job.id, job.state.name()))
            .collect();
        if !left.is_empty() {
            return left;
        }
        for agent in self.agents.iter().filter(|agent| !self.is_lost(agent.number)) {
            let holds = agent.holds();
            left.extend(
                holds
                    .iter()
                    .map(|attempt| format!("agent {} still holds {attempt}", agent.number)),
            );
            let containers = agent.engine.left();
            left.extend(
                containers
                    .iter()
                    .map(|container| format!("I14: container {container} is left")),
            );
        }
        let running = self.checker.still_running();
        left.extend(
            running
                .iter()
                .map(|(job, attempt)| format!("{attempt} of {job} still runs")),
        );
        left
    }

    pub fn judge(&self) {
        let jobs = self.around.backends.all_jobs();
        let mut broken = self.told_right(&jobs);
        for job in &jobs {
            for attempt in &job.attempts {
                broken.extend(self.log_is_whole(job, attempt));
            }
            self.around.history.count(job.state.name().as_str());
        }
        for what in broken {
            self.around.history.violated(what);
        }
    }

    /// I1, I2, I8: what clients were told is so.
    fn told_right(&self, jobs: &[Job]) -> Vec<String> {
        let (told, mut broken) = (self.clients.told(), Vec::new());
        let find = |id| jobs.iter().find(|job| job.id == id);
        for (key, id) in &told.stored {
            if find(*id).is_none() {
                broken.push(format!("I1: {id}, acknowledged as {key}, is gone"));
            }
        }
        for key in &told.keys {
            let of_key = |job: &&Job| told.sent.get(&job.id) == Some(key);
            let rows: Vec<&Job> = jobs.iter().filter(of_key).collect();
            if rows.len() > 1 {
                broken.push(format!(
                    "I2: {key} was submitted once and stored {} times",
                    rows.len()
                ));
            }
        }
        for job in jobs {
            if !told.sent.contains_key(&job.id) {
                broken.push(format!("I2: nobody submitted {}", job.id));
            }
        }
        for id in &told.cancelled {
            let state = find(*id).map(|job| job.state.name());
            if state != Some(StateName::Cancelled) {
                broken.push(format!("I8: {id} was said to be cancelled and is {state:?}"));
            }
        }
        for (id, said) in &told.too_late {
            let state = find(*id).map(|job| job.state.name());
            if state != Some(*said) {
                broken.push(format!(
                    "I8: {id} was said to have ended as {said} and is {state:?}"
                ));
            }
        }
        broken
    }

    /// I7: every chunk of an accepted report is stored as it was printed, or is named as missing.
    fn log_is_whole(&self, job: &Job, attempt: &Attempt) -> Vec<String> {
        let mut broken = Vec::new();
        let log = held(&self.around.backends.logs).of(attempt.id);
        for stream in Stream::ALL {
            for (seq, bytes) in log.stream(stream) {
                if *bytes != output(attempt.id, stream, *seq) {
                    broken.push(format!(
                        "I7: chunk {seq} of {} is not what was printed",
                        attempt.id
                    ));
                }
            }
        }
        let Some(end) = attempt.end.as_ref().filter(|end| end.report_hash.is_some()) else {
            return broken;
        };
        let missing = [&end.logs_missing.stdout, &end.logs_missing.stderr];
        for stream in Stream::ALL {
            let named = |seq: &u64| {
                missing[stream.index()]
                    .iter()
                    .any(|(from, until)| (from..until).contains(&seq))
            };
            let chunks = end.logs.of(stream).chunks;
            let lost: Vec<u64> = (0..chunks)
                .filter(|seq| !log.stream(stream).contains_key(seq) && !named(seq))
                .collect();
            if !lost.is_empty() {
                broken.push(format!(
                    "I7: {} of {} lacks {stream:?} {lost:?} and does not say so",
                    attempt.id, job.id
                ));
            }
        }
        if matches!(end.outcome, Outcome::Exited { .. })
            && let Some(printed) = self.checker.printed_by(attempt.id)
            && counts(&end.logs) != printed
        {
            broken.push(format!(
                "I7: {} printed {printed:?} chunks and reported {:?}",
                attempt.id,
                counts(&end.logs)
            ));
        }
        if !end.logs_missing.is_empty() {
            self.around.history.count("log incomplete");
        }
        broken
    }
}

fn counts(logs: &LogEnd) -> [u64; 2] {
    [logs.stdout.chunks, logs.stderr.chunks]
}
