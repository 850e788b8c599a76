//! One error for the services, with two audiences: a sentence for the caller, and the cause for our logs.

use crate::job::{FieldError, StateName};
use crate::store::StoreError;

/// What a service answers instead of a result. Free of transport: `api` alone knows status codes.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not there, or not this caller's: the two are not told apart.
    #[error("there is no such {thing}")]
    NotFound { thing: &'static str },
    #[error("the request breaks {} rule(s)", .0.len())]
    Invalid(Vec<FieldError>),
    #[error("the job has already {state}")]
    AlreadyEnded { state: StateName },
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A limit of the account or the installation.
    #[error("{message}")]
    LimitReached { code: &'static str, message: String },
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    #[error("the request may not do this")]
    Forbidden,
    /// Nothing was acknowledged; try again.
    #[error("the service cannot answer now, try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("something went wrong on our side")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ServiceError {
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::NotFound { .. }
            | Self::Invalid(_)
            | Self::AlreadyEnded { .. }
            | Self::KeyReused
            | Self::LimitReached { .. }
            | Self::Conflict { .. }
            | Self::Forbidden
            | Self::Internal(_) => false,
        }
    }
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Full(_) => Self::Unavailable(Box::new(error)),
            StoreError::NotFound => Self::NotFound { thing: "thing" },
            StoreError::Exists => Self::Conflict {
                code: "exists",
                message: "it exists already".into(),
            },
            StoreError::Corrupt { .. } => Self::Internal(Box::new(error)),
        }
    }
}
