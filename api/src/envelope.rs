//! What surrounds every request: an id, security headers, limits of the head, and the one shape of errors.
//!
//! Everything passes through here, the router's own 404 and 405 and a handler that panicked included; so no answer can
//! lack a header and no error can show what is inside.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use common::api_types::{PROBLEM_CONTENT_TYPE, paths};
use common::ids::RequestId;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::error::ApiError;
use crate::rate::Counted;
use crate::state::App;

/// Longer ones are no address that we gave.
const URI_BYTES_MAX: usize = 8 * 1024;
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Where the rate limiter leaves what it counted, for the answer's headers.
#[derive(Clone, Default)]
pub struct RateSlot(pub Arc<OnceLock<Counted>>);

pub async fn envelope(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = RequestId::generate(app.now());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let slot = RateSlot::default();
    request.extensions_mut().insert(id);
    request.extensions_mut().insert(slot.clone());
    let mut response = match head_too_large(&request) {
        Some(error) => error.into_response(),
        None => AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                tracing::error!(request = %id, "a handler panicked");
                ApiError::internal().into_response()
            }),
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        response = as_problem(response, &path, id);
    }
    if let Some(counted) = slot.0.get() {
        counted.write(response.headers_mut());
    }
    secure(response.headers_mut(), app.config.tls);
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(paths::REQUEST_ID), value);
    }
    tracing::debug!(request = %id, %method, ?path, status = status.as_u16(), "answered");
    response
}

fn head_too_large(request: &Request) -> Option<ApiError> {
    let uri = request
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if uri > URI_BYTES_MAX {
        return Some(ApiError::new(
            StatusCode::URI_TOO_LONG,
            "uri_too_long",
            format!("The address is over {URI_BYTES_MAX} bytes."),
        ));
    }
    let headers: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    (headers > HEADER_BYTES_MAX).then(|| {
        ApiError::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            format!("The headers are over {HEADER_BYTES_MAX} bytes."),
        )
    })
}

fn as_problem(response: Response, path: &str, id: RequestId) -> Response {
    let (mut parts, _) = response.into_parts();
    let error = parts
        .extensions
        .remove::<ApiError>()
        .unwrap_or_else(|| ApiError::of_status(parts.status));
    let body = serde_json::to_vec(&error.problem(path, id)).expect("a problem is plain data");
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
    );
    Response::from_parts(parts, Body::from(body))
}

/// Adds what the answer does not say itself: a download has its own, stricter policy.
fn secure(headers: &mut HeaderMap, tls: bool) {
    let mut add = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    add(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    add(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    );
    add(header::REFERRER_POLICY, "no-referrer");
    add(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    if tls {
        add(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    // whatever a library thinks: no answer is kept by anybody between
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
