//! The REST interface `/api/v1`: who asks ([`auth`]), what may be asked ([`routes`], the table on one page), and what
//! is answered when it may not ([`error`], the one place that knows status codes).
//!
//! Handlers are thin: extract, call a service, translate. Nothing is acknowledged before the store has answered; a
//! store that does not answer is a 503, never a success. The process holds no state that a second one would miss.

mod audit;
mod auth;
mod bootstrap;
mod config;
mod envelope;
mod error;
mod extract;
mod openapi;
mod range;
mod rate;
mod routes;
mod server;
mod services;
mod state;

pub use self::bootstrap::{BootstrapError, bootstrap_admin, issue_key};
pub use self::config::{Config, ConfigError, Limits};
pub use self::openapi::openapi;
pub use self::server::{ServeError, serve};
