//! What a job left, after its end.

use std::sync::Arc;

use super::shared::{Shared, blocking};
use crate::executor::{Collected, CollectedFile, ExecutorError};
use crate::files::artifacts::{self, ArtifactLimits};

/// Every process of the job has ended, so nothing changes any more; where the kernel can hold that, it does.
pub async fn collect(shared: &Arc<Shared>, name: &str, globs: &[String]) -> Result<Collected, ExecutorError> {
    let (workspaces, name, globs) = (Arc::clone(&shared.workspaces), name.to_owned(), globs.to_vec());
    blocking(move || {
        if workspaces.has_quota()
            && let Err(error) = workspaces.freeze(&name)
        {
            tracing::warn!(%error, workspace = name, "the workspace cannot be frozen");
        }
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
