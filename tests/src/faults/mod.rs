//! The faults that a fleet has to bear, each as a row that can be played by itself, and all of them in a mix.
//!
//! A [`Row`](rows::Row) names a fault of the matrix in `docs/reliability.md`. Playing it ([`play::row`]) brings up a
//! fleet of its own (two of each program over real servers, each with ways of its own to them, simulated agents, real
//! agents with real containers), keeps jobs coming, injects the fault again and again at instants that a printed seed
//! decides, looks for jobs without an owner after each, and holds the whole history to its laws. [`mix`] draws its
//! faults by lot. Whatever happens, what a run has started ends with it, by its own number.

mod answers;
mod auth;
mod bounds;
mod docker;
pub mod fault;
mod hands;
pub mod mix;
mod mongo;
mod namespace;
mod network;
pub mod play;
mod processes;
mod redis;
pub mod report;
pub mod rows;
mod special;
mod spoilt;
mod stage;
mod verdict;
