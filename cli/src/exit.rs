//! The status that a command ends with. `jobworker run` ends as its job did, so that scripts can use it in the job's
//! place; what a job cannot say itself has the numbers that shells and `timeout` use for it.

use common::api_types::OutcomeView;
use common::attempt::NotStartedReason;

/// A status between 0 and 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    pub const SUCCESS: Self = Self(0);
    /// The verb could not do what it was asked.
    pub const FAILURE: Self = Self(1);
    /// The command line or a specification was not understood.
    pub const USAGE: Self = Self(2);
    pub const QUEUE_TIMEOUT: Self = Self(123);
    pub const RUN_TIMEOUT: Self = Self(124);
    /// The system, not the command: image, worker, infrastructure; also a `run` that could not be submitted or followed.
    pub const SYSTEM: Self = Self(125);
    pub const NOT_EXECUTABLE: Self = Self(126);
    pub const NOT_FOUND: Self = Self(127);
    /// Cancelled, or left alone by a second Ctrl-C.
    pub const CANCELLED: Self = Self(130);
    /// Whoever read our output has gone away.
    pub const BROKEN_PIPE: Self = Self(141);
    pub const OUT_OF_MEMORY: Self = Self(137);

    /// What `jobworker run` ends with after a job that ended so. A word that this program does not know yet is the
    /// system's matter.
    pub fn of_outcome(outcome: &OutcomeView) -> Self {
        match outcome.kind.as_str() {
            "exited" => outcome.code.map_or(Self::SYSTEM, |code| {
                Self(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
            }),
            "not_started" => match outcome.reason {
                Some(NotStartedReason::NoSuchCommand) => Self::NOT_FOUND,
                Some(
                    NotStartedReason::NotExecutable
                    | NotStartedReason::WrongArchitecture
                    | NotStartedReason::BadWorkingDirectory,
                ) => Self::NOT_EXECUTABLE,
                Some(NotStartedReason::BadInputs | NotStartedReason::Other) | None => Self::SYSTEM,
            },
            "signaled" => outcome.signal.map_or(Self::SYSTEM, |signal| {
                Self(u8::try_from(128 + (signal & 0x7f)).unwrap_or(u8::MAX))
            }),
            "oom_killed" => Self::OUT_OF_MEMORY,
            "run_timeout" => Self::RUN_TIMEOUT,
            "queue_timeout" => Self::QUEUE_TIMEOUT,
            "cancelled" => Self::CANCELLED,
            _ => Self::SYSTEM,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::attempt::Outcome;
    use common::job::CancelledBy;

    #[test]
    fn a_run_ends_as_its_job_did() {
        let not_started = |reason| Outcome::NotStarted {
            reason,
            message: String::new(),
        };
        for (outcome, status) in [
            (Outcome::Exited { code: 0 }, 0),
            (Outcome::Exited { code: 3 }, 3),
            (Outcome::Exited { code: 255 }, 255),
            (Outcome::Exited { code: -1 }, 255),
            (not_started(NotStartedReason::NoSuchCommand), 127),
            (not_started(NotStartedReason::NotExecutable), 126),
            (not_started(NotStartedReason::WrongArchitecture), 126),
            (not_started(NotStartedReason::BadInputs), 125),
            (Outcome::Signaled { signal: 15 }, 143),
            (Outcome::OomKilled, 137),
            (Outcome::RunTimeout, 124),
            (Outcome::QueueTimeout, 123),
            (Outcome::WorkerLost, 125),
            (
                Outcome::InfraError {
                    message: String::new(),
                },
                125,
            ),
            (
                Outcome::ImageUnavailable {
                    message: String::new(),
                },
                125,
            ),
            (
                Outcome::Cancelled {
                    by: CancelledBy::System,
                    why: None,
                },
                130,
            ),
        ] {
            assert_eq!(
                Exit::of_outcome(&OutcomeView::from(&outcome)),
                Exit(status),
                "{outcome:?}"
            );
        }
    }
}
