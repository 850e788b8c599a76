//! The embedded backend keeps the laws of every backend.

#![allow(clippy::unwrap_used)]

#[path = "support/embedded.rs"]
mod backend;

use backend::fresh;

storage::conformance_suite!(fresh);
