//! Whether the fleet could run what is submitted, before it is stored.
//!
//! Asked of what is remembered of the workers, so that it costs no row; a refusal is preceded by a fresh look. What was
//! taken before under the same key is not judged again: sent again, it has to find its job.

use std::sync::Arc;

use common::api_types::{FieldProblem, FleetView, WillWaitView};
use common::explain::{Admission, Fleet, admit};
use common::fit::Wanted;
use common::identity::Principal;
use common::job::Job;
use common::store::{Fingerprint, IdempotencyKey};
use http::StatusCode;

use crate::error::ApiError;
use crate::state::AppState;

/// The code of a refusal.
const CODE: &str = "no_worker_could_run_it";

/// Jobs of a bulk whose refusal is told one by one.
const REFUSALS_TOLD_MAX: usize = 20;

/// Why each of the jobs will wait, in order; none where a worker that takes work could run it.
///
/// # Errors
/// 422 where any of them could be run by no registered worker, and the fleet may not grow to it.
pub async fn judge(
    app: &AppState,
    caller: &Principal,
    jobs: &[Job],
    keys: Option<&[(IdempotencyKey, Fingerprint)]>,
    bulk: bool,
) -> Result<Vec<Option<WillWaitView>>, ApiError> {
    let fleet = app.fleet.workers().await?;
    let judged = look(app, &fleet, jobs);
    if judged.refused.is_empty() {
        return Ok(judged.waits);
    }
    let fleet: Arc<Fleet> = app.fleet.workers_now().await?;
    let judged = look(app, &fleet, jobs);
    if judged.refused.is_empty() {
        return Ok(judged.waits);
    }
    if taken_before(app, caller, keys).await? {
        return Ok(judged.waits);
    }
    Err(refusal(judged.refused, jobs.len(), bulk))
}

#[derive(Default)]
struct Judged {
    waits: Vec<Option<WillWaitView>>,
    refused: Vec<Refused>,
}

struct Refused {
    place: usize,
    sentence: String,
    fleet: FleetView,
}

fn look(app: &AppState, fleet: &Fleet, jobs: &[Job]) -> Judged {
    let (now, contact) = (app.now(), app.config.contact);
    let ceiling = app.config.fleet_ceiling.as_ref();
    let (mut judged, mut hint) = (Judged::default(), 0);
    // a bulk is most often many jobs of one kind, and what was said of one holds for the next
    let mut last: Option<(Wanted<'_>, Option<WillWaitView>)> = None;
    for (place, job) in jobs.iter().enumerate() {
        let wanted = Wanted::of(&job.spec);
        if let Some((_, waits)) = last.as_ref().filter(|(before, _)| *before == wanted) {
            judged.waits.push(waits.clone());
            continue;
        }
        let waits = match admit(wanted, fleet, ceiling, now, contact, &mut hint) {
            Admission::Good => None,
            Admission::Waits { reason, sentence } => Some(WillWaitView { reason, sentence }),
            Admission::Refused { sentence, verdicts } => {
                let fleet = FleetView::from(&verdicts);
                judged.refused.push(Refused {
                    place,
                    sentence,
                    fleet,
                });
                if judged.refused.len() == REFUSALS_TOLD_MAX {
                    break;
                }
                judged.waits.push(None);
                continue;
            }
        };
        judged.waits.push(waits.clone());
        last = Some((wanted, waits));
    }
    judged.waits.resize(jobs.len(), None);
    judged
}

/// Whether a job of this very request is stored already; never without a key.
pub async fn taken_before(
    app: &AppState,
    caller: &Principal,
    keys: Option<&[(IdempotencyKey, Fingerprint)]>,
) -> Result<bool, ApiError> {
    let Some(keys) = keys else {
        return Ok(false);
    };
    let names: Vec<IdempotencyKey> = keys.iter().map(|(key, _)| key.clone()).collect();
    let stored = app
        .stores
        .jobs
        .stored_under(&caller.account, &caller.user, &names);
    let stored = stored.await?;
    Ok(stored
        .iter()
        .any(|found| keys.iter().any(|(_, asked)| asked == found)))
}

fn refusal(refused: Vec<Refused>, jobs: usize, bulk: bool) -> ApiError {
    let unprocessable = |detail| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, CODE, detail);
    let told = refused.len();
    let mut errors = Vec::with_capacity(told);
    let mut first = None;
    for Refused {
        place,
        sentence,
        fleet,
    } in refused
    {
        if first.is_none() {
            first = Some((sentence.clone(), fleet));
        }
        errors.push(FieldProblem {
            field: format!("jobs[{place}]"),
            code: CODE.to_owned(),
            message: sentence,
        });
    }
    let Some((sentence, fleet)) = first else {
        return ApiError::internal();
    };
    let error = if bulk {
        let many = if told == REFUSALS_TOLD_MAX {
            "at least "
        } else {
            ""
        };
        unprocessable(format!(
            "No registered worker could ever run {many}{told} of these {jobs} jobs, so none was stored."
        ))
        .with_errors(errors)
    } else {
        unprocessable(format!(
            "No registered worker could ever run this job: {sentence}."
        ))
    };
    error.with_fleet(fleet)
}
