//! Why Redis cannot be used, in sentences for whoever runs the program; and how a failed call is told on.

use std::error::Error;
use std::io;
use std::sync::Arc;

use common::store::StoreError;
use redis::{ErrorKind, RedisError, ServerError, ServerErrorKind};

/// What keeps the program from using Redis, at its start or after a reconnect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the address of Redis is not one: expected redis://[user:password@]host[:port][/database], or rediss:// with TLS (REDIS_URL)"
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
    #[error(
        "Redis at {address} hangs up before it has answered: it may be in protected mode (give it a password and name \
         that in REDIS_URL), have as many clients as it takes (`maxclients`), want TLS (rediss:// in REDIS_URL), or be no Redis"
    )]
    HungUp {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error(
        "Redis at {address} did not answer in time: see that it runs, and that REDIS_URL has its host, its port, and \
         rediss:// only where it speaks TLS"
    )]
    TimedOut { address: String },
    #[error("what answers at {address} is no Redis: correct host and port in REDIS_URL")]
    NotRedis {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error(
        "Redis at {address} does not speak TLS, shows a certificate that nobody here vouches for, or wants one of us: \
         correct REDIS_URL, name the file with its authority's certificate in SSL_CERT_FILE, or let it ask for none \
         (`tls-auth-clients no`)"
    )]
    Untrusted {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error("Redis at {address} refused this user: correct name and password in REDIS_URL")]
    Refused {
        address: String,
        #[source]
        source: RedisError,
    },
    #[error(
        "Redis at {address} does not allow its user `{tried}`: name another user in REDIS_URL, or allow this one what the \
         programs need: ACL SETUSER <user> {rules}"
    )]
    Forbidden {
        address: String,
        /// The command, and the key or channel.
        tried: String,
        rules: String,
        #[source]
        source: RedisError,
    },
    #[error(
        "Redis at {address} has not got our keys and names {owner}, and so on from node to node: look at the cluster of \
         REDIS_URL (`redis-cli --cluster check {address}`)"
    )]
    Elsewhere { address: String, owner: String },
    #[error("Redis at {address} answers `{tried}` with an error: mend it, or correct REDIS_URL")]
    Unfit {
        address: String,
        tried: String,
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
    /// What it means that `tried` ended so; `rules` are those that it takes.
    pub(super) fn new(address: String, tried: &str, rules: &str, source: RedisError) -> Self {
        let said = first_said(&source);
        match said.as_ref().map(ServerError::code) {
            Some("NOAUTH" | "WRONGPASS") => Self::Refused { address, source },
            _ if is_of_a_password(&source) => Self::Refused { address, source },
            Some(_) if said.as_ref().is_some_and(is_forbidden) => Self::Forbidden {
                address,
                tried: tried.to_owned(),
                rules: rules.to_owned(),
                source,
            },
            Some("MOVED") => Self::Elsewhere {
                address,
                owner: owner(&source).unwrap_or_default(),
            },
            Some(_) => Self::Unfit {
                address,
                tried: tried.to_owned(),
                source,
            },
            // The driver's own words for what the server said against a database.
            None if matches!(source.kind(), ErrorKind::Server(_)) => Self::Unfit {
                address,
                tried: tried.to_owned(),
                source,
            },
            None if source.kind() == ErrorKind::Parse => Self::NotRedis { address, source },
            None if source.is_timeout() => Self::TimedOut { address },
            // How the TLS below tells what it does not like of the other side.
            None if io_kind(&source) == Some(io::ErrorKind::InvalidData) => {
                Self::Untrusted { address, source }
            }
            // What it said before, it said to a command whose answer the driver does not look at.
            None if io_kind(&source).is_some_and(is_hang_up) => Self::HungUp { address, source },
            None => Self::Unreachable { address, source },
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

/// What the server said, where it was the server that said no. Of a pipeline, the first command that failed.
pub fn first_said(error: &RedisError) -> Option<ServerError> {
    let said = error.clone().into_server_errors()?;
    said.first().map(|(_, error)| error.clone())
}

/// The driver keeps what is below it in an `Arc`, which its own questions look through and `source` does not.
fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    let below = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    below.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// The driver has words of its own for a password that is missing where a database is chosen.
fn is_of_a_password(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || error.to_string().contains("Authentication required")
}

/// Whether a connection was there and has ended.
const fn is_hang_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
    )
}

/// Whether it is a right that is missing. EXEC has an error of its own around that.
pub fn is_forbidden(said: &ServerError) -> bool {
    let inside = |code| said.details().is_some_and(|details| details.contains(code));
    said.code() == "NOPERM" || (said.code() == "EXECABORT" && inside("NOPERM"))
}

/// The node that has the key, as `host:port`, where another one was asked.
pub fn owner(error: &RedisError) -> Option<String> {
    let said = first_said(error).filter(|said| said.kind() == Some(ServerErrorKind::Moved))?;
    said.details()?.split(' ').nth(1).map(str::to_owned)
}

/// What a failed call means to the store's users.
pub fn told(error: RedisError) -> StoreError {
    match first_said(&error).as_ref().map(ServerError::code) {
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
/// not (or no longer) the one that takes our writes; or whether a right is missing, which the look at a new connection
/// tells by name. A slot on its way to another node is none of these: it is waited for.
pub fn is_of_the_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || first_said(error)
            .and_then(|said| said.kind())
            .is_some_and(|kind| {
                matches!(
                    kind,
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::Moved
                        | ServerErrorKind::ClusterDown
                        | ServerErrorKind::NoPerm
                )
            })
}

/// Whether this node is cut off from its cluster, where others may not be.
pub fn is_of_the_node(error: &RedisError) -> bool {
    first_said(error).is_some_and(|said| said.kind() == Some(ServerErrorKind::ClusterDown))
}
