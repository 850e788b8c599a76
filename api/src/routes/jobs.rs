//! Jobs: submit, look, list, cancel.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use common::api_types::{
    ArtifactView, ArtifactsView, BulkAnswer, BulkWaitView, CancelRequestBody, ExplainView, JobList, JobView,
    StateCounts, SubmitBulk, SubmitJob, paths,
};
use common::error::ServiceError;
use common::identity::{Principal, Role};
use common::ids::JobId;
use common::job::{CancelRequest, CancelledBy, Job, JobState, StateName};
use common::lifecycle::{JobEvent, Refusal};
use common::service::Applied;
use common::store::{JobCursor, JobQuery};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;

use crate::audit;
use crate::error::ApiError;
use crate::extract::{BULK_BYTES_MAX, Caller, Id, Json, Params, ReadJobs, WriteJobs};
use crate::services::explain as explained;
use crate::services::job_watch::Unseen;
use crate::services::submit::{self, BULK_MAX, Submitted};
use crate::services::until_end::{WAIT_SECONDS_MAX, until_end};
use crate::state::{App, AppState};

const PAGE_DEFAULT: u64 = 50;
/// A page of jobs with 16 attempts each stays below some 10 MiB.
const PAGE_MAX: u64 = 200;
const LABELS_MAX: usize = 16;
const KEY_LEN_MAX: usize = 255;
const WHY_LEN_MAX: usize = 500;

/// Submits a job. Answered once it is stored: from then on it is not lost. With `wait`, answered once it has ended.
#[utoipa::path(post, path = "/jobs", tag = "jobs", request_body = SubmitJob,
    params(("wait" = Option<u64>, Query, maximum = 25, description = "Seconds to hold the answer back until the job \
            has ended; then it shows the job as it stands. Where the connection breaks before, send the same again \
            under the same key."),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's own name for this submission, \
        good for 24 h: the same request again answers the same job.")),
    responses((status = 201, description = "Stored. `Location` is the job; `Idempotency-Replayed: true` where an \
        earlier request had stored it.", body = JobView),
        (status = 422, description = "It breaks a rule, or no registered worker could ever run it \
        (`no_worker_could_run_it`, with each worker's verdict in `fleet`)."),
        (status = 503, description = "Nothing is acknowledged. `too_many_waits`: nothing is stored either, since as \
        many requests wait for their job's end as may; the same without `wait` is taken.")))]
pub async fn submit(
    State(app): State<App>,
    caller: Caller<WriteJobs>,
    headers: HeaderMap,
    mut params: Params,
    Json(request): Json<SubmitJob>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    // before anything is stored: a refusal must leave nothing behind
    let wait = Wait::take(&app, &mut params)?;
    params.finish()?;
    let submitted = submit::submit(&app, &caller.principal, vec![request], key, false)
        .await?
        .pop()
        .ok_or_else(ApiError::internal)?;
    let location = HeaderValue::from_str(&paths::job(submitted.job.id)).expect("an id is ASCII");
    let stored = submitted.job.clone();
    // whoever may not see it any longer has been acknowledged all the same
    let job = match wait {
        Some(wait) => wait
            .until_end(&app, caller.principal, stored)
            .await
            .unwrap_or(submitted.job),
        None => stored,
    };
    let view = JobView {
        waiting: submitted
            .waiting
            .filter(|_| matches!(job.state, JobState::Scheduled { .. } | JobState::Queued { .. })),
        ..JobView::from(&job)
    };
    let mut response = (
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(view),
    )
        .into_response();
    mark_replay(&mut response, submitted.replayed);
    Ok(response)
}

/// Submits up to 1,000 jobs: all are stored, or none where any breaks a rule.
#[utoipa::path(post, path = "/jobs/bulk", tag = "jobs", request_body = SubmitBulk,
    params(("Idempotency-Key" = Option<String>, Header, description = "As with a single job, for the whole list.")),
    responses((status = 201, description = "Stored.", body = BulkAnswer),
        (status = 422, description = "A job breaks a rule, or no registered worker could ever run it; `errors` names \
        it by its index, as `jobs[3]`.")))]
pub async fn submit_bulk(
    State(app): State<App>,
    caller: Caller<WriteJobs>,
    headers: HeaderMap,
    Json(request): Json<SubmitBulk, BULK_BYTES_MAX>,
) -> Result<Response, ApiError> {
    if !(1..=BULK_MAX).contains(&request.jobs.len()) {
        return Err(ApiError::field(
            "jobs",
            "out_of_range",
            format!("expected 1 to {BULK_MAX} jobs"),
        ));
    }
    let key = idempotency_key(&headers)?;
    let submitted = submit::submit(&app, &caller.principal, request.jobs, key, true).await?;
    let replayed = submitted.iter().all(|one| one.replayed);
    let answer = BulkAnswer {
        ids: submitted.iter().map(|one| one.job.id).collect(),
        waiting: waiting(&submitted),
    };
    let mut response = (StatusCode::CREATED, axum::Json(answer)).into_response();
    mark_replay(&mut response, replayed);
    Ok(response)
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(
        ("state" = Option<StateName>, Query, description = "Only in this state; may repeat."),
        ("label" = Option<String>, Query, description = "`name=value`: only with this label; may repeat."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "Default 50.")),
    responses((status = 200, description = "A page.", body = JobList)))]
