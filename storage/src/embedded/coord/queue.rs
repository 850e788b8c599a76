//! The queue: a sorted set for each lane, and where each job stands in which.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use async_trait::async_trait;
use common::ids::JobId;
use common::queue::{Lane, QueueEntry};
use common::store::{Build, JobQueue, StoreError};

use super::held;
use super::sorted::Sorted;

#[derive(Default)]
pub struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    lanes: BTreeMap<Lane, Sorted>,
    /// As many as jobs wait; the rows bound them.
    places: HashMap<JobId, (Lane, u64)>,
    /// How often a making began.
    builds: u64,
    /// The last making, unless what it made was lost.
    build: Option<u64>,
    built: bool,
}

impl State {
    fn remove(&mut self, job: JobId) {
        if let Some((lane, score)) = self.places.remove(&job)
            && let Some(set) = self.lanes.get_mut(&lane)
        {
            set.remove((score, job));
            if set.len() == 0 {
                self.lanes.remove(&lane);
            }
        }
    }
}

#[async_trait]
impl JobQueue for Queue {
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let mut state = held(&self.0);
        for entry in entries {
            state.remove(entry.job);
            state.places.insert(entry.job, (entry.lane.clone(), entry.score));
            let set = state.lanes.entry(entry.lane.clone()).or_default();
            set.insert((entry.score, entry.job));
        }
        Ok(())
    }

    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let mut state = held(&self.0);
        for entry in entries {
            // A job that came back meanwhile (a retry) keeps its new place.
            let same = state
                .places
                .get(&entry.job)
                .is_some_and(|(lane, score)| *lane == entry.lane && *score == entry.score);
            if same {
                state.remove(entry.job);
            }
        }
        Ok(())
    }

    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let state = held(&self.0);
        let heads = state.lanes.get(lane).into_iter().flat_map(|set| set.from(skip));
        Ok(heads
            .take(limit)
            .map(|(score, job)| QueueEntry {
                lane: lane.clone(),
                score,
                job,
            })
            .collect())
    }

    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError> {
        let state = held(&self.0);
        let lanes = state.lanes.iter();
        Ok(lanes
            .map(|(lane, set)| (lane.clone(), set.len() as u64))
            .collect())
    }

    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError> {
        let state = held(&self.0);
        let set = state.lanes.get(&entry.lane);
        Ok(set
            .and_then(|set| set.place((entry.score, entry.job)))
            .map(|place| place as u64))
    }

    async fn len(&self) -> Result<u64, StoreError> {
        Ok(held(&self.0).places.len() as u64)
    }

    async fn is_built(&self) -> Result<bool, StoreError> {
        Ok(held(&self.0).built)
    }

    async fn begin_build(&self) -> Result<Build, StoreError> {
        let mut state = held(&self.0);
        state.builds += 1;
        state.build = Some(state.builds);
        Ok(Build::new(state.builds.to_string()))
    }

    async fn mark_built(&self, build: &Build) -> Result<bool, StoreError> {
        let mut state = held(&self.0);
        let is_there = state.build.is_some_and(|last| last.to_string() == build.as_str());
        state.built |= is_there;
        Ok(is_there)
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let mut state = held(&self.0);
        let builds = state.builds;
        *state = State {
            builds,
            ..State::default()
        };
        Ok(())
    }
}
