//! `jobworker-init` is PID 1 of every job's container. This library is what its binary and the agent
//! share: the protocol on the container's standard input and output.
//!
//! Pure: bytes in, values out. No I/O, no clock, no unsafe code, so that the agent can use it from async code.

pub mod protocol;
