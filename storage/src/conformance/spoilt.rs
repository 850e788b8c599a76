//! Rows of jobs as no program of ours writes them: somebody's script, or a restore of half a backup, may leave them in the
//! database. Written here past every check, on purpose.

use common::ids::JobId;
use common::job::{Job, JobState};
use common::secret::Secret;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};

/// As the schema names it.
const JOBS: &str = "jobs";
/// Documents in one insert.
const INSERTED_TOGETHER: usize = 500;

/// How a row is spoilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// Its body is no JSON.
    NoJson,
    /// Its body is a job's that has ended, and its fields say what they said before.
    OtherState,
    /// Its fields name another revision than its body.
    OtherRevision,
    /// Its body is another job's.
    OtherJob,
    /// It reads well, and every update that we make of it fails.
    NoUpdate,
}

impl Spoilt {
    pub const ALL: [Self; 5] = [
        Self::NoJson,
        Self::OtherState,
        Self::OtherRevision,
        Self::OtherJob,
        Self::NoUpdate,
    ];

    /// Whether it cannot even be read.
    pub const fn is_unreadable(self) -> bool {
        match self {
            Self::NoJson | Self::OtherState | Self::OtherRevision | Self::OtherJob => true,
            Self::NoUpdate => false,
        }
    }
}

/// Writes these rows into the database that `uri` names; none: as it should be.
pub async fn write(uri: &Secret<String>, rows: &[(Job, Option<Spoilt>)]) {
    let collection = collection(uri).await;
    let documents: Vec<Document> = rows.iter().map(|(job, spoilt)| document(job, *spoilt)).collect();
    for part in documents.chunks(INSERTED_TOGETHER) {
        collection.insert_many(part).await.unwrap();
    }
}

async fn collection(uri: &Secret<String>) -> Collection<Document> {
    let client = Client::with_uri_str(uri.expose()).await.unwrap();
    let database = client.default_database().expect("the address names a database");
    database.collection(JOBS)
}

fn document(job: &Job, spoilt: Option<Spoilt>) -> Document {
    let mut document = crate::mongo::document_of(job).unwrap();
    let body_of = |job: &Job| serde_json::to_string(job).unwrap();
    let change = match spoilt {
        None => Document::new(),
        Some(Spoilt::NoJson) => doc! { "job": "{ \"id\": " },
        Some(Spoilt::OtherState) => {
            let mut ended = job.clone();
            ended.state = JobState::Succeeded { at: job.created_at };
            doc! { "job": body_of(&ended) }
        }
        Some(Spoilt::OtherRevision) => doc! { "revision": job.revision.0.cast_signed() + 7 },
        Some(Spoilt::OtherJob) => {
            let mut other = job.clone();
            other.id = JobId::from_u128(1);
            doc! { "job": body_of(&other) }
        }
        // where our updates leave the name of their writer
        Some(Spoilt::NoUpdate) => doc! { "writers": 7_i64 },
    };
    document.extend(change);
    document
}