pub async fn list(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    mut params: Params,
) -> Result<axum::Json<JobList>, ApiError> {
    let states = params
        .many("state")
        .iter()
        .map(|text| text.parse::<StateName>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ApiError::field("state", "wrong_type", error.to_string()))?;
    let labels = params
        .many("label")
        .iter()
        .map(|text| {
            text.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        })
        .collect::<Option<Vec<_>>>()
        .filter(|labels| labels.len() <= LABELS_MAX)
        .ok_or_else(|| {
            ApiError::field(
                "label",
                "wrong_type",
                format!("expected `name=value`, at most {LABELS_MAX} times"),
            )
        })?;
    let query = JobQuery {
        account: caller.principal.scope().cloned(),
        states,
        labels,
        before: params.one::<JobId>("cursor")?.map(JobCursor),
        limit: params.number("limit", PAGE_DEFAULT, 1..=PAGE_MAX)? as usize,
    };
    params.finish()?;
    let page = app.stores.jobs.list(&query).await?;
    Ok(axum::Json(JobList {
        jobs: page
            .items
            .iter()
            .map(|job| shown(caller.principal.role, job))
            .collect(),
        next: page.next.map(|JobCursor(id)| id.to_string()),
    }))
}

/// How many jobs are in each state.
#[utoipa::path(get, path = "/jobs/counts", tag = "jobs",
    responses((status = 200, description = "The numbers.", body = StateCounts)))]
pub async fn counts(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
) -> Result<axum::Json<StateCounts>, ApiError> {
    let mut counts = StateCounts::default();
    for (state, number) in app.stores.jobs.count_by_state(caller.principal.scope()).await? {
        *match state {
            StateName::Scheduled => &mut counts.scheduled,
            StateName::Queued => &mut counts.queued,
            StateName::Assigned => &mut counts.assigned,
            StateName::Running => &mut counts.running,
            StateName::Succeeded => &mut counts.succeeded,
            StateName::Failed => &mut counts.failed,
            StateName::Cancelled => &mut counts.cancelled,
        } = number;
    }
    Ok(axum::Json(counts))
}

/// A job as it stands; with `wait`, as it stands once it has ended.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", params(("id" = JobId, Path, description = "The job."),
        ("wait" = Option<u64>, Query, maximum = 25, description = "Seconds to hold the answer back until the job has \
            ended; then it shows the job as it stands.")),
    responses((status = 200, description = "The job.", body = JobView),
        (status = 503, description = "`too_many_waits`: as many requests wait for their job's end as may; the same \
        without `wait` is answered.")))]
pub async fn get(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
    mut params: Params,
) -> Result<axum::Json<JobView>, ApiError> {
    let wait = Wait::take(&app, &mut params)?;
    params.finish()?;
    let role = caller.principal.role;
    let job = visible(&app, &caller.principal, id).await?;
    let job = match wait {
        Some(wait) => wait.until_end(&app, caller.principal, job).await?,
        None => job,
    };
    Ok(axum::Json(shown(role, &job)))
}

fn shown(role: Role, job: &Job) -> JobView {
    match role {
        Role::Admin => JobView::for_administrator(job),
        Role::User | Role::Viewer => JobView::from(job),
    }
}

/// Why a job waits, where it runs, or how it ended: one reason, its place, what each worker has to say, and what to do
/// next.
#[utoipa::path(get, path = "/jobs/{id}/explain", tag = "jobs", params(("id" = JobId, Path, description = "The job.")),
    responses((status = 200, description = "The explanation.", body = ExplainView)))]
pub async fn explain(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
) -> Result<axum::Json<ExplainView>, ApiError> {
    let job = visible(&app, &caller.principal, id).await?;
    Ok(axum::Json(explained::of_job(&app, &job).await?))
}

