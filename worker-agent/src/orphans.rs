//! Removes containers of ours that the journal does not know: what an earlier life left, and what was half made.
//!
//! Invariant: of this life none is removed that an attempt may be about to note. Whatever an earlier one made was noted
//! then or never will be, so it goes at the first look.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::Context;

/// After a look that removed less than it found, or found the engine away; from one to the next it doubles, up to the
/// usual time between two.
const AGAIN: Duration = Duration::from_secs(1);

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
    while let Some(all_gone) = stopping.run_until_cancelled(sweep(&context)).await {
        let pause = if all_gone {
            again = AGAIN;
            every
        } else {
            let pause = again.min(every);
            again = pause * 2;
            pause
        };
        stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

/// False: something may be left that should not be there.
async fn sweep(context: &Context) -> bool {
    let owned = match context.executor.owned().await {
        Ok(owned) => owned,
        Err(error) => {
            tracing::warn!(%error, "containers cannot be looked through for orphans");
            return false;
        }
    };
    let known: HashSet<_> = context
        .journal
        .state()
        .held
        .into_values()
        .filter_map(|held| held.container)
        .map(|(container, _)| container)
        .collect();
    let now = context.clock.now();
    let mut all_gone = true;
    for found in owned {
        let may_be_noted = found.of_this_life && now.since(found.created_at) < context.limits.creation_grace;
        if known.contains(&found.container) || may_be_noted {
            continue;
        }
        tracing::warn!(
            container = found.container.0,
            "removing a container that no attempt holds"
        );
        if let Err(error) = context.executor.remove(&found.container).await {
            tracing::warn!(%error, container = found.container.0, "it stays for now");
            all_gone = false;
        }
    }
    all_gone
}
