//! Who has to do the next thing for a job that has not ended: nobody may be without an owner.

use std::collections::BTreeSet;
use std::fmt;

use common::ids::{JobId, SessionId};
use common::job::{Job, JobState};

/// A job that nobody would ever touch again, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub job: JobId,
    pub why: String,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.job, self.why)
    }
}

/// Every job that has not ended belongs to a session that lives, has a place in the queue, or a time at which it is
/// due.
pub fn orphans(rows: &[Job], live: &BTreeSet<SessionId>, queued: &BTreeSet<JobId>) -> Vec<Orphan> {
    let why = |job: &Job| match &job.state {
        JobState::Scheduled { .. } | JobState::Succeeded { .. } | JobState::Failed { .. } => None,
        JobState::Cancelled { .. } => None,
        JobState::Queued { .. } => {
            (!queued.contains(&job.id)).then(|| "is queued and has no place in the queue".into())
        }
        JobState::Assigned { lease, .. } | JobState::Running { lease, .. } => {
            if !live.contains(&lease.session) {
                Some(format!(
                    "is {} by a session of {} that does not live",
                    job.state.name(),
                    lease.worker
                ))
            } else if job.current_attempt().is_none_or(|attempt| attempt.end.is_some()) {
                Some(format!("is {} without an attempt under way", job.state.name()))
            } else {
                None
            }
        }
    };
    rows.iter()
        .filter_map(|job| why(job).map(|why| Orphan { job: job.id, why }))
        .collect()
}

#[cfg(test)]
mod tests {
    use common::ids::{AttemptId, WorkerId};
    use common::job::{Epoch, Lease};
    use common::lifecycle::testing::{job, spec};
    use common::lifecycle::{JobEvent, step};
    use common::time::Timestamp;

    use super::*;

    fn assigned(to: SessionId) -> Job {
        let claim = JobEvent::Claimed {
            attempt: AttemptId::random(),
            lease: Lease {
                worker: WorkerId::new("w").unwrap(),
                session: to,
            },
            epoch: Epoch(1),
        };
        step(&job(spec()), claim, Timestamp::default()).unwrap().job
    }

    #[test]
    fn a_held_job_needs_a_session_that_lives() {
        let session = SessionId::random();
        let held = assigned(session);
        let rows = std::slice::from_ref(&held);
        assert_eq!(
            orphans(rows, &BTreeSet::from([session]), &BTreeSet::new()),
            vec![]
        );
        let orphaned = orphans(rows, &BTreeSet::from([SessionId::random()]), &BTreeSet::new());
        assert!(orphaned[0].why.contains("does not live"), "{}", orphaned[0]);
    }

    #[test]
    fn a_queued_job_needs_a_place_in_the_queue() {
        let queued = job(spec());
        let rows = std::slice::from_ref(&queued);
        assert_eq!(
            orphans(rows, &BTreeSet::new(), &BTreeSet::from([queued.id])),
            vec![]
        );
        assert_eq!(orphans(rows, &BTreeSet::new(), &BTreeSet::new()).len(), 1);
    }

    #[test]
    fn who_is_due_some_day_or_has_ended_needs_nobody() {
        let mut scheduled = job(spec());
        scheduled.state = JobState::Scheduled {
            at: Timestamp::default(),
        };
        let mut ended = job(spec());
        ended.state = JobState::Succeeded {
            at: Timestamp::default(),
        };
        assert_eq!(
            orphans(&[scheduled, ended], &BTreeSet::new(), &BTreeSet::new()),
            vec![]
        );
    }

    #[test]
    fn a_held_job_whose_attempt_has_ended_is_an_orphan() {
        let session = SessionId::random();
        let mut held = assigned(session);
        held.attempts.clear();
        let orphaned = orphans(&[held], &BTreeSet::from([session]), &BTreeSet::new());
        assert!(orphaned[0].why.contains("without an attempt"), "{}", orphaned[0]);
    }
}
