//! Laws of the real `jobworker-init`, started as an ordinary child with pipes in the place of the engine.
#![allow(clippy::unwrap_used, clippy::panic)]

mod control;
mod endings;
mod harness;
mod isolation;
mod streams;
