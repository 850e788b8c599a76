//! The interface over real sockets and a real store, as a client meets it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod admission;
mod counts;
mod explain;
mod files;
mod idempotency;
mod jobs;
mod keys;
mod logs;
mod matrix;
mod openapi;
mod problems;
mod ready;
mod refused;
mod server;
mod sign_in;
mod support;
mod tokens;
mod until_end;
mod users;
mod waiting;
