//! The beginning of a connection: hello, session, the worker's row, verdicts, welcome.

use std::collections::HashSet;
use std::sync::Arc;

use common::ids::{AttemptId, JobId, SessionId, WorkerId};
use common::job::{Job, JobState, StateName};
use common::protocol::{
    CloseCode, FromWorker, HELD_ATTEMPTS_MAX, HeldAttempt, PROTOCOL_VERSION, ToWorker, Verdict, VerdictFor,
};
use common::store::{StoreError, Stores, Topic};
use common::time::Timestamp;
use common::worker::{Condition, Load, Session, Worker, WorkerDescription};

use super::known::{Attempts, Known, Standing};
use super::socket::{Inbound, Socket};
use super::{End, Gateway, SUPERSEDED, overdue, patience, plausible};
use crate::gateway::registry::Place;

/// A connection that may speak.
pub struct Opened {
    pub place: Place,
    pub session: Session,
    pub attempts: Attempts,
    /// What the session holds, for the first deliveries.
    pub rows: Vec<Job>,
    /// What of it runs by the rows and is not listed.
    pub missing: HashSet<(AttemptId, StateName)>,
    /// As the worker's row has it now.
    pub condition: Condition,
}

struct Hello {
    session: Option<SessionId>,
    description: WorkerDescription,
    condition: Condition,
    attempts: Vec<HeldAttempt>,
}

/// Everything up to the welcome.
///
/// # Errors
/// How the connection is to end.
pub async fn open(gateway: &Arc<Gateway>, worker: &WorkerId, socket: &mut Socket) -> Result<Opened, End> {
    let deadline = gateway.config.times.handshake;
    let hello = tokio::time::timeout(deadline, expect_hello(socket))
        .await
        .map_err(|_| End::Close(CloseCode::TooSlow, "no hello in time"))??;
    let patience = patience(&gateway.config.times);
    tokio::time::timeout(patience, admit(gateway, worker, hello, socket))
        .await
        .map_err(|_| overdue(worker, patience))?
}

async fn admit(
    gateway: &Gateway,
    worker: &WorkerId,
    hello: Hello,
    socket: &mut Socket,
) -> Result<Opened, End> {
    // Whoever waits for longer has given up by then, and comes again: its hello shall cost nothing more.
    let _turn = tokio::time::timeout(gateway.config.times.handshake / 2, gateway.hellos.acquire())
        .await
        .map_err(|_| End::Close(CloseCode::GoingAway, "too many agents come at once"))?;
    let stores = &gateway.stores;
    // Read before the session: whoever stores another one meanwhile is newer.
    let before = stores.workers.get(worker).await?;
    let replaces = before.and_then(|row| row.session);
    let (session, resumed) = session(gateway, worker, hello.session, replaces).await?;
    // Entered before the rows are looked at, so that what is assigned from now on is handed over.
    let place = gateway
        .registry
        .enter(worker, session.id, session.conn)
        .ok_or(SUPERSEDED)?;
    let row = described(worker, &session, &hello, gateway.clock.now());
    if !stores.workers.put(&row, replaces).await? {
        return Err(SUPERSEDED);
    }
    let rows = if resumed {
        held_by(stores, session.id).await?
    } else {
        Vec::new()
    };
    let mut attempts = Attempts::default();
    let current = rows.iter().filter_map(|job| job.state.attempt()).collect();
    let verdicts = judge(&current, &hello.attempts);
    for (held, verdict) in hello.attempts.iter().zip(&verdicts) {
        let standing = match verdict.verdict {
            Verdict::Keep => Standing::Ours,
            // Of another session or ended; the row is looked at when the agent speaks of it.
            Verdict::Stop => continue,
        };
        attempts.insert(
            held.attempt,
            Known {
                in_hello: true,
                ..Known::new(held.job, standing)
            },
        );
    }
    let missing = missing(&rows, &hello.attempts);
    socket.put(&ToWorker::Welcome {
        protocol: PROTOCOL_VERSION,
        session: session.id,
        resumed,
        settings: gateway.config.times.worker_settings(),
        verdicts,
    });
    stores.hints.send(Topic::Capacity);
    tracing::info!(%worker, session = %session.id, conn = session.conn, resumed, "a worker is connected");
    Ok(Opened {
        place,
        session,
        attempts,
        rows,
        missing,
        condition: hello.condition,
    })
}

async fn expect_hello(socket: &mut Socket) -> Result<Hello, End> {
    loop {
        return match socket.next().await {
            Inbound::Alive => continue,
            Inbound::Gone => Err(End::Gone),
            Inbound::Bad(code) => Err(End::Close(code, "not a message")),
            Inbound::Message(FromWorker::Hello { protocol, .. }) if !speaks(protocol) => Err(End::Close(
                CloseCode::VersionMismatch,
                "this protocol version is not spoken here",
            )),
            Inbound::Message(FromWorker::Hello { attempts, .. }) if attempts.len() > HELD_ATTEMPTS_MAX => {
                Err(End::Close(CloseCode::BadMessage, "too many attempts"))
            }
            Inbound::Message(FromWorker::Hello { description, .. })
                if !plausible::description(&description) =>
            {
                Err(End::Close(
                    CloseCode::BadMessage,
                    "a description of more than 64 labels, or a text of more than 256 printable bytes",
                ))
            }
            Inbound::Message(FromWorker::Hello {
                session,
                description,
                condition,
                draining,
                attempts,
                ..
            }) => Ok(Hello {
                session,
                description: plausible::limited(description),
                condition: effective(condition, draining),
                attempts,
            }),
            Inbound::Message(_) | Inbound::Chunk(..) => {
                Err(End::Close(CloseCode::BadMessage, "hello comes first"))
            }
        };
    }
}