/// Asks for the end of a job. One that waits is cancelled at once; one that runs when its agent confirms.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", request_body = CancelRequestBody,
    params(("id" = JobId, Path, description = "The job.")),
    responses((status = 202, description = "Asked for, now or before.", body = JobView),
        (status = 409, description = "It has ended; `errors[0].code` is its state.")))]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller<WriteJobs>,
    Id(id): Id<JobId>,
    Json(request): Json<CancelRequestBody>,
) -> Result<(StatusCode, axum::Json<JobView>), ApiError> {
    if let Some(why) = &request.why
        && (why.chars().count() > WHY_LEN_MAX || why.chars().any(char::is_control))
    {
        return Err(ApiError::field(
            "why",
            "bad_text",
            format!("expected at most {WHY_LEN_MAX} printable characters"),
        ));
    }
    visible(&app, &caller.principal, id).await?;
    let event = JobEvent::CancelAsked(CancelRequest {
        by: CancelledBy::User(caller.principal.user.clone()),
        why: request.why,
        at: app.now(),
    });
    let job = match app.jobs.apply(id, event).await? {
        Applied::Done(job) => {
            audit::record(&caller.principal, "job cancelled", &id.to_string());
            job
        }
        Applied::Refused(Refusal::Unchanged, job) => job,
        Applied::Refused(Refusal::Ended(state), _) => {
            return Err(ServiceError::AlreadyEnded { state }.into());
        }
        Applied::Refused(refusal, _) => {
            tracing::error!(%refusal, job = %id, "a cancel met a refusal that no cancel can meet");
            return Err(ApiError::internal());
        }
        Applied::Unknown => return Err(ApiError::not_found("job")),
    };
    Ok((StatusCode::ACCEPTED, axum::Json(JobView::from(&job))))
}

/// What the job's last ended attempt left under `/workspace` and its patterns matched.
#[utoipa::path(get, path = "/jobs/{id}/artifacts", tag = "jobs", params(("id" = JobId, Path, description = "The job.")),
    responses((status = 200, description = "The files; their bytes are at `/files/{file}`.", body = ArtifactsView)))]
pub async fn artifacts(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
) -> Result<axum::Json<ArtifactsView>, ApiError> {
    let job = visible(&app, &caller.principal, id).await?;
    let ended = job
        .attempts
        .iter()
        .rev()
        .find_map(|attempt| Some((attempt.number, attempt.end.as_ref()?)));
    Ok(axum::Json(match ended {
        None => ArtifactsView {
            job: id,
            attempt: None,
            artifacts: Vec::new(),
            refused: Vec::new(),
        },
        Some((number, end)) => ArtifactsView {
            job: id,
            attempt: Some(number),
            artifacts: end.artifacts.iter().map(ArtifactView::from).collect(),
            refused: end.artifacts_refused.iter().map(Into::into).collect(),
        },
    }))
}

/// The job, if it is there for this caller at all.
///
/// # Errors
/// The same 404 for a job that is not there and for another account's.
pub async fn visible(app: &AppState, caller: &Principal, id: JobId) -> Result<Job, ApiError> {
    app.stores
        .jobs
        .get(id)
        .await?
        .filter(|job| !job.hidden && caller.sees(&job.account))
        .ok_or_else(|| ApiError::not_found("job"))
}

/// A client's wish to be answered at the job's end, with the room that it takes meanwhile.
struct Wait {
    within: Duration,
    _room: OwnedSemaphorePermit,
}

impl Wait {
    /// None where nothing is to be waited for.
    fn take(app: &AppState, params: &mut Params) -> Result<Option<Self>, ApiError> {
        let seconds = params.number("wait", 0, 0..=WAIT_SECONDS_MAX)?;
        if seconds == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            within: Duration::from_secs(seconds),
            _room: app.room_to_wait()?,
        }))
    }

    async fn until_end(self, app: &App, caller: Principal, job: Job) -> Result<Job, Unseen> {
        until_end(app, caller, job, self.within).await
    }
}

/// Why jobs of a bulk will wait, each reason once.
fn waiting(submitted: &[Submitted]) -> Vec<BulkWaitView> {
    let mut reasons: Vec<BulkWaitView> = Vec::new();
    for waiting in submitted.iter().filter_map(|one| one.waiting.as_ref()) {
        match reasons.iter_mut().find(|known| known.reason == waiting.reason) {
            Some(known) => known.jobs += 1,
            None => reasons.push(BulkWaitView {
                reason: waiting.reason,
                sentence: waiting.sentence.clone(),
                jobs: 1,
            }),
        }
    }
    reasons
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(paths::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .filter(|text| (1..=KEY_LEN_MAX).contains(&text.len()))
        .map(|text| Some(text.to_owned()))
        .ok_or_else(|| {
            ApiError::field(
                "Idempotency-Key",
                "bad_text",
                format!("expected 1 to {KEY_LEN_MAX} printable ASCII characters"),
            )
        })
}

fn mark_replay(response: &mut Response, replayed: bool) {
    if replayed {
        response.headers_mut().insert(
            HeaderName::from_static(paths::IDEMPOTENCY_REPLAYED),
            HeaderValue::from_static("true"),
        );
    }
}
