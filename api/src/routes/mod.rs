//! The whole interface on one page: each line is a route, and `openapi.json` is made from the same lines.

mod auth;
mod files;
mod health;
mod jobs;
mod logs;
mod users;
mod workers;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use common::api_types::paths::BASE;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::envelope::envelope;
use crate::error::ApiError;
use crate::state::App;

/// Everything that this program answers.
pub fn router(app: App) -> Router {
    let (router, _) = table().split_for_parts();
    router
        .fallback(async || ApiError::not_found("page"))
        // every body is read by an extractor of ours, each with its own limit
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), envelope))
        .with_state(app)
}

pub fn table() -> OpenApiRouter<App> {
    let v1 = OpenApiRouter::new()
        .routes(routes!(auth::login))
        .routes(routes!(auth::logout))
        .routes(routes!(auth::me))
        .routes(routes!(auth::change_password))
        .routes(routes!(auth::keys, auth::create_key))
        .routes(routes!(auth::revoke_key))
        .routes(routes!(users::create_user))
        .routes(routes!(users::disable))
        .routes(routes!(users::create_account))
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::submit_bulk))
        .routes(routes!(jobs::counts))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::explain))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::artifacts))
        .routes(routes!(logs::page))
        .routes(routes!(logs::raw))
        .routes(routes!(logs::follow))
        .routes(routes!(files::list, files::upload))
        .routes(routes!(files::download, files::delete))
        .routes(routes!(workers::list))
        .routes(routes!(workers::get))
        .routes(routes!(workers::drain))
        .routes(routes!(health::openapi));
    OpenApiRouter::new()
        .nest(BASE, v1)
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
}
