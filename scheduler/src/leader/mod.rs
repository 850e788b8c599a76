//! The leader: one replica of many, chosen by a lock, fenced by its term.
//!
//! A term: take the lock; begin the next epoch; look at the lock again; take over what older terms hold; make the
//! queue anew if it is not whole; then the duties, side by side, until one of them sees that the term is over.
//! Everything that a term knows is thrown away with it.

mod board;
mod dispatch;
mod index;
mod picture;
mod reading;
mod reserve;
mod sweeps;
mod takeover;
mod term;
mod wakes;
#[cfg(test)]
mod world;

use std::sync::Arc;
use std::time::Duration;

use common::ids::SessionId;
use common::job::Epoch;
use common::service::Jobs;
use common::store::Stores;
use common::tasks::Tasks;
use common::time::SharedClock;
use tokio::sync::watch;

use self::dispatch::{Dispatcher, TICK};
use self::index::Reconcile;
use self::term::{DutyError, LockHold, Resigned, Term};
use self::wakes::Wakes;
use crate::accounts::Accounts;
use crate::config::Config;

/// What the leader's parts share.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub stores: Stores,
    pub jobs: Jobs,
    pub clock: SharedClock,
    pub accounts: Arc<Accounts>,
}

/// Tries to lead for as long as the program runs. `leading` shows the current term.
pub async fn run(context: Context, leading: watch::Sender<Option<Epoch>>, tasks: Tasks) {
    let ttl = context.config.times.lock_ttl;
    // A life before this one may have ended in the middle of its term.
    leading.send_replace(None);
    while !tasks.stopping().is_cancelled() {
        let hold = Arc::new(LockHold::new(
            Arc::clone(&context.stores.lock),
            context.config.lock_key.clone(),
            SessionId::random().to_string(),
            ttl,
            Arc::clone(&context.clock),
        ));
        match hold.acquire().await {
            Ok(true) => {
                let reason = lead(&context, &hold, &leading, &tasks).await;
                leading.send_replace(None);
                hold.release().await;
                match reason {
                    Some(reason) => tracing::warn!(%reason, "the term is over"),
                    None => tracing::info!("the leader stops"),
                }
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the leader's lock does not answer"),
        }
        pause(&tasks, ttl / TRIES_A_LIFE).await;
    }
}

/// One term, from the lock to its end. None: the program stops.
async fn lead(
    context: &Context,
    hold: &Arc<LockHold>,
    leading: &watch::Sender<Option<Epoch>>,
    tasks: &Tasks,
) -> Option<DutyError> {
    let duties = async {
        let term = match begin(context, hold).await {
            Ok(term) => term,
            Err(error) => return error,
        };
        // From before the take-over on, since that may take long.
        tokio::select! {
            ended = watch_terms(context, &term) => ended,
            ended = serve(context, &term, leading) => ended,
        }
    };
    tokio::select! {
        () = tasks.stopping().cancelled() => None,
        ended = keep_lock(context, hold) => Some(ended.into()),
        ended = duties => Some(ended),
    }
}

/// Renews the lock at a third of its life, from before the take-over on, since that may take long.
async fn keep_lock(context: &Context, hold: &LockHold) -> Resigned {
    loop {
        tokio::time::sleep(context.config.times.lock_ttl / 3).await;
        if let Err(reason) = hold.check() {
            return reason;
        }
        // A store that hangs must not outlive the trust.
        let renewed = tokio::time::timeout(context.config.times.lock_ttl / 3, hold.renew()).await;
        let answer = renewed.unwrap_or_else(|_| hold.check());
        if let Err(reason) = answer {
            return reason;
        }
    }
}

/// A new term, if the lock is still ours once it has begun.
async fn begin(context: &Context, hold: &Arc<LockHold>) -> Result<Term, DutyError> {
    let epoch = context.stores.terms.begin().await?;
    hold.look_again().await?;
    Ok(Term::new(epoch, Arc::clone(hold), context.jobs.clone()))
}

async fn serve(context: &Context, term: &Term, leading: &watch::Sender<Option<Epoch>>) -> DutyError {
    if let Err(error) = take_up(context, term).await {
        return error;
    }
    leading.send_replace(Some(term.epoch));
    perform(context, term).await
}

/// What comes before anything is given out.
async fn take_up(context: &Context, term: &Term) -> Result<(), DutyError> {
    let marked = takeover::take_over(&context.stores, term).await?;
    tracing::info!(epoch = ?term.epoch, marked, "a term begins");
    if !context.stores.queue.is_built().await? {
        index::rebuild(&context.stores, term).await?;
    }
    Ok(())
}

async fn perform(context: &Context, term: &Term) -> DutyError {
    let wakes = Wakes::default();
    let hints = context.stores.hints.subscribe();
    let dispatcher = Dispatcher::new(context.clone(), term.clone(), wakes.clone());
    tokio::select! {
        () = wakes.gather(hints) => unreachable_end(),
        ended = Box::pin(dispatcher.run()) => ended,
        ended = Box::pin(sweeps::often(context, term)) => ended,
        ended = Box::pin(sweeps::seldom(context, term)) => ended,
        ended = reconcile(context, term) => ended,
    }
}

/// Gathering never ends; if it did, the term could not go on.
const fn unreachable_end() -> DutyError {
    DutyError::Resigned(Resigned::LockExpired)
}

/// Until a later term has begun: whoever leads it may have the lock while we still trust ours.
async fn watch_terms(context: &Context, term: &Term) -> DutyError {
    loop {
        tokio::time::sleep(context.config.times.lock_ttl / 3).await;
        match context.stores.terms.current().await {
            Ok(current) if current > term.epoch => return Resigned::LaterTerm(current).into(),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the term could not be looked at"),
        }
    }
}

async fn reconcile(context: &Context, term: &Term) -> DutyError {
    let sweep = context.config.times.sweep;
    let mut reconcile = Reconcile::new(Arc::clone(&context.clock), sweep);
    let mut pause = sweep;
    loop {
        tokio::time::sleep(pause).await;
        let begun = context.clock.mono();
        if let Some(ended) = outcome("reconcile", reconcile.run(&context.stores, term).await) {
            return ended;
        }
        pause = sweep.max(RECONCILE_PART * context.clock.mono().since(begun));
    }
}

/// What of a duty's answer ends the term: nothing but the term's own end. Everything else is tried again.
fn outcome(duty: &'static str, answer: Result<(), DutyError>) -> Option<DutyError> {
    match answer {
        Ok(()) => None,
        Err(DutyError::Store(error)) => {
            tracing::warn!(%error, duty, "a duty waits for the store");
            None
        }
        Err(ended @ DutyError::Resigned(_)) => Some(ended),
    }
}

async fn pause(tasks: &Tasks, length: Duration) {
    tokio::select! {
        () = tasks.stopping().cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}

/// How often a follower tries to take the lock within its life: what it adds to the time without a leader.
const TRIES_A_LIFE: u32 = 10;

/// A count of a million rows takes a second of the store: looks at the queue's length take at most this part of it.
const RECONCILE_PART: u32 = 20;

/// How often due jobs are looked for.
const OFTEN: Duration = TICK;
