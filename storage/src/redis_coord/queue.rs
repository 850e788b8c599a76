//! The queue: a sorted set for each lane, the length of each lane that is not empty, the number of lanes of each
//! account, and the lane of each job.
//!
//! All of them change together, in one script, so that no lane stays behind empty and none is forgotten.
//! Scores are exact in Redis' doubles; members of equal score sort by their text, which is the order of their numbers.
//! What is here may vanish at any moment. The mark that says "whole" names the server's run and is made only if the
//! mark that the making began with is still there, so neither a wiped nor a restored server passes for a whole one.

use std::sync::Arc;

use async_trait::async_trait;
use common::ids::JobId;
use common::queue::{CLASSES_PER_ACCOUNT_MAX, HELD_BACK_LIFE, HeldBack, Lane, QueueEntry};
use common::store::{Build, JobQueue, StoreError};
use redis::{Cmd, Script};

use super::keys::{lane_name, lane_of};
use super::{Shared, scripts};

/// Entries in one call of a script: the server does nothing else for the two milliseconds that it takes.
const ENTRIES_PER_CALL: usize = 512;

/// Commands in one round trip: their answers are held in memory together.
const COMMANDS_PER_TRIP: usize = 1_024;

pub struct Queue(pub(super) Arc<Shared>);

impl Queue {
    /// One script over all entries, in as few round trips as there can be.
    async fn change(&self, script: &Script, entries: &[QueueEntry]) -> Result<(), StoreError> {
        let keys = &self.0.keys;
        for trip in entries.chunks(ENTRIES_PER_CALL * 16) {
            let mut calls = redis::pipe();
            for chunk in trip.chunks(ENTRIES_PER_CALL) {
                let mut arguments = Vec::with_capacity(2 + 4 * chunk.len());
                arguments.push(keys.lane_sets.clone());
                arguments.push(CLASSES_PER_ACCOUNT_MAX.to_string());
                for entry in chunk {
                    arguments.push(lane_name(&entry.lane));
                    arguments.push(lane_name(&mixed(&entry.lane)));
                    arguments.push(entry.score.to_string());
                    arguments.push(entry.job.to_string());
                }
                let named = [&*keys.places, &*keys.lanes, &*keys.accounts];
                let call = scripts::call(script, &named, arguments);
                calls.add_command(call).ignore();
            }
            self.0.link.pipeline::<()>(&calls).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl JobQueue for Queue {
    async fn push(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        self.change(&scripts::PUSH, entries).await
    }

    async fn remove(&self, entries: &[QueueEntry]) -> Result<(), StoreError> {
        self.change(&scripts::REMOVE, entries).await
    }

    async fn heads(&self, lane: &Lane, skip: usize, limit: usize) -> Result<Vec<QueueEntry>, StoreError> {
        let range = range(&self.0.keys.lane(lane), skip, limit);
        entries(lane, self.0.link.command(&range).await?)
    }

    async fn heads_of(&self, lanes: &[(Lane, usize, usize)]) -> Result<Vec<Vec<QueueEntry>>, StoreError> {
        let mut heads = Vec::with_capacity(lanes.len());
        for trip in lanes.chunks(COMMANDS_PER_TRIP) {
            let mut ranges = redis::pipe();
            for (lane, skip, limit) in trip {
                ranges.add_command(range(&self.0.keys.lane(lane), *skip, *limit));
            }
            let found: Vec<Members> = self.0.link.pipeline(&ranges).await?;
            for ((lane, ..), found) in trip.iter().zip(found) {
                heads.push(entries(lane, found)?);
            }
        }
        Ok(heads)
    }

    async fn lanes(&self) -> Result<Vec<(Lane, u64)>, StoreError> {
        let mut all = redis::cmd("HGETALL");
        let found: Vec<(String, u64)> = self.0.link.command(all.arg(&self.0.keys.lanes)).await?;
        let named = found
            .into_iter()
            .map(|(name, length)| Ok((lane_of(&name)?, length)));
        let mut lanes = named.collect::<Result<Vec<_>, StoreError>>()?;
        lanes.sort_unstable();
        Ok(lanes)
    }

    async fn place(&self, entry: &QueueEntry) -> Result<Option<u64>, StoreError> {
        let job = entry.job.to_string();
        let mut look = redis::pipe();
        look.atomic();
        for lane in [&entry.lane, &mixed(&entry.lane)] {
            let set = self.0.keys.lane(lane);
            look.cmd("ZSCORE").arg(&set).arg(&job);
            look.cmd("ZRANK").arg(&set).arg(&job);
        }
        let (score, place, mixed_score, mixed_place): (Option<f64>, Option<u64>, Option<f64>, Option<u64>) =
            self.0.link.pipeline(&look).await?;
        let found = [(score, place), (mixed_score, mixed_place)].into_iter();
        let same = |(score, place): (Option<f64>, Option<u64>)| {
            place.filter(|_| score.is_some_and(|score| score as u64 == entry.score))
        };
        Ok(found.filter_map(same).next())
    }

    async fn len(&self) -> Result<u64, StoreError> {
        let mut count = redis::cmd("HLEN");
        self.0.link.command(count.arg(&self.0.keys.places)).await
    }

    async fn is_built(&self) -> Result<bool, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(&self.0.keys.built);
        let (built, server) = self.0.link.on_server::<Option<String>>(&get).await?;
        Ok(built.is_some_and(|run| run == server.run))
    }

    async fn begin_build(&self) -> Result<Build, StoreError> {
        let server = self.0.link.server().await?;
        let build = format!("{} {}", server.run, common::ids::RequestId::random());
        let mut set = redis::cmd("SET");
        set.arg(&self.0.keys.build).arg(&build);
        self.0.link.command::<()>(&set).await?;
        Ok(Build::new(build))
    }

    async fn mark_built(&self, build: &Build) -> Result<bool, StoreError> {
        let keys = &self.0.keys;
        // The run that the making began on: on another one the mark names a server that is gone.
        let Some((run, _)) = build.as_str().split_once(' ') else {
            return Ok(false);
        };
        let mark = scripts::call(
            &scripts::MARK_BUILT,
            &[&keys.build, &keys.built],
            (build.as_str(), run),
        );
        let (marked, server) = self.0.link.on_server::<bool>(&mark).await?;
        Ok(marked && server.run == run)
    }

    async fn tell_reservations(&self, reservations: &[HeldBack]) -> Result<(), StoreError> {
        let text = serde_json::to_string(reservations).map_err(unreadable)?;
        let mut set = redis::cmd("SET");
        // the last word may be that of a leader that is none any more
        set.arg(&self.0.keys.reservations)
            .arg(text)
            .arg("PX")
            .arg(super::millis(HELD_BACK_LIFE));
        self.0.link.command::<()>(&set).await
    }

    async fn reservations(&self) -> Result<Vec<HeldBack>, StoreError> {
        let mut get = redis::cmd("GET");
        get.arg(&self.0.keys.reservations);
        let text: Option<String> = self.0.link.command(&get).await?;
        text.map_or_else(
            || Ok(Vec::new()),
            |text| serde_json::from_str(&text).map_err(unreadable),
        )
    }

    async fn clear(&self) -> Result<(), StoreError> {
        let keys = &self.0.keys;
        let named = [
            &*keys.places,
            &*keys.lanes,
            &*keys.accounts,
            &*keys.build,
            &*keys.built,
            &*keys.reservations,
        ];
        let clear = scripts::call(&scripts::CLEAR, &named, &keys.lane_sets);
        self.0.link.command(&clear).await
    }
}

fn unreadable(error: serde_json::Error) -> StoreError {
    StoreError::Corrupt {
        what: "the queue's reservations".to_owned(),
        source: Some(Box::new(error)),
    }
}

/// Where an entry of this lane stands when its account has too many.
fn mixed(lane: &Lane) -> Lane {
    Lane {
        class: lane.class.mixed(),
        account: lane.account.clone(),
    }
}

type Members = Vec<(String, f64)>;

fn range(set: &str, skip: usize, limit: usize) -> Cmd {
    let mut range = redis::cmd("ZRANGE");
    range.arg(set);
    match limit.checked_sub(1) {
        Some(more) => range.arg(skip).arg(skip.saturating_add(more)),
        // An end before the beginning: nothing.
        None => range.arg(1).arg(0),
    };
    range.arg("WITHSCORES");
    range
}

fn entries(lane: &Lane, members: Members) -> Result<Vec<QueueEntry>, StoreError> {
    let entry = |(job, score): (String, f64)| {
        let id = job.parse::<JobId>().map_err(|error| StoreError::Corrupt {
            what: format!("the queue has a job `{job}`"),
            source: Some(Box::new(error)),
        })?;
        Ok(QueueEntry {
            lane: lane.clone(),
            score: score as u64,
            job: id,
        })
    };
    members.into_iter().map(entry).collect()
}
