//! The scheduler in a ring of real parts: the embedded store in a folder of its own, a real listener, real WebSockets,
//! and an agent played by the test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::large_futures)]

mod agent;
mod files;
mod follower;
mod frames;
mod gated;
mod handshake;
mod hostile;
mod leaders;
mod life;
mod logs;
mod over_redis;
mod panics;
mod reconcile;
mod ring;
mod sessions;
mod shares;
mod sizes;
mod spoilt;
mod stalls;
mod tap;
