//! The removal of a container that its attempt has no more use for, however often the engine has to be asked.

use std::sync::Arc;
use std::time::Duration;

use super::Context;
use super::slots::Slot;
use crate::executor::ContainerRef;

/// Before a removal that failed is tried again; from one failure to the next it doubles, up to the longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Asks once before it returns, so that what can go is gone before its attempt is reported; then goes on beside. The
/// slot stays taken until the container is removed, for its user is that one's: it bounds how many are asked for at a
/// time, since a node with many such slots is not ready.
///
/// What remains when the agent ends is found by its next life.
pub(super) async fn remove(context: &Arc<Context>, container: ContainerRef, mut slot: Option<Slot>) {
    if is_removed(context, &container).await {
        return;
    }
    if let Some(slot) = &mut slot {
        slot.keep();
    }
    let asking = Arc::clone(context);
    context.tasks.spawn("removal", async move {
        let stopping = asking.tasks.stopping().clone();
        let mut pause = AGAIN;
        while tokio::time::timeout(pause, stopping.cancelled()).await.is_err() {
            if is_removed(&asking, &container).await {
                break;
            }
            pause = (pause * 2).min(AGAIN_MAX);
        }
        drop(slot);
    });
}

async fn is_removed(context: &Context, container: &ContainerRef) -> bool {
    let removed = context.executor.remove(container).await;
    if let Err(error) = &removed {
        tracing::warn!(%error, container = container.0, "a container is not removed yet");
    }
    removed.is_ok()
}
