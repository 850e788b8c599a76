//! Whether the program lives, whether it can work, and what it offers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::App;

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, description = "It lives.", content_type = "text/plain", body = String)))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// The store answers too.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, description = "It can work.", content_type = "text/plain", body = String),
        (status = 503, description = "The store does not answer.")))]
pub async fn ready(State(app): State<App>) -> Result<&'static str, ApiError> {
    app.stores.terms.current().await?;
    Ok("ready\n")
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, description = "The interface as OpenAPI 3.1.", content_type = "application/json", body = Object)))]
pub async fn openapi() -> Response {
    axum::Json(crate::openapi()).into_response()
}
