//! Why Redis cannot be used, in sentences for whoever runs the program; and how a failed call is told on.

use common::store::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// What keeps the program from using Redis, at its start or after a reconnect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the address of Redis is not one: expected redis://[user:password@]host[:port][/database] (REDIS_URL)"
    )]
    BadUrl(#[source] RedisError),
    #[error("`{0}` cannot be the prefix of keys: expected 1 to 64 letters, digits or . _ - :")]
    BadPrefix(String),
    #[error("Redis at {address} does not answer: start it, or correct REDIS_URL")]
    Unreachable {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error("Redis at {address} did not answer in time")]
    TimedOut { address: String },
    #[error("Redis at {address} refused this user: correct name and password in REDIS_URL")]
    Refused {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error(
        "Redis at {address} evicts keys (maxmemory-policy is {policy}), so it would lose waiting jobs and locks when it \
         is full: set maxmemory-policy to noeviction (redis.conf, `CONFIG SET`, or the service's parameter group) and \
         start again"
    )]
    Evicts { address: String, policy: String },
    #[error("Redis at {address} is a replica that takes no writes: name the primary in REDIS_URL")]
    Replica { address: String },
}

impl ConnectError {
    pub(super) fn new(address: &str, source: RedisError) -> Self {
        let address = address.to_owned();
        match source.kind() {
            ErrorKind::AuthenticationFailed | ErrorKind::Server(ServerErrorKind::NoPerm) => {
                Self::Refused { address, source }
            }
            _ if matches!(source.code(), Some("NOAUTH" | "WRONGPASS")) => Self::Refused { address, source },
            _ if source.is_timeout() => Self::TimedOut { address },
            _ => Self::Unreachable { address, source },
        }
    }
}

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A call that was not answered in time, connecting included.
#[derive(Debug, thiserror::Error)]
#[error("Redis did not answer in time")]
pub struct TooLate;

/// What a failed call means to the store's users.
pub fn told(error: RedisError) -> StoreError {
    // Of a pipeline, the first command that failed.
    let said = error.clone().into_server_errors();
    let code = said
        .as_ref()
        .and_then(|said| said.first())
        .map(|(_, error)| error.code());
    match code {
        Some("OOM") => StoreError::Full(Box::new(error)),
        Some("WRONGTYPE") => corrupt(error),
        _ if matches!(error.kind(), ErrorKind::UnexpectedReturnType) => corrupt(error),
        _ => StoreError::Unavailable(Box::new(error)),
    }
}

fn corrupt(error: RedisError) -> StoreError {
    StoreError::Corrupt {
        what: "a key of ours holds something else".into(),
        source: Some(Box::new(error)),
    }
}

/// Whether another connection may help where this one failed: it is broken or hangs, or it leads to a server that is
/// not (or no longer) the one that takes our writes.
pub fn is_of_the_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(
                ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::Moved
            )
        )
}
