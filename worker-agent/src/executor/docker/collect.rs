//! What a job left, after its end.

use std::sync::Arc;
use std::time::Duration;

use super::shared::{Shared, blocking};
use crate::executor::{Collected, CollectedFile, ExecutorError};
use crate::files::artifacts::{self, ArtifactLimits};

/// What was killed may be on its way out for a moment: so often it is tried to freeze the workspace, this far apart.
const FREEZE_TRIES: u32 = 20;
const FREEZE_AGAIN: Duration = Duration::from_millis(50);

/// Every process of the job has ended, so nothing changes any more; where the kernel can hold that, it does. A
/// workspace that something still writes to is not read: between look and upload a file could become a link.
pub async fn collect(shared: &Arc<Shared>, name: &str, globs: &[String]) -> Result<Collected, ExecutorError> {
    freeze(shared, name).await?;
    let (workspaces, name, globs) = (Arc::clone(&shared.workspaces), name.to_owned(), globs.to_vec());
    blocking(move || {
        let root = workspaces.path(&name);
        let found =
            artifacts::collect(&root, &globs, &ArtifactLimits::default()).map_err(|error| ExecutorError {
                message: format!("the workspace cannot be read: {error}"),
                source: Some(Box::new(error)),
            })?;
        let files = found
            .files
            .into_iter()
            .map(|file| CollectedFile {
                local: root.join(&file.path),
                path: file.path,
                bytes: file.bytes,
            })
            .collect();
        Ok(Collected {
            files,
            refused: found.refused,
        })
    })
    .await?
}

async fn freeze(shared: &Arc<Shared>, name: &str) -> Result<(), ExecutorError> {
    if !shared.workspaces.has_quota() {
        return Ok(());
    }
    let mut tries = 0;
    loop {
        let (workspaces, name) = (Arc::clone(&shared.workspaces), name.to_owned());
        let Err(error) = blocking(move || workspaces.freeze(&name)).await? else {
            return Ok(());
        };
        tries += 1;
        if tries == FREEZE_TRIES {
            return Err(ExecutorError {
                message: format!("something still writes to the workspace: {error}"),
                source: Some(error.into()),
            });
        }
        tokio::time::sleep(FREEZE_AGAIN).await;
    }
}
