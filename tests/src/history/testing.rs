//! Histories made by hand, in seconds, for the tests of the laws.

use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::StateName;
use common::log::Stream;
use common::time::Timestamp;

use super::{Answer, AttemptRow, Digest, Event, History, Invariant, Line, Request, Row};

#[derive(Debug, Clone, Default)]
pub struct Story(Vec<Line>);

/// What breaks the law, as people read it.
pub fn broken(story: &Story, law: Invariant) -> Vec<String> {
    let violations = History::new(story.0.clone()).violations(law);
    violations.iter().map(ToString::to_string).collect()
}

/// The id of the job of this name.
pub fn job(key: &str) -> JobId {
    JobId::from_u128(key.bytes().fold(1, |id, byte| id * 256 + u128::from(byte)))
}

/// An attempt with this outcome, or one under way; the same number is the same attempt.
pub fn attempt(number: u32, outcome: &str) -> AttemptRow {
    let ended_at = (!outcome.is_empty()).then(|| i64::from(number) * 10 + 5);
    AttemptRow {
        outcome: ended_at.map(|_| outcome.to_owned()),
        ..attempt_between(number, i64::from(number) * 10, ended_at)
    }
}

pub fn attempt_between(number: u32, assigned_at: i64, ended_at: Option<i64>) -> AttemptRow {
    AttemptRow {
        id: AttemptId::from_u128(u128::from(number)),
        number,
        worker: WorkerId::new("w").unwrap(),
        session: Some(SessionId::from_u128(1)),
        assigned_at: Timestamp::from_millis(assigned_at),
        ended_at: ended_at.map(Timestamp::from_millis),
        outcome: ended_at.map(|_| "worker_lost".to_owned()),
        log_incomplete: false,
    }
}

impl Story {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn tell(mut self, second: u64, event: Event) -> Self {
        self.0.push(Line {
            at: second * 1_000_000_000,
            event,
        });
        self
    }

    pub fn asked(self, second: u64, key: &str) -> Self {
        let request = Request::Submit { key: key.to_owned() };
        self.tell(
            second,
            Event::Asked {
                call: call(key),
                request,
            },
        )
    }

    pub fn answered(self, second: u64, key: &str, job: JobId) -> Self {
        let answer = Answer::Ok { job };
        self.tell(
            second,
            Event::Answered {
                call: call(key),
                answer,
            },
        )
    }

    pub fn submitted(self, second: u64, key: &str) -> Self {
        self.asked(second, key).answered(second, key, job(key))
    }

    pub fn cancelled(self, second: u64, key: &str, answer: Answer) -> Self {
        let (call, request) = (1_000_000 + second, Request::Cancel { job: job(key) });
        self.tell(second, Event::Asked { call, request })
            .tell(second, Event::Answered { call, answer })
    }

    pub fn row(self, second: u64, key: &str, state: StateName, attempts: &[AttemptRow]) -> Self {
        self.row_of(job(key), second, key, state, attempts)
    }

    /// As [`Story::row`], of a row that was written so often, last in this term.
    pub fn row_written(
        self,
        second: u64,
        key: &str,
        attempts: &[AttemptRow],
        (revision, epoch): (u64, u64),
    ) -> Self {
        let mut story = self.row(second, key, StateName::Running, attempts);
        if let Some(Line {
            event: Event::Row { row },
            ..
        }) = story.0.last_mut()
        {
            (row.revision, row.epoch) = (revision, epoch);
        }
        story
    }

    pub fn row_of(
        self,
        job: JobId,
        second: u64,
        key: &str,
        state: StateName,
        attempts: &[AttemptRow],
    ) -> Self {
        let row = Row {
            job,
            key: key.to_owned(),
            state,
            attempts: attempts.to_vec(),
            attempts_total: u32::try_from(attempts.len()).unwrap(),
            retries_max: 0,
            infra_retries: 0,
            revision: second,
            epoch: 1,
            hash: format!("{state} {attempts:?}"),
            told: String::new(),
        };
        self.tell(second, Event::Row { row: Box::new(row) })
    }

    pub fn run(self, key: &str, container: &str, began: u64, ended: Option<u64>) -> Self {
        let (key, container) = (key.to_owned(), container.to_owned());
        let story = self.tell(
            began,
            Event::RunBegan {
                key: key.clone(),
                container: container.clone(),
            },
        );
        match ended {
            Some(ended) => story.tell(ended, Event::RunEnded { key, container }),
            None => story,
        }
    }

    pub fn output(self, second: u64, key: &str, stream: Stream, stored: &str, written: &str) -> Self {
        let digest = |text: &str| Digest {
            bytes: text.len() as u64,
            sha256: text.to_owned(),
        };
        self.tell(
            second,
            Event::Output {
                key: key.to_owned(),
                stream,
                stored: digest(stored),
                written: digest(written),
            },
        )
    }

    pub fn holds(self, second: u64, attempts: &[AttemptId]) -> Self {
        self.holds_all(second, attempts, &[])
    }

    pub fn holds_containers(self, second: u64, containers: &[&str]) -> Self {
        self.holds_all(second, &[], containers)
    }

    pub fn left(self, second: u64, containers: &[&str]) -> Self {
        let ids = containers.iter().map(|&id| id.to_owned()).collect();
        self.tell(second, Event::Containers { ids })
    }

    pub fn healed(self, second: u64) -> Self {
        self.tell(second, Event::Healed)
    }

    fn holds_all(self, second: u64, attempts: &[AttemptId], containers: &[&str]) -> Self {
        self.tell(
            second,
            Event::Holds {
                worker: WorkerId::new("w").unwrap(),
                attempts: attempts.to_vec(),
                containers: containers.iter().map(|&id| id.to_owned()).collect(),
            },
        )
    }
}

fn call(key: &str) -> u64 {
    key.bytes().fold(0, |call, byte| call * 256 + u64::from(byte))
}
