//! What init's and the engine's words mean to the agent.

use common::attempt::{NotStartedReason, Usage};
use jobworker_init::protocol as init;

use crate::executor::{End, Ended, EndedBy, StopWhy};

pub fn ended_silently(end: End) -> Ended {
    Ended {
        seq: None,
        end,
        usage: Usage::default(),
        run_ms: None,
    }
}

pub const fn reason(why: StopWhy) -> init::StopReason {
    match why {
        StopWhy::Cancelled => init::StopReason::Cancelled,
        StopWhy::RunTimeout => init::StopReason::RunTimeout,
        StopWhy::LeaseLost => init::StopReason::LeaseLost,
        StopWhy::Drain => init::StopReason::Drain,
    }
}

pub const fn ended_by(by: &init::EndedBy) -> EndedBy {
    match by {
        init::EndedBy::Itself => EndedBy::Itself,
        init::EndedBy::Deadline => EndedBy::Deadline,
        init::EndedBy::Engine => EndedBy::Engine,
        init::EndedBy::Stop { why } => EndedBy::Stop(match why {
            init::StopReason::Cancelled => StopWhy::Cancelled,
            init::StopReason::RunTimeout => StopWhy::RunTimeout,
            init::StopReason::LeaseLost => StopWhy::LeaseLost,
            init::StopReason::Drain => StopWhy::Drain,
        }),
    }
}

/// Init knows that it was stopped before it began; why, who asked for it knows.
pub fn not_started(word: &init::NotStarted, stop: Option<StopWhy>) -> Ended {
    let (reason, message) = match word.reason {
        init::NotStartedReason::NoSuchCommand => (
            NotStartedReason::NoSuchCommand,
            "there is no such command in the image",
        ),
        init::NotStartedReason::NotExecutable => {
            (NotStartedReason::NotExecutable, "the command is not executable")
        }
        init::NotStartedReason::WrongArchitecture => (
            NotStartedReason::WrongArchitecture,
            "the command is for another architecture, or no program",
        ),
        init::NotStartedReason::BadWorkingDirectory => (
            NotStartedReason::BadWorkingDirectory,
            "the working directory is not there or cannot be entered",
        ),
        init::NotStartedReason::Stopped => {
            // nobody of this process asked: then it was the engine's signal, or an earlier life that is asked again
            let by = stop.map_or(EndedBy::Engine, EndedBy::Stop);
            return stopped_before(word.seq, by);
        }
        init::NotStartedReason::DeadlinePassed => return stopped_before(word.seq, EndedBy::Deadline),
        init::NotStartedReason::Other { errno } => {
            let message = format!("the kernel did not start it: error {errno}");
            return ended(
                word.seq,
                End::NotStarted {
                    reason: NotStartedReason::Other,
                    message,
                },
            );
        }
    };
    ended(
        word.seq,
        End::NotStarted {
            reason,
            message: message.to_owned(),
        },
    )
}

fn stopped_before(seq: u64, by: EndedBy) -> Ended {
    ended(seq, End::StoppedBefore { by })
}

fn ended(seq: u64, end: End) -> Ended {
    Ended {
        seq: Some(seq),
        end,
        usage: Usage::default(),
        run_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(reason: init::NotStartedReason) -> init::NotStarted {
        init::NotStarted {
            seq: 1,
            reason,
            totals: init::Totals::default(),
        }
    }

    #[test]
    fn a_stop_before_the_start_keeps_its_reason() {
        for why in [
            StopWhy::Cancelled,
            StopWhy::RunTimeout,
            StopWhy::LeaseLost,
            StopWhy::Drain,
        ] {
            let ended = not_started(&word(init::NotStartedReason::Stopped), Some(why));
            let by = EndedBy::Stop(why);
            assert_eq!(ended.end, End::StoppedBefore { by });
        }
        let unasked = not_started(&word(init::NotStartedReason::Stopped), None);
        let by = EndedBy::Engine;
        assert_eq!(unasked.end, End::StoppedBefore { by });
        let late = not_started(
            &word(init::NotStartedReason::DeadlinePassed),
            Some(StopWhy::Cancelled),
        );
        let by = EndedBy::Deadline;
        assert_eq!(late.end, End::StoppedBefore { by });
    }
}
