//! Errors as the outside sees them: the one place that knows which fault has which status and code.
//!
//! An [`ApiError`] travels as an extension of a bodiless answer; [`crate::envelope`] adds the request's id and path and
//! writes the problem document. So an error from anywhere, the router and the body reader included, has one shape.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use common::api_types::{FieldProblem, FleetView, Problem};
use common::error::ServiceError;
use common::ids::RequestId;
use common::job::FieldError;
use common::store::StoreError;
use http::{HeaderName, HeaderValue, StatusCode};

/// When a client should try again that met a store which does not answer.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(2);

/// When a client should try again that has reached a limit of its account: jobs come and go in seconds.
const LIMIT_RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct ApiError(Box<Fault>);

#[derive(Debug, Clone)]
struct Fault {
    status: StatusCode,
    code: &'static str,
    detail: String,
    errors: Vec<FieldProblem>,
    fleet: Option<FleetView>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Fault {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            fleet: None,
            headers: Vec::new(),
        }))
    }

    /// Not there, or not this caller's: the same answer.
    pub fn not_found(thing: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("There is no such {thing}."),
        )
    }

    /// No valid sign-in. Why is not told: it would help nobody who is honest.
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "Sign in, or send a valid token.",
        )
        .with_header(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    pub fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "Your role does not allow this.",
        )
    }

    pub fn invalid(errors: Vec<FieldProblem>) -> Self {
        let detail = match errors.first() {
            Some(first) if first.field.is_empty() => first.message.clone(),
            Some(first) => format!("{}: {}", first.field, first.message),
            None => "The request breaks a rule.".to_owned(),
        };
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail);
        error.0.errors = errors;
        error
    }

    pub fn field(field: impl Into<String>, code: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldProblem {
            field: field.into(),
            code: code.to_owned(),
            message: message.into(),
        }])
    }

    pub fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("The body is over {limit} bytes."),
        )
    }

    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "The service cannot answer now. Nothing was acknowledged; try again.",
        )
        .retry_after(UNAVAILABLE_RETRY)
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side.",
        )
    }

    /// What a bare status means that something below us answered: the router, the body reader.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found("page"),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                status,
                "method_not_allowed",
                "This path does not know that method.",
            ),
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(status, "too_large", "The body is too large."),
            StatusCode::INTERNAL_SERVER_ERROR => Self::internal(),
            other => Self::new(other, "error", other.canonical_reason().unwrap_or("Error")),
        }
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub fn with_errors(mut self, errors: Vec<FieldProblem>) -> Self {
        self.0.errors = errors;
        self
    }

    /// What each worker had to say.
    pub fn with_fleet(mut self, fleet: FleetView) -> Self {
        self.0.fleet = Some(fleet);
        self
    }

    /// Whole seconds, rounded up, so that a client that obeys is not early.
    pub fn retry_after(self, pause: Duration) -> Self {
        let seconds = pause.as_millis().div_ceil(1_000).max(1);
        let value = HeaderValue::from_str(&seconds.to_string()).expect("digits");
        self.with_header(http::header::RETRY_AFTER, value)
    }

    pub fn problem(&self, instance: &str, request: RequestId) -> Problem {
        Problem {
            kind: format!("urn:jobworker:problem:{}", self.0.code),
            title: self.0.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.0.status.as_u16(),
            detail: self.0.detail.clone(),
            instance: instance.to_owned(),
            code: self.0.code.to_owned(),
            request_id: request.to_string(),
            errors: self.0.errors.clone(),
            fleet: self.0.fleet.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        for (name, value) in &self.0.headers {
            response.headers_mut().append(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound { thing } => Self::not_found(thing),
            ServiceError::Invalid(errors) => Self::invalid(problems(errors)),
            ServiceError::AlreadyEnded { state } => Self::new(
                StatusCode::CONFLICT,
                "already_ended",
                format!("The job has already ended: {state}."),
            )
            .with_errors(vec![FieldProblem {
                field: "state".into(),
                code: state.as_str().into(),
                message: format!("the job is {state}"),
            }]),
            ServiceError::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                "This Idempotency-Key was used for another request.",
            ),
            ServiceError::LimitReached { code, message } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, code, message).retry_after(LIMIT_RETRY)
            }
            ServiceError::Conflict { code, message } => Self::new(StatusCode::CONFLICT, code, message),
            ServiceError::Forbidden => Self::forbidden(),
            ServiceError::Unavailable(source) => {
                tracing::warn!(%source, "a request met a store that does not answer");
                Self::unavailable()
            }
            ServiceError::Internal(source) => {
                tracing::error!(%source, "a request failed on our side");
                Self::internal()
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

pub fn problems(errors: Vec<FieldError>) -> Vec<FieldProblem> {
    errors.into_iter().map(FieldProblem::from).collect()
}
