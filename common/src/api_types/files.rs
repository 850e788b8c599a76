//! Uploaded files and the artifacts of jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::attempt::Artifact;
use crate::ids::{FileId, JobId, UserId};
use crate::store::{FileMeta, FilePurpose};
use crate::time::Timestamp;

use super::INTEGER_MAX;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileView {
    pub id: FileId,
    pub name: String,
    pub content_type: String,
    #[schema(maximum = 9007199254740991u64)]
    pub bytes: u64,
    /// Lower-case hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
    pub owner: UserId,
    /// Whether a job left it.
    pub artifact: bool,
    pub created_at: Timestamp,
}

impl From<FileMeta> for FileView {
    fn from(meta: FileMeta) -> Self {
        Self {
            id: meta.id,
            name: meta.name,
            content_type: meta.content_type,
            bytes: meta.bytes.min(INTEGER_MAX),
            sha256: meta.sha256,
            owner: meta.owner,
            artifact: match meta.purpose {
                FilePurpose::Artifact { .. } => true,
                FilePurpose::Upload => false,
            },
            created_at: meta.created_at,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    pub files: Vec<FileView>,
    /// Names the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A file that a job left under `/workspace`; its bytes are at `/files/{file}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactView {
    pub path: String,
    pub file: FileId,
    #[schema(maximum = 9007199254740991u64)]
    pub bytes: u64,
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: String,
}

impl From<&Artifact> for ArtifactView {
    fn from(artifact: &Artifact) -> Self {
        Self {
            path: artifact.path.clone(),
            file: artifact.file,
            bytes: artifact.bytes.min(INTEGER_MAX),
            sha256: artifact.sha256.clone(),
        }
    }
}

/// What the job's last ended attempt left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactsView {
    pub job: JobId,
    /// The attempt's number; absent where none has ended.
    #[schema(maximum = 4294967295u64)]
    pub attempt: Option<u32>,
    pub artifacts: Vec<ArtifactView>,
    pub refused: Vec<super::RefusedArtifactView>,
}
