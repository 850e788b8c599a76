//! The agent in one process: a scripted executor, a link without a socket, and the test as its gateway.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod leases;
mod lifecycle;
mod logs;
mod restart;
mod rig;
