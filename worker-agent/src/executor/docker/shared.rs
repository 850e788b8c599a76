//! What every part of the executor holds: the engine, the workspaces, the settings, and what is being removed.

use std::path::PathBuf;
use std::sync::Arc;

use common::tasks::Tasks;
use common::time::SharedClock;

use super::container::JobUser;
use super::engine::Engine;
use super::leftovers::Leftovers;
use super::policy::Policy;
use super::removals::Removals;
use super::users::Users;
use super::workspace::Workspaces;
use crate::executor::{ExecutorError, StartFailure};

pub struct Shared {
    pub engine: Arc<Engine>,
    pub workspaces: Arc<Workspaces>,
    pub policy: Policy,
    pub clock: SharedClock,
    pub state: PathBuf,
    pub init_setting: Option<PathBuf>,
    /// Of this agent and this state folder: the label that says what is ours.
    pub owner: String,
    /// Of this process: the label that tells what earlier ones made.
    pub life: String,
    /// Container names begin with it.
    pub name_prefix: String,
    pub tasks: Tasks,
    pub users: Users,
    pub leftovers: Leftovers,
    pub removals: Removals,
}

impl Shared {
    /// A name that no container has.
    pub fn new_name(&self) -> String {
        format!("{}-{:016x}", self.name_prefix, rand::random::<u64>())
    }

    /// Who the job is in the container of that name, which is about to be made.
    ///
    /// # Errors
    /// [`StartFailure::Infra`] where every user is some container's.
    pub fn user_for(&self, name: &str) -> Result<JobUser, StartFailure> {
        if !rustix::process::geteuid().is_root() {
            // it can be no other's than the agent's own
            return Ok(JobUser {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            });
        }
        let user = self.users.take(name).ok_or_else(|| StartFailure::Infra {
            message: "each user that jobs may have here is some container's".to_owned(),
        })?;
        Ok(JobUser { uid: user, gid: user })
    }

    /// Whether the engine, or the host with it, began anew after this time of the engine's (RFC 3339).
    pub fn engine_restarted_since(&self, started_at: &str) -> bool {
        let Some(container) = rfc3339_seconds(started_at) else {
            return false;
        };
        // whichever way it is started, one of the two is made anew: systemd may hold the socket, nobody the other
        [PathBuf::from("/run/docker.pid"), self.engine.socket.clone()]
            .iter()
            .filter_map(|path| std::fs::metadata(path).ok()?.modified().ok())
            .filter_map(|made| made.duration_since(std::time::UNIX_EPOCH).ok())
            .any(|made| i64::try_from(made.as_secs()).unwrap_or(0) > container)
    }
}

/// Runs what blocks where it may.
///
/// # Errors
/// When it panicked, which is logged as an error of the executor's.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ExecutorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ExecutorError {
            message: "a step on the disk was not finished".to_owned(),
            source: Some(error.into()),
        })
}

/// Seconds since 1970 of `2026-11-22T12:00:00…Z`, the only form that engines use.
pub fn rfc3339_seconds(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !text.ends_with('Z') {
        return None;
    }
    // days since 1970 by the civil calendar, with years that begin in March
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_times_are_read() {
        assert_eq!(rfc3339_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(rfc3339_seconds("2024-02-29T12:34:56.789Z"), Some(1_709_210_096));
        assert_eq!(rfc3339_seconds("2000-03-01T00:00:01.0Z"), Some(951_868_801));
        assert_eq!(rfc3339_seconds(""), None);
        assert_eq!(rfc3339_seconds("2024-02-29T12:34:56+01:00"), None);
    }
}
