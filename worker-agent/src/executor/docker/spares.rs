//! Containers made before their job is known: hardened, started, never used.
//!
//! A spare is given to a job of the same image and size and never used twice. Init ends a spare that is not renewed,
//! so a dead agent leaves none. Making one is done after a job was given its container, one at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use common::job::Resources;
use common::time::{Mono, Timestamp};
use jobworker_init::protocol::Command;
use tokio::sync::{Mutex, mpsc};
use tokio::time::MissedTickBehavior;

use super::image::ImageRules;
use super::make::{Built, make};
use super::shared::Shared;
use crate::executor::ContainerRef;

/// Sizes that wait to be refilled; what does not fit is asked for again by the next job.
const REFILLS_MAX: usize = 16;
/// A spare that nobody wanted for this long goes.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Init's own wait is 60 s; renewed three times within it.
const RENEW_EVERY: Duration = Duration::from_secs(20);
const RENEW_FOR: Duration = Duration::from_secs(60);
/// With less of its wait left a spare is not given: the job has to begin within it.
const LEFT_MIN: Duration = Duration::from_secs(15);
/// How long it is known when one was given; past any grace for what the agent has not written down yet.
const GIVEN_KEPT: Duration = Duration::from_secs(600);
/// Lets the job that was just given its container begin before the next is made.
const REFILL_AFTER: Duration = Duration::from_millis(150);

/// How many to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpareLimits {
    /// For each image and size in use; 0 for none at all.
    pub each: usize,
    /// Over all; each holds some 13 MB while it waits.
    pub total: usize,
}

impl Default for SpareLimits {
    fn default() -> Self {
        Self { each: 1, total: 4 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    image: ImageRules,
    resources: Resources,
}

struct Spare {
    kind: Kind,
    built: Built,
    wanted_at: Mono,
    /// When init ends it, unless it is renewed.
    ends_at: Mono,
}

pub struct Spares {
    shared: Arc<Shared>,
    limits: SpareLimits,
    waiting: Mutex<Vec<Spare>>,
    /// Containers in `waiting`, and those being given or made: what `Executor::owned` leaves out.
    names: StdMutex<BTreeSet<ContainerRef>>,
    /// Those that were given to jobs lately, and when: for the search for orphans they are as new as that.
    given: StdMutex<HashMap<ContainerRef, (Timestamp, Mono)>>,
    refills: mpsc::Sender<Kind>,
}

impl Spares {
    pub fn start(shared: Arc<Shared>, limits: SpareLimits) -> Arc<Self> {
        let (refills, due) = mpsc::channel(REFILLS_MAX);
        let spares = Arc::new(Self {
            shared: Arc::clone(&shared),
            limits,
            waiting: Mutex::default(),
            names: StdMutex::default(),
            given: StdMutex::default(),
            refills,
        });
        let keeper = Arc::clone(&spares);
        shared
            .tasks
            .spawn("spares", async move { keeper.keep(due).await });
        spares
    }

    /// A waiting one of this kind, if any.
    pub async fn take(&self, image: &ImageRules, resources: Resources) -> Option<Built> {
        let now = self.shared.clock.mono();
        let mut waiting = self.waiting.lock().await;
        let place = waiting.iter().position(|spare| {
            spare.kind.image == *image
                && spare.kind.resources == resources
                && spare.ends_at > now.after(LEFT_MIN)
        })?;
        let spare = waiting.swap_remove(place);
        let container = &spare.built.handle.container;
        {
            let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            given.retain(|_, (_, at)| now.since(*at) < GIVEN_KEPT);
            given.insert(container.clone(), (self.shared.clock.now(), now));
        }
        // after it was said to be given, so that nobody sees it as an old one of nobody's
        self.forget(container);
        Some(spare.built)
    }

    /// When a container that was a spare was given to its job.
    pub fn given_at(&self, container: &ContainerRef) -> Option<Timestamp> {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.get(container).map(|(at, _)| *at)
    }

    /// Says that a job of this kind came: more may.
    pub fn wanted(&self, image: &ImageRules, resources: Resources) {
        if self.limits.each > 0 && self.limits.total > 0 {
            // a full queue means that refilling is behind already
            let _ = self.refills.try_send(Kind {
                image: image.clone(),
                resources,
            });
        }
    }

    pub fn is_spare(&self, container: &ContainerRef) -> bool {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(container)
    }

    fn forget(&self, container: &ContainerRef) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(container);
    }

    async fn keep(&self, mut due: mpsc::Receiver<Kind>) {
        let stopping = self.shared.tasks.stopping().clone();
        // a clock of its own: with jobs coming all the time, a wait from one to the next would never end
        let mut renewals = tokio::time::interval(RENEW_EVERY);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                _ = renewals.tick() => self.renew().await,
                kind = due.recv() => match kind {
                    Some(kind) => self.refill(kind).await,
                    None => break,
                },
            }
        }
        let left = std::mem::take(&mut *self.waiting.lock().await);
        for spare in left {
            self.destroy(spare).await;
        }
    }

    async fn refill(&self, kind: Kind) {
        tokio::time::sleep(REFILL_AFTER).await;
        let now = self.shared.clock.mono();
        let surplus = {
            let mut waiting = self.waiting.lock().await;
            let mut alike = 0;
            for spare in waiting.iter_mut().filter(|spare| spare.kind == kind) {
                spare.wanted_at = now;
                alike += 1;
            }
            if alike >= self.limits.each {
                return;
            }
            let oldest = (0..waiting.len()).min_by_key(|place| waiting[*place].wanted_at);
            oldest
                .filter(|_| waiting.len() >= self.limits.total)
                .map(|place| waiting.swap_remove(place))
        };
        if let Some(spare) = surplus {
            self.destroy(spare).await;
        }
        match make(&self.shared, &kind.image, kind.resources).await {
            Ok(built) => {
                self.names
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(built.handle.container.clone());
                self.waiting.lock().await.push(Spare {
                    kind,
                    built,
                    wanted_at: now,
                    // it was ready a moment ago; what its making took is more than that
                    ends_at: now.after(RENEW_FOR),
                });
            }
            Err(error) => tracing::info!(%error, "no spare container was made"),
        }
    }

    async fn renew(&self) {
        let now = self.shared.clock.mono();
        let mut waiting = self.waiting.lock().await;
        let (mut kept, mut unwanted) = (Vec::with_capacity(waiting.len()), Vec::new());
        for mut spare in std::mem::take(&mut *waiting) {
            let idle = now.since(spare.wanted_at) > IDLE_MAX;
            let ends_at = now.after(RENEW_FOR);
            let at_ms = ends_at.as_millis().saturating_add_signed(spare.built.skew);
            if !idle
                && spare
                    .built
                    .attachment
                    .send(&Command::Deadline { at_ms })
                    .await
                    .is_ok()
            {
                spare.ends_at = ends_at;
                kept.push(spare);
            } else {
                unwanted.push(spare);
            }
        }
        *waiting = kept;
        // or jobs would wait for a removal
        drop(waiting);
        for spare in unwanted {
            self.destroy(spare).await;
        }
    }

    async fn destroy(&self, mut spare: Spare) {
        // the removal is by force anyhow
        let _ = spare.built.attachment.send(&Command::Bye).await;
        let container = spare.built.handle.container.clone();
        // where it fails the agent asks again by itself
        let _ = self.shared.remove_now_or_later(spare.built.handle).await;
        // not before, or the sweep for orphans could ask for it too
        self.forget(&container);
    }
}
