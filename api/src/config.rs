//! What an operator may set, with defaults that a laptop and a server can both live with.

use std::time::Duration;

use common::config::{AccountLimits, LeaseTimes};
use common::job::Resources;
use common::secret::{SECRET_BYTES_MIN, Secret};
use common::store::Quota;

#[derive(Debug, Clone)]
pub struct Config {
    /// Signs the tokens of sign-ins. Every replica has the same.
    pub jwt_secret: Secret<Vec<u8>>,
    pub issuer: String,
    pub audience: String,
    /// Of a job that names none.
    pub default_image: String,
    /// Whether clients reach us by TLS: the cookie is `Secure` and HSTS is sent.
    pub tls: bool,
    /// Origins, beside our own, whose pages may act with a user's cookie.
    pub allowed_origins: Vec<String>,
    pub upload_bytes_max: u64,
    pub limits: Limits,
    /// Silent for this long, a worker is shown as out of contact: the scheduler's own setting.
    pub contact: Duration,
    /// The largest worker that may still join. A job that no registered worker could run, but one of this size could,
    /// is taken and waits. None: the fleet is what is registered.
    pub fleet_ceiling: Option<Resources>,
    /// What accounts may have; the scheduler is told the same.
    pub accounts: AccountLimits,
    /// Connections at the same time; more wait in the listener's backlog.
    pub connections_max: usize,
    /// From the first byte of a request, or the end of the one before, to the end of its headers.
    pub header_timeout: Duration,
    /// Longest pause between two pieces of a request's body.
    pub body_timeout: Duration,
    /// From the headers to the end of a JSON body: the largest over a slow line.
    pub json_timeout: Duration,
    /// The same for a body that carries a password, which anybody may send.
    pub sign_in_timeout: Duration,
    /// Password hashes at the same time: each takes 19 MiB.
    pub hashes_at_once: usize,
    /// Requests that follow a log at the same time: with `waits_max` half of the connections.
    pub followers_max: usize,
    /// Requests that wait for a job's end at the same time: each reads its job's row once a second at least.
    pub waits_max: usize,
}

/// Requests per window. `None`: not limited, for benchmarks.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub reads: Option<Quota>,
    pub writes: Option<Quota>,
    pub sign_ins_per_address: Option<Quota>,
    pub sign_ins_per_name: Option<Quota>,
}

impl Limits {
    pub const OFF: Self = Self {
        reads: None,
        writes: None,
        sign_ins_per_address: None,
        sign_ins_per_name: None,
    };
}

impl Default for Limits {
    fn default() -> Self {
        let a_minute = |limit| {
            Some(Quota {
                limit,
                window: Duration::from_secs(60),
            })
        };
        Self {
            reads: a_minute(1_200),
            writes: a_minute(600),
            // an office behind one address, and a person who mistypes
            sign_ins_per_address: a_minute(60),
            sign_ins_per_name: a_minute(10),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "the secret that signs tokens has {found} bytes: set one of at least {SECRET_BYTES_MIN} random bytes"
    )]
    ShortSecret { found: usize },
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

impl Config {
    pub fn new(jwt_secret: Secret<Vec<u8>>, default_image: impl Into<String>) -> Self {
        Self {
            jwt_secret,
            issuer: "jobworker".into(),
            audience: "jobworker-api".into(),
            default_image: default_image.into(),
            tls: false,
            allowed_origins: Vec::new(),
            upload_bytes_max: 1 << 30,
            limits: Limits::default(),
            contact: LeaseTimes::REAL.contact,
            fleet_ceiling: None,
            accounts: AccountLimits::default(),
            connections_max: 4_096,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            json_timeout: Duration::from_secs(60),
            sign_in_timeout: Duration::from_secs(10),
            hashes_at_once: 4,
            followers_max: 1_024,
            waits_max: 1_024,
        }
    }

    /// # Errors
    /// What has to be changed before anything is served.
    pub fn check(&self) -> Result<(), ConfigError> {
        let found = self.jwt_secret.expose().len();
        if found < SECRET_BYTES_MIN {
            return Err(ConfigError::ShortSecret { found });
        }
        for (name, value) in [
            ("connections_max", self.connections_max),
            ("hashes_at_once", self.hashes_at_once),
            ("followers_max", self.followers_max),
            ("waits_max", self.waits_max),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero(name));
            }
        }
        Ok(())
    }
}
