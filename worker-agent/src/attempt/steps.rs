//! The long steps of an attempt, each in a task of its own, so that the attempt hears its letter box meanwhile:
//! getting ready, taking over, and bringing in what the job left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::attempt::{Artifact, NotStartedReason, Outcome, RefusedArtifact};
use common::ids::FileId;
use common::protocol::Assignment;
use common::time::Mono;
use tokio::sync::{oneshot, watch};

use super::Context;
use super::outcome::{infra, of_start_failure};
use crate::executor::{
    AdoptFailure, AdoptRequest, CollectedFile, ContainerRef, LocalInput, PrepareRequest, Prepared, Running,
    StartFailure,
};
use crate::journal::Facts;

/// Tries to fetch one input: over a minute with the pauses between them.
const FETCH_TRIES: u32 = 8;

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A container that waits for its job.
pub struct Ready {
    pub prepared: Box<dyn Prepared>,
    pub facts: Facts,
}

/// What a run left, and the run, which may go now.
pub struct Gathered {
    pub running: Box<dyn Running>,
    pub artifacts: Vec<Artifact>,
    pub refused: Vec<RefusedArtifact>,
}

/// Inputs, image, container. Where nobody waits for the answer any more, everything is put away again.
pub fn prepare(
    context: &Arc<Context>,
    assignment: &Arc<Assignment>,
) -> oneshot::Receiver<Result<Ready, Outcome>> {
    let (mut answer, receiver) = oneshot::channel();
    let (context_in, assignment) = (Arc::clone(context), Arc::clone(assignment));
    context.tasks.spawn("prepare", async move {
        let context = context_in;
        let folder = context.folder_of(assignment.attempt).join("inputs");
        // Up to here leaving leaves nothing behind but files.
        let inputs = tokio::select! {
            inputs = fetch(&context, &assignment, &folder) => inputs,
            () = answer.closed() => return discard(&context, folder).await,
        };
        let result = match inputs {
            Ok((inputs, inputs_ms)) => tokio::select! {
                made = make(&context, &assignment, inputs, inputs_ms) => made,
                // What is half made then is an orphan without a job, and is swept.
                () = context.tasks.stopping().cancelled() => return,
            },
            Err(outcome) => Err(outcome),
        };
        discard(&context, folder).await;
        if let Err(Ok(unwanted)) = answer.send(result) {
            unwanted.prepared.destroy().await;
        }
    });
    receiver
}

