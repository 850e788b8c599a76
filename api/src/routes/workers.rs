//! Workers: everybody sees them, administrators drain them.

use axum::extract::State;
use common::api_types::{DrainBody, WorkerList, WorkerView};
use common::ids::WorkerId;
use common::store::Topic;

use crate::audit;
use crate::error::ApiError;
use crate::extract::{Caller, Id, Json, ManageWorkers, ReadWorkers};
use crate::state::App;

/// All registered workers.
#[utoipa::path(get, path = "/workers", tag = "workers",
    responses((status = 200, description = "The workers.", body = WorkerList)))]
pub async fn list(
    State(app): State<App>,
    _caller: Caller<ReadWorkers>,
) -> Result<axum::Json<WorkerList>, ApiError> {
    let workers = app.stores.workers.list().await?;
    Ok(axum::Json(WorkerList {
        workers: workers.into_iter().map(WorkerView::from).collect(),
    }))
}

/// One worker.
#[utoipa::path(get, path = "/workers/{id}", tag = "workers", params(("id" = WorkerId, Path, description = "The worker.")),
    responses((status = 200, description = "The worker.", body = WorkerView)))]
pub async fn get(
    State(app): State<App>,
    _caller: Caller<ReadWorkers>,
    Id(id): Id<WorkerId>,
) -> Result<axum::Json<WorkerView>, ApiError> {
    let worker = app.stores.workers.get(&id).await?;
    worker
        .map(|worker| axum::Json(WorkerView::from(worker)))
        .ok_or_else(|| ApiError::not_found("worker"))
}

/// Lets a worker finish what runs and take nothing new, or take work again.
#[utoipa::path(post, path = "/workers/{id}/drain", tag = "workers", request_body = DrainBody,
    params(("id" = WorkerId, Path, description = "The worker.")),
    responses((status = 200, description = "The worker as it stands now.", body = WorkerView)))]
pub async fn drain(
    State(app): State<App>,
    caller: Caller<ManageWorkers>,
    Id(id): Id<WorkerId>,
    Json(request): Json<DrainBody>,
) -> Result<axum::Json<WorkerView>, ApiError> {
    let worker = app
        .stores
        .workers
        .set_draining(&id, request.draining)
        .await?
        .ok_or_else(|| ApiError::not_found("worker"))?;
    app.stores.hints.send(Topic::Worker(id.clone()));
    app.stores.hints.send(Topic::Capacity);
    let what = if request.draining {
        "worker drained"
    } else {
        "worker resumed"
    };
    audit::record(&caller.principal, what, id.as_str());
    Ok(axum::Json(WorkerView::from(worker)))
}