/// This version and the one before, where there is one.
fn speaks(protocol: u32) -> bool {
    protocol >= 1 && (protocol == PROTOCOL_VERSION || protocol.checked_add(1) == Some(PROTOCOL_VERSION))
}

/// The agent's own wish to drain is part of its condition: the row's `draining` is the administrator's alone, and an
/// agent that comes back must not end it.
pub fn effective(condition: Condition, draining: bool) -> Condition {
    let condition = plausible::condition(condition);
    if !draining {
        return condition;
    }
    let mut reasons = match condition {
        Condition::Ready => Vec::new(),
        Condition::Unready { reasons } => reasons,
    };
    reasons.insert(0, "the worker is draining".to_owned());
    Condition::Unready { reasons }
}

async fn session(
    gateway: &Gateway,
    worker: &WorkerId,
    wanted: Option<SessionId>,
    current: Option<SessionId>,
) -> Result<(Session, bool), End> {
    let workers = &gateway.stores.workers;
    if let Some(id) = wanted {
        if let Some(current) = current
            && current != id
            && is_succeeded(gateway, worker, id, current).await?
        {
            return Err(End::Close(
                CloseCode::Superseded,
                "another agent speaks for this worker: every machine needs a key of its own",
            ));
        }
        if let Some(session) = workers.resume_session(id, worker).await? {
            return Ok((session, true));
        }
    }
    let session = workers
        .open_session(SessionId::random(), worker, gateway.clock.now())
        .await?;
    Ok((session, false))
}

/// Whether `current` has taken the place of `id` and lives: then the agent of `id` stays away, so that its own session
/// ages and the two do not take the worker from each other for ever. A session that was never renewed and has no
/// connection does not count: its agent may have missed the welcome and be the one that asks.
async fn is_succeeded(
    gateway: &Gateway,
    worker: &WorkerId,
    id: SessionId,
    current: SessionId,
) -> Result<bool, StoreError> {
    let found = gateway.stores.workers.sessions(&[id, current]).await?;
    // one that nobody knows is as good as none: its agent begins anew
    let known = found.iter().any(|session| session.id == id);
    let spoken_for = |beat| beat > 1 || gateway.registry.speaks(worker, current);
    let newer = found.iter().find(|session| session.id == current);
    Ok(known && newer.is_some_and(|session| !session.lost && spoken_for(session.beat)))
}

/// The worker as its hello tells it; what the row knows beyond that stays.
fn described(worker: &WorkerId, session: &Session, hello: &Hello, now: Timestamp) -> Worker {
    Worker {
        id: worker.clone(),
        description: hello.description.clone(),
        condition: hello.condition.clone(),
        draining: false,
        session: Some(session.id),
        conn: session.conn,
        registered_at: now,
        heard_at: now,
        load: Load::default(),
    }
}

/// Everything that a session holds. What it comes to hold meanwhile is handed over.
async fn held_by(stores: &Stores, session: SessionId) -> Result<Vec<Job>, StoreError> {
    let holdings = stores.jobs.holdings(session).await?;
    let ids: Vec<JobId> = holdings.iter().map(|holding| holding.job).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = stores.jobs.get_many(&ids).await?;
    rows.retain(|job| job.state.lease().is_some_and(|lease| lease.session == session));
    rows.sort_unstable_by_key(|job| job.id);
    Ok(rows)
}

/// Keep what the rows say is `current` and of this session; stop the rest.
pub fn judge(current: &HashSet<AttemptId>, listed: &[HeldAttempt]) -> Vec<VerdictFor> {
    listed
        .iter()
        .map(|held| {
            let keep = current.contains(&held.attempt);
            VerdictFor {
                attempt: held.attempt,
                verdict: if keep { Verdict::Keep } else { Verdict::Stop },
            }
        })
        .collect()
}

/// What runs by the rows and is not listed. That alone ends nothing: this hello may have waited to be read while its
/// agent gave the connection up, came back on another and was given work there. The first heartbeat of this connection
/// tells, since an agent beats only where it heard its welcome.
fn missing(rows: &[Job], listed: &[HeldAttempt]) -> HashSet<(AttemptId, StateName)> {
    let listed: HashSet<AttemptId> = listed.iter().map(|held| held.attempt).collect();
    rows.iter()
        .filter_map(|job| match job.state {
            JobState::Running { attempt, .. } if !listed.contains(&attempt) => {
                Some((attempt, job.state.name()))
            }
            _ => None,
        })
        .collect()
}