/// Takes over a container of an earlier life; tried for as long as the engine is away.
pub fn adopt(
    context: &Arc<Context>,
    assignment: &Arc<Assignment>,
    container: ContainerRef,
    spooled_seq: u64,
) -> oneshot::Receiver<Result<Box<dyn Running>, AdoptFailure>> {
    let (mut answer, receiver) = oneshot::channel();
    let (context_in, assignment) = (Arc::clone(context), Arc::clone(assignment));
    context.tasks.spawn("adopt", async move {
        let context = context_in;
        let mut pause = PAUSE_MIN;
        let result = loop {
            let request = AdoptRequest {
                container: container.clone(),
                assignment: Arc::clone(&assignment),
                spooled_seq,
            };
            match context.executor.adopt(request).await {
                Ok(running) => break Ok(running),
                Err(gone @ AdoptFailure::Gone { .. }) => break Err(gone),
                Err(AdoptFailure::Unavailable { message }) => {
                    tracing::warn!(attempt = %assignment.attempt, message, "a container cannot be taken over yet");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = answer.closed() => return,
                    }
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        };
        // A container that nobody waits for is left as it is.
        let _ = answer.send(result);
    });
    receiver
}

/// Collects and uploads what matches the job's globs, for as long as the lease lives.
pub fn gather(
    context: &Arc<Context>,
    assignment: &Arc<Assignment>,
    mut running: Box<dyn Running>,
    lease: watch::Receiver<Option<Mono>>,
) -> oneshot::Receiver<Gathered> {
    let (mut answer, receiver) = oneshot::channel();
    let (context_in, assignment) = (Arc::clone(context), Arc::clone(assignment));
    context.tasks.spawn("gather", async move {
        let context = context_in;
        let (mut artifacts, mut refused) = (Vec::new(), Vec::new());
        let collected = tokio::select! {
            collected = running.collect(&assignment.spec.artifacts) => collected,
            () = answer.closed() => return,
        };
        match collected {
            Ok(collected) => {
                refused = collected.refused;
                for file in collected.files {
                    let stored = tokio::select! {
                        stored = upload(&context, &assignment, &file, &lease) => stored,
                        () = answer.closed() => return,
                    };
                    match stored {
                        Ok(artifact) => artifacts.push(artifact),
                        Err(reason) => refused.push(RefusedArtifact {
                            path: file.path,
                            reason,
                        }),
                    }
                }
            }
            Err(error) => refused.push(RefusedArtifact {
                path: String::new(),
                reason: format!("the workspace cannot be read: {error}"),
            }),
        }
        // An attempt that is gone leaves its container to be adopted.
        let _ = answer.send(Gathered {
            running,
            artifacts,
            refused,
        });
    });
    receiver
}

async fn fetch(
    context: &Context,
    assignment: &Assignment,
    folder: &Path,
) -> Result<(Vec<LocalInput>, Option<u64>), Outcome> {
    if assignment.inputs.is_empty() {
        return Ok((Vec::new(), None));
    }
    let began = context.clock.mono();
    if assignment.inputs.len() != assignment.spec.inputs.len() {
        return Err(infra("the assignment names its inputs in two different ways"));
    }
    let made = folder.to_owned();
    context
        .disk
        .run(move || std::fs::create_dir_all(made))
        .await
        .map_err(|error| infra(&format!("no room for inputs: {error}")))?;
    let mut inputs = Vec::with_capacity(assignment.inputs.len());
    for (number, (source, wanted)) in assignment.inputs.iter().zip(&assignment.spec.inputs).enumerate() {
        let local = folder.join(number.to_string());
        let mut pause = PAUSE_MIN;
        let mut tries = 1;
        while let Err(error) = context.files.fetch(assignment.attempt, source, &local).await {
            if !error.retryable() {
                return Err(Outcome::NotStarted {
                    reason: NotStartedReason::BadInputs,
                    message: format!("{}: {error}", wanted.path),
                });
            }
            if tries == FETCH_TRIES {
                return Err(infra(&format!("{} cannot be fetched: {error}", wanted.path)));
            }
            tries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        inputs.push(LocalInput {
            wanted: wanted.clone(),
            local,
        });
    }
    Ok((inputs, Some(millis(context.clock.mono().since(began)))))
}

async fn make(
    context: &Context,
    assignment: &Arc<Assignment>,
    inputs: Vec<LocalInput>,
    inputs_ms: Option<u64>,
) -> Result<Ready, Outcome> {
    let request = PrepareRequest {
        assignment: Arc::clone(assignment),
        inputs,
    };
    let prepared = match context.executor.prepare(request).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            // Before the failure is reported, so that the next try goes elsewhere.
            if let StartFailure::Infra { .. } = failure {
                context.condition.look().await;
            }
            return Err(of_start_failure(&failure));
        }
    };
    let facts = prepared.facts();
    Ok(Ready {
        facts: Facts {
            image_digest: facts.image_digest,
            inputs_ms,
            pull_ms: facts.pull_ms,
            create_ms: facts.create_ms,
        },
        prepared,
    })
}

async fn upload(
    context: &Context,
    assignment: &Assignment,
    file: &CollectedFile,
    lease: &watch::Receiver<Option<Mono>>,
) -> Result<Artifact, String> {
    let id = FileId::random();
    let mut pause = PAUSE_MIN;
    loop {
        let tried = context
            .files
            .store(assignment.attempt, id, &file.path, &file.local)
            .await;
        match tried {
            Ok(stored) => {
                return Ok(Artifact {
                    path: file.path.clone(),
                    file: id,
                    bytes: stored.bytes,
                    sha256: stored.sha256,
                });
            }
            Err(error) if !error.retryable() => return Err(error.to_string()),
            Err(error) => {
                let over = lease
                    .borrow()
                    .is_none_or(|deadline| deadline <= context.clock.mono());
                if over {
                    return Err(format!("not stored before the lease ended: {error}"));
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn discard(context: &Context, folder: PathBuf) {
    let shown = folder.display().to_string();
    match context.disk.run(move || std::fs::remove_dir_all(folder)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, folder = shown, "inputs are left behind");
        }
        _ => {}
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
