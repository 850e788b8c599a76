//! Gathers what is known of a job and its surroundings, and has it explained.
//!
//! What an index cannot say at the moment is left out: an explanation without a place is better than none.

use common::api_types::ExplainView;
use common::explain::{Facts, Fleet, KeptRooms, Place, Typical, explain};
use common::job::{Job, JobState, StateName};
use common::queue::QueueEntry;
use common::store::{JobQuery, StoreError};

use crate::error::ApiError;
use crate::state::AppState;

/// Ended jobs of the account that are looked at for how long such jobs take: some milliseconds of reading.
const ENDED_LOOKED_AT: usize = 50;

/// # Errors
/// 503 where the rows cannot be read.
pub async fn of_job(app: &AppState, job: &Job) -> Result<ExplainView, ApiError> {
    let fleet = match job.state {
        JobState::Scheduled { .. } | JobState::Queued { .. } => app.fleet.whole().await?,
        JobState::Assigned { .. } | JobState::Running { .. } => app.fleet.workers().await?,
        JobState::Succeeded { .. } | JobState::Failed { .. } | JobState::Cancelled { .. } => {
            Fleet::default().into()
        }
    };
    let mut facts = Facts {
        now: app.now(),
        contact: app.config.contact,
        fleet: &fleet,
        running_max: None,
        place: None,
        typical: None,
        kept: None,
    };
    let kept;
    if let Some(entry) = QueueEntry::of(job) {
        let account = app.stores.identity.account(&job.account).await?;
        facts.running_max = account.and_then(|account| account.running_max);
        facts.place = place(app, &entry).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the queue does not say where a job stands");
            None
        });
        facts.typical = typical(app, job).await?;
        kept = kept_rooms(app, job).await?;
        facts.kept = Some(&kept);
    }
    Ok(ExplainView::of(job, explain(job, &facts), facts.now))
}

async fn place(app: &AppState, entry: &QueueEntry) -> Result<Option<Place>, StoreError> {
    let Some(before) = app.stores.queue.place(entry).await? else {
        return Ok(None);
    };
    let mut place = Place {
        before,
        of: before + 1,
        ..Place::default()
    };
    // past its limit of classes an account's jobs wait in mixed ones
    let mixed = entry.lane.class.mixed();
    let (mut own, mut shared) = (None, None);
    for (lane, length) in app.stores.queue.lanes().await? {
        place.all += length;
        if lane.account == entry.lane.account {
            place.account += length;
            if lane.class == entry.lane.class {
                own = Some(length);
            } else if lane.class == mixed {
                shared = Some(length);
            }
        }
    }
    place.of = own.or(shared).unwrap_or(0).max(before + 1);
    Ok(Some(place))
}

/// What the leader told last, of jobs that still wait.
async fn kept_rooms(app: &AppState, job: &Job) -> Result<KeptRooms, StoreError> {
    let mut told = app.stores.queue.reservations().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the queue does not say what is held back");
        Vec::new()
    });
    if !told.is_empty() {
        let ids: Vec<_> = told.iter().map(|one| one.job).collect();
        let rows = app.stores.jobs.get_many(&ids).await?;
        let waits = |id| {
            let row = rows.iter().find(|row| row.id == id);
            row.is_some_and(|row| matches!(row.state, JobState::Queued { .. }))
        };
        told.retain(|one| waits(one.job));
    }
    Ok(KeptRooms::of(job, &told))
}

async fn typical(app: &AppState, job: &Job) -> Result<Option<Typical>, StoreError> {
    let query = JobQuery {
        account: Some(job.account.clone()),
        states: vec![StateName::Succeeded, StateName::Failed],
        limit: ENDED_LOOKED_AT,
        ..JobQuery::default()
    };
    let ended = app.stores.jobs.list(&query).await?;
    Ok(Typical::of(job, &ended.items))
}
