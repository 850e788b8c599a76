//! From what was seen of a run's end to the outcome that is reported. Pure.

use common::attempt::{MESSAGE_LEN_MAX, Outcome};
use common::job::CancelledBy;

use crate::executor::{End, EndedBy, StartFailure, Status, StopWhy};

/// The kernel's own way to end a process for memory.
const SIGKILL: i32 = 9;
/// What a shell says of a child that was killed.
const CODE_KILLED: i32 = 128 + SIGKILL;

/// What was asked of the run before it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// The first stop that was asked for stands, as it does in init.
    pub stop: Option<StopWhy>,
    pub cancel_why: Option<String>,
    /// The start of the process was seen.
    pub started: bool,
    /// The lease had run out by the time the end was seen.
    pub lease_over: bool,
}

pub fn of_end(end: &End, asked: &Asked) -> Outcome {
    match end {
        End::Process { status, by, oom } => by_whom(*by, asked).unwrap_or(match *status {
            Status::Code(CODE_KILLED) | Status::Signal(SIGKILL) if *oom => Outcome::OomKilled,
            Status::Code(code) => Outcome::Exited { code },
            Status::Signal(signal) => Outcome::Signaled { signal },
        }),
        End::NotStarted { reason, message } => Outcome::NotStarted {
            reason: *reason,
            message: cut(message),
        },
        End::StoppedBefore { by } => {
            by_whom(*by, asked).unwrap_or_else(|| infra("the run ended before its process began"))
        }
        End::Silent {
            engine_restarted,
            oom,
            message,
        } => match asked.stop {
            Some(why) => stopped(why, asked),
            None if asked.lease_over => Outcome::WorkerLost,
            // what never began cannot have ended by its own doing
            None if *engine_restarted || !asked.started => infra(message),
            None if *oom => Outcome::OomKilled,
            // init cannot be ended from inside but by the job's own uid: the job's doing.
            None => Outcome::Signaled { signal: SIGKILL },
        },
    }
}

pub fn of_start_failure(failure: &StartFailure) -> Outcome {
    match failure {
        StartFailure::ImageUnavailable { message } => Outcome::ImageUnavailable {
            message: cut(message),
        },
        StartFailure::Rejected { message } => Outcome::RejectedByWorker {
            message: cut(message),
        },
        StartFailure::NotStarted { reason, message } => Outcome::NotStarted {
            reason: *reason,
            message: cut(message),
        },
        StartFailure::Infra { message } => infra(message),
    }
}

/// Of a run that was stopped by us.
pub fn stopped(why: StopWhy, asked: &Asked) -> Outcome {
    match why {
        StopWhy::Cancelled => Outcome::Cancelled {
            // Who asked is known to the control plane, whose word stands in the job.
            by: CancelledBy::System,
            why: asked.cancel_why.clone(),
        },
        StopWhy::RunTimeout => Outcome::RunTimeout,
        StopWhy::LeaseLost => Outcome::WorkerLost,
        StopWhy::Drain => infra("the worker was shut down"),
    }
}

pub fn infra(message: &str) -> Outcome {
    Outcome::InfraError {
        message: cut(message),
    }
}

fn by_whom(by: EndedBy, asked: &Asked) -> Option<Outcome> {
    match by {
        EndedBy::Itself => None,
        EndedBy::Stop(why) => Some(stopped(why, asked)),
        EndedBy::Deadline => Some(Outcome::WorkerLost),
        EndedBy::Engine => Some(infra("the engine ended the container")),
    }
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::attempt::NotStartedReason;

    fn process(status: Status, by: EndedBy, oom: bool) -> End {
        End::Process { status, by, oom }
    }

    fn silent(engine_restarted: bool, oom: bool) -> End {
        End::Silent {
            engine_restarted,
            oom,
            message: "gone".into(),
        }
    }

    fn asked(stop: Option<StopWhy>, lease_over: bool) -> Asked {
        Asked {
            stop,
            cancel_why: Some("typo".into()),
            started: true,
            lease_over,
        }
    }

    #[test]
    fn who_made_it_end_decides_before_how() {
        let code = |by| of_end(&process(Status::Code(0), by, false), &asked(None, false));
        assert_eq!(code(EndedBy::Itself), Outcome::Exited { code: 0 });
        assert_eq!(code(EndedBy::Deadline), Outcome::WorkerLost);
        assert_eq!(code(EndedBy::Stop(StopWhy::LeaseLost)), Outcome::WorkerLost);
        assert_eq!(code(EndedBy::Stop(StopWhy::RunTimeout)), Outcome::RunTimeout);
        assert!(matches!(
            code(EndedBy::Stop(StopWhy::Cancelled)),
            Outcome::Cancelled { why: Some(why), .. } if why == "typo"
        ));
        assert!(matches!(code(EndedBy::Engine), Outcome::InfraError { .. }));
        assert!(matches!(
            code(EndedBy::Stop(StopWhy::Drain)),
            Outcome::InfraError { .. }
        ));
    }

    #[test]
    fn memory_is_named_only_where_the_kernel_killed() {
        let of = |status, oom| of_end(&process(status, EndedBy::Itself, oom), &asked(None, false));
        assert_eq!(of(Status::Signal(9), true), Outcome::OomKilled);
        assert_eq!(of(Status::Code(137), true), Outcome::OomKilled);
        assert_eq!(of(Status::Code(0), true), Outcome::Exited { code: 0 });
        assert_eq!(of(Status::Signal(9), false), Outcome::Signaled { signal: 9 });
        assert_eq!(of(Status::Signal(11), true), Outcome::Signaled { signal: 11 });
    }

    #[test]
    fn a_silent_end_is_the_jobs_own_unless_something_else_explains_it() {
        let of = |end, stop, over| of_end(&end, &asked(stop, over));
        assert_eq!(
            of(silent(false, false), None, false),
            Outcome::Signaled { signal: 9 }
        );
        assert_eq!(of(silent(false, true), None, false), Outcome::OomKilled);
        assert!(matches!(
            of(silent(true, false), None, false),
            Outcome::InfraError { .. }
        ));
        assert_eq!(of(silent(true, true), None, true), Outcome::WorkerLost);
        assert_eq!(
            of(silent(false, false), Some(StopWhy::LeaseLost), false),
            Outcome::WorkerLost
        );
    }

    #[test]
    fn what_never_began_has_not_ended_by_its_own_doing() {
        let asked = |stop| Asked {
            started: false,
            ..asked(stop, false)
        };
        for end in [silent(false, false), silent(false, true), silent(true, false)] {
            let outcome = of_end(&end, &asked(None));
            assert!(matches!(outcome, Outcome::InfraError { .. }), "{outcome:?}");
        }
        let cancelled = of_end(&silent(false, false), &asked(Some(StopWhy::Cancelled)));
        assert!(matches!(cancelled, Outcome::Cancelled { .. }), "{cancelled:?}");
    }

    #[test]
    fn messages_are_cut() {
        let end = End::NotStarted {
            reason: NotStartedReason::Other,
            message: "é".repeat(5_000),
        };
        let Outcome::NotStarted { message, .. } = of_end(&end, &Asked::default()) else {
            panic!("another outcome");
        };
        assert_eq!(message.chars().count(), MESSAGE_LEN_MAX);
    }
}
