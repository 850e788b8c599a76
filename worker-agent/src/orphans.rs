//! Removes containers of ours that no attempt needs any more: what an earlier life left, what was half made, and what was
//! reported and is still there.
//!
//! Invariant: of this life none is removed that an attempt may be about to note. Whatever an earlier one made was noted
//! then or never will be, so it goes at the first look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Context;
use crate::executor::ExecutorError;

/// After a look that removed less than it found, or found the engine away; from one to the next it doubles, up to the
/// longest.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// Looks at once, and then now and then until the agent stops.
pub fn keep_sweeping(context: &Arc<Context>) {
    let context_in = Arc::clone(context);
    context
        .tasks
        .keep("orphans", move || sweep_on(Arc::clone(&context_in)));
}

async fn sweep_on(context: Arc<Context>) {
    let every = context.limits.orphans_every;
    let stopping = context.tasks.stopping();
    let mut again = AGAIN;
    while let Some(swept) = stopping.run_until_cancelled(sweep(&context)).await {
        let pause = match swept {
            Ok(()) => {
                again = AGAIN;
                every
            }
            Err(error) => {
                tracing::warn!(%error, "something may be left that should not be there");
                let pause = again.min(every);
                again = (again * 2).min(AGAIN_MAX);
                pause
            }
        };
        stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// Goes on past what it cannot remove, of which it tells the last.
async fn sweep(context: &Context) -> Result<(), ExecutorError> {
    let owned = context.executor.owned().await?;
    let needed: HashSet<_> = context
        .journal
        .state()
        .held
        .into_values()
        .filter(|held| held.report.is_none())
        .filter_map(|held| held.container)
        .collect();
    let now = context.clock.now();
    let mut swept = Ok(());
    for found in owned {
        let may_be_noted = found.of_this_life && now.since(found.created_at) < context.limits.creation_grace;
        if needed.contains(&found.container) || may_be_noted {
            continue;
        }
        tracing::warn!(
            container = found.container.0,
            "removing a container that no attempt needs"
        );
        if let Err(error) = context.executor.remove(&found.container).await {
            tracing::warn!(%error, container = found.container.0, "it stays for now");
            swept = Err(error);
        }
    }
    swept
}
