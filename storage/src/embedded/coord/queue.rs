//! The queue: a sorted set for each lane, and where each job stands in which.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use async_trait::async_trait;
use common::ids::{AccountId, JobId};
use common::queue::{CLASSES_PER_ACCOUNT_MAX, ClassKey, HeldBack, Lane, QueueEntry};
use common::store::{Build, JobQueue, StoreError};

use super::held;
use super::sorted::Sorted;

#[derive(Default)]
pub struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    accounts: BTreeMap<AccountId, Classes>,
    /// As many as jobs wait; the rows bound them.
    places: HashMap<JobId, (Lane, u64)>,
    /// How often a making began.
    builds: u64,
    /// The last making, unless what it made was lost.
    build: Option<u64>,
    built: bool,
    reservations: Vec<HeldBack>,
}

/// None is empty.
type Classes = BTreeMap<ClassKey, Sorted>;

impl State {
    fn insert(&mut self, entry: &QueueEntry) {
        self.remove(entry.job);
        let classes = self.accounts.entry(entry.lane.account.clone()).or_default();
        let lane = Lane {
            class: class_for(&entry.lane.class, classes),
            account: entry.lane.account.clone(),
        };
        let set = classes.entry(lane.class.clone()).or_default();
        set.insert((entry.score, entry.job));
        self.places.insert(entry.job, (lane, entry.score));
    }

    fn remove(&mut self, job: JobId) {
        if let Some((lane, score)) = self.places.remove(&job)
            && let Some(classes) = self.accounts.get_mut(&lane.account)
            && let Some(set) = classes.get_mut(&lane.class)
        {
            set.remove((score, job));
            if set.len() == 0 {
                classes.remove(&lane.class);
                if classes.is_empty() {
                    self.accounts.remove(&lane.account);
                }
            }
        }
    }

    fn set(&self, lane: &Lane) -> Option<&Sorted> {
        self.accounts.get(&lane.account)?.get(&lane.class)
    }

    /// Where an entry stands; none when it is not there, or has come back to another place.
    fn standing(&self, entry: &QueueEntry) -> Option<&Lane> {
        let (lane, score) = self.places.get(&entry.job)?;
        let same = *score == entry.score
            && lane.account == entry.lane.account
            && (lane.class == entry.lane.class || lane.class == entry.lane.class.mixed());
        same.then_some(lane)
    }
}

/// The class itself, or its mixed one where the account has no room for one more.
fn class_for(class: &ClassKey, classes: &Classes) -> ClassKey {
    // Mixed ones count too, so that counting is nothing; an account that has some is past the cap anyway.
    if classes.len() < CLASSES_PER_ACCOUNT_MAX || classes.contains_key(class) {
        class.clone()
    } else {
        class.mixed()
    }
}

#[async_trait]
impl JobQueue for Queue {
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let mut state = held(&self.0);
        for entry in entries {
            state.insert(entry);
        }
        Ok(())
    }

    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let mut state = held(&self.0);
        for entry in entries {
            // A job that came back meanwhile (a retry) keeps its new place.
            if state.standing(entry).is_some() {
                state.remove(entry.job);
            }
        }
        Ok(())
    }

    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        Ok(heads(&held(&self.0), lane, skip, limit))
    }

    async fn heads_of(&self, lanes: &[(Lane, usize, usize)]) -> Result<Vec<Vec<QueueEntry>>, StoreError> {
        let state = held(&self.0);
        let each = lanes
            .iter()
            .map(|(lane, skip, limit)| heads(&state, lane, *skip, *limit));
        Ok(each.collect())
    }

    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError> {
        let state = held(&self.0);
        let lanes = state.accounts.iter().flat_map(|(account, classes)| {
            classes.iter().map(|(class, set)| {
                let lane = Lane {
                    class: class.clone(),
                    account: account.clone(),
                };
                (lane, set.len() as u64)
            })
        });
        Ok(lanes.collect())
    }

    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError> {
        let state = held(&self.0);
        let set = state.standing(entry).and_then(|lane| state.set(lane));
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

    async fn tell_reservations(&self, reservations: &[HeldBack]) -> Result<(), StoreError> {
        held(&self.0).reservations = reservations.to_vec();
        Ok(())
    }

    async fn reservations(&self) -> Result<Vec<HeldBack>, StoreError> {
        Ok(held(&self.0).reservations.clone())
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

fn heads(state: &State, lane: &Lane, skip: usize, limit: usize) -> Vec<QueueEntry> {
    let heads = state.set(lane).into_iter().flat_map(|set| set.from(skip));
    heads
        .take(limit)
        .map(|(score, job)| QueueEntry {
            lane: lane.clone(),
            score,
            job,
        })
        .collect()
}
