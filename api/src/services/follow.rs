//! A follower of a job: its states, its attempts and their output, in order, until it ends.
//!
//! It reads rows, a page at a time and only as fast as the client takes events, so a slow client costs one page of
//! memory.

use std::collections::VecDeque;
use std::time::Duration;

use common::api_types::{AttemptEvent, EndEvent, EventId, FollowEvent, FollowedChunk, JobView, StateEvent};
use common::identity::Principal;
use common::ids::{AttemptId, JobId};
use common::job::Job;
use common::store::{LogPosition, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use super::job_watch::JobWatch;
use crate::state::App;

/// Payload of one read: a thousand followers that are slow hold as many of these.
const PAGE_BYTES: usize = 256 * 1024;
/// Shorter than the idle time-outs of common proxies (30 to 60 s).
pub const IDLE_AFTER: Duration = Duration::from_secs(15);
/// A store that is away for longer than this many looks ends the stream; the client comes back with its place.
const FAILURES_MAX: u32 = 30;

/// What a follower is told.
pub enum Told {
    Event(FollowEvent),
    /// Nothing new for [`IDLE_AFTER`].
    Idle,
}

pub struct Follower {
    app: App,
    watch: JobWatch,
    pending: VecDeque<FollowEvent>,
    told: Option<StateEvent>,
    /// The attempt being read, and where.
    reading: Option<(u32, AttemptId, LogPosition)>,
    resume: Option<EventId>,
    /// When something was told last.
    told_at: common::time::Mono,
    failures: u32,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    pub fn new(
        app: App,
        job: JobId,
        caller: Principal,
        resume: Option<EventId>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            watch: JobWatch::new(app.clone(), job, caller),
            told_at: app.clock.mono(),
            app,
            pending: VecDeque::new(),
            told: None,
            reading: None,
            resume,
            failures: 0,
            ended: false,
            _permit: permit,
        }
    }

    /// The next thing to tell; none at the end.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.told_at = self.app.clock.mono();
                return Some(Told::Event(event));
            }
            if self.ended || self.app.tasks.stopping().is_cancelled() {
                return None;
            }
            let progress = match self.look().await {
                Ok(progress) => {
                    self.failures = 0;
                    progress
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::debug!(%error, "a follower met a store that does not answer");
                    self.ended = self.failures > FAILURES_MAX;
                    false
                }
            };
            if !progress && self.pending.is_empty() && !self.ended {
                let now = self.app.clock.mono();
                if now.since(self.told_at) >= IDLE_AFTER {
                    self.told_at = now;
                    return Some(Told::Idle);
                }
                self.watch.news(self.reading.map(|(_, attempt, _)| attempt)).await;
            }
        }
    }

    /// One look at the rows. True when there may be more at once.
    async fn look(&mut self) -> Result<bool, StoreError> {
        // the row before the log: what ended before this look has all its output stored
        let Ok(job) = self.watch.look().await? else {
            self.ended = true;
            return Ok(false);
        };
        self.tell_state(&job);
        if self.reading.is_none() {
            self.begin(&job);
        }
        if self.read().await? {
            return Ok(true);
        }
        if self.go_on(&job) {
            return Ok(true);
        }
        if job.state.is_terminal() {
            self.tell_end(&job);
        }
        Ok(false)
    }

    fn tell_state(&mut self, job: &Job) {
        let now = StateEvent {
            state: job.state.name(),
            cancelling: job.cancel.is_some() && !job.state.is_terminal(),
        };
        if self.told.as_ref() != Some(&now) {
            self.pending.push_back(FollowEvent::State(now.clone()));
            self.told = Some(now);
        }
    }

    /// Where reading begins: after what the client has, else at the attempt that is the last one now.
    fn begin(&mut self, job: &Job) {
        let resumed = self.resume.take().and_then(|place| {
            let attempt = job.attempts.iter().find(|one| one.number == place.attempt)?;
            Some((attempt, LogPosition(place.position.saturating_add(1))))
        });
        match resumed {
            Some((attempt, from)) => self.reading = Some((attempt.number, attempt.id, from)),
            None => {
                if let Some(attempt) = job.last_attempt() {
                    self.tell_attempt(attempt);
                }
            }
        }
    }

    fn tell_attempt(&mut self, attempt: &common::attempt::Attempt) {
        let news = AttemptEvent {
            attempt: attempt.number,
            worker: attempt.lease.worker.clone(),
        };
        self.reading = Some((attempt.number, attempt.id, LogPosition(0)));
        self.pending.push_back(FollowEvent::Attempt(news));
    }

    async fn read(&mut self) -> Result<bool, StoreError> {
        let Some((number, id, from)) = self.reading else {
            return Ok(false);
        };
        let page = self.app.stores.logs.read(id, None, from, PAGE_BYTES).await?;
        for stored in &page.chunks {
            self.pending
                .push_back(FollowEvent::Log(FollowedChunk::of(number, stored)));
        }
        self.reading = Some((number, id, page.next));
        Ok(!page.chunks.is_empty())
    }

    /// The attempt is read to its end and another has begun.
    fn go_on(&mut self, job: &Job) -> bool {
        let Some((number, ..)) = self.reading else {
            return false;
        };
        let next = job.attempts.iter().find(|attempt| attempt.number > number);
        match next.cloned() {
            Some(attempt) => {
                self.tell_attempt(&attempt);
                true
            }
            None => false,
        }
    }

    fn tell_end(&mut self, job: &Job) {
        let view = JobView::from(job);
        let end = EndEvent {
            state: view.state,
            outcome: view.outcome,
            exit_code: view.exit_code,
        };
        self.pending.push_back(FollowEvent::End(end));
        self.ended = true;
    }
}
