//! Coordination over a real Redis keeps the laws of every backend, and whatever becomes of the server, nothing hangs
//! and everything works again by itself.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/embedded.rs"]
mod embedded;

mod away;
mod backend;
mod cluster;
mod logins;
mod loss;
mod order;
mod proxy;
mod refused;
mod rights;
mod several;

use backend::fresh;

storage::conformance_suite!(fresh);
