//! Jobs as they were stored last: on its way through claim, start and result a job is not read and decoded again at
//! each step.
//!
//! Filled by the writer's thread alone, after a commit and before its answer, in the order of commits: what is here is
//! never older than what any caller was told. A job that is not here is read from its row.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::ids::JobId;
use common::job::Job;

/// Encoded size of all that is kept: some 10,000 ordinary jobs, more than a fleet has on its way at a time, and within
/// the memory of a small machine.
const BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Recent(Mutex<State>);

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, Kept>,
    /// The order of coming, with the mark of each coming; what was put again since has another mark and stays.
    order: VecDeque<(JobId, u64)>,
    marks: u64,
    bytes: usize,
}

struct Kept {
    job: Job,
    bytes: usize,
    mark: u64,
}

impl Recent {
    pub(super) fn get(&self, id: JobId) -> Option<Job> {
        self.state().jobs.get(&id).map(|kept| kept.job.clone())
    }

    /// What is here of `ids`, and which are not.
    pub(super) fn get_many(&self, ids: &[JobId]) -> (Vec<Job>, Vec<JobId>) {
        let state = self.state();
        let (mut found, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            match state.jobs.get(id) {
                Some(kept) => found.push(kept.job.clone()),
                None => missing.push(*id),
            }
        }
        (found, missing)
    }

    /// Keeps jobs as they were just committed, each with its encoded size.
    pub(super) fn put(&self, jobs: impl IntoIterator<Item = (Job, usize)>) {
        let mut state = self.state();
        for (job, bytes) in jobs {
            state.put(job, bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, job: Job, bytes: usize) {
        self.marks += 1;
        let (id, mark) = (job.id, self.marks);
        self.bytes += bytes;
        if let Some(before) = self.jobs.insert(id, Kept { job, bytes, mark }) {
            self.bytes -= before.bytes;
        }
        self.order.push_back((id, mark));
        while self.bytes > BYTES_MAX || self.order.len() > 2 * self.jobs.len() {
            let Some((oldest, mark)) = self.order.pop_front() else {
                break;
            };
            let current = self.jobs.get(&oldest).is_some_and(|kept| kept.mark == mark);
            if !current {
                continue;
            }
            if self.bytes > BYTES_MAX {
                if let Some(gone) = self.jobs.remove(&oldest) {
                    self.bytes -= gone.bytes;
                }
            } else {
                // only the marks of earlier comings were to be thrown out
                self.order.push_back((oldest, mark));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use common::job::Revision;
    use common::lifecycle::testing;

    use super::*;

    fn job(number: u128, revision: u64) -> Job {
        let mut job = testing::job(testing::spec());
        (job.id, job.revision) = (JobId::from_u128(number), Revision(revision));
        job
    }

    #[test]
    fn the_last_one_put_is_what_is_found() {
        let recent = Recent::default();
        recent.put([(job(1, 1), 10), (job(2, 1), 10), (job(1, 2), 20)]);
        assert_eq!(recent.get(JobId::from_u128(1)).unwrap().revision, Revision(2));
        let (found, missing) = recent.get_many(&[JobId::from_u128(2), JobId::from_u128(3)]);
        assert_eq!((found.len(), missing), (1, vec![JobId::from_u128(3)]));
    }

    #[test]
    fn memory_is_bounded_and_the_longest_unchanged_go_first() {
        let recent = Recent::default();
        recent.put([(job(1, 1), 1), (job(2, 1), 1)]);
        for revision in 0..10_000 {
            recent.put([(job(2, revision), 1_000)]);
        }
        assert!(recent.state().order.len() <= 4, "{}", recent.state().order.len());
        for number in 10..10 + 2 * (BYTES_MAX as u128 / 1_000) {
            recent.put([(job(number, 1), 1_000)]);
        }
        assert!(recent.state().bytes <= BYTES_MAX);
        assert!(recent.get(JobId::from_u128(1)).is_none() && recent.get(JobId::from_u128(2)).is_none());
        recent.put([(job(3, 1), 2 * BYTES_MAX)]);
        let state = recent.state();
        assert_eq!((state.jobs.len(), state.bytes), (0, 0));
    }
}
