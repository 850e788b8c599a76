//! The closed list of reasons why a job waits.

use serde::{Deserialize, Serialize};

/// Why a job that has not ended does not run. Exactly one holds; where several could be named, the one that has to go
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No worker is registered.
    NoWorkers,
    /// No registered worker could ever run it.
    NoWorkerFits,
    /// The account runs as many attempts as it may.
    AccountLimit,
    /// Workers that could run it are out of contact.
    WorkersAway,
    /// Workers that could run it finish what they have and take nothing new.
    WorkersDraining,
    /// Workers that could run it say that they cannot start jobs now.
    WorkersNotReady,
    /// Workers that could run it have not enough free.
    WorkersBusy,
    /// Workers have room for it, and hold it back for larger jobs that have waited too long.
    Reserved,
    /// A worker has room, and others are before it.
    WaitingForTurn,
    /// A worker has room, and nobody of its account and class is before it.
    NextInLine,
    /// The pause before the next attempt.
    Backoff,
    /// The time that it was asked to start at has not come.
    NotBefore,
    /// A worker has it and fetches its image.
    ImagePulling,
    /// A worker has it and gets it ready.
    Starting,
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::NoWorkers,
        Self::NoWorkerFits,
        Self::AccountLimit,
        Self::WorkersAway,
        Self::WorkersDraining,
        Self::WorkersNotReady,
        Self::WorkersBusy,
        Self::Reserved,
        Self::WaitingForTurn,
        Self::NextInLine,
        Self::Backoff,
        Self::NotBefore,
        Self::ImagePulling,
        Self::Starting,
    ];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoWorkers => "no_workers",
            Self::NoWorkerFits => "no_worker_fits",
            Self::AccountLimit => "account_limit",
            Self::WorkersAway => "workers_away",
            Self::WorkersDraining => "workers_draining",
            Self::WorkersNotReady => "workers_not_ready",
            Self::WorkersBusy => "workers_busy",
            Self::Reserved => "reserved",
            Self::WaitingForTurn => "waiting_for_turn",
            Self::NextInLine => "next_in_line",
            Self::Backoff => "backoff",
            Self::NotBefore => "not_before",
            Self::ImagePulling => "image_pulling",
            Self::Starting => "starting",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_how_it_travels_and_each_has_one() {
        for reason in Reason::ALL {
            let text = serde_json::to_string(&reason).unwrap();
            assert_eq!(text, format!("\"{reason}\""));
        }
        let mut all = Reason::ALL.to_vec();
        all.dedup();
        assert_eq!(all.len(), Reason::ALL.len());
    }
}
