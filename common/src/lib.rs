//! The shared core of JobWorker: words, rules and seams, without a driver and without a socket.
//!
//! Read in this order: [`ids`] and [`time`], then what a [`job`] is, what becomes of it ([`lifecycle`], [`retry`]),
//! how agents are spoken to ([`protocol`]), where things are kept ([`store`]), and where rule and store meet
//! ([`service`]).

#[cfg(all(feature = "without-fences", not(debug_assertions)))]
compile_error!(
    "`without-fences` is the negative control of `make faults`, which loses results on purpose; it cannot be part of a release"
);

pub mod ids;
pub mod secret;
pub mod tasks;
pub mod time;
pub mod words;

pub mod attempt;
pub mod job;
pub mod log;
pub mod worker;

pub mod explain;
pub mod fit;
pub mod lifecycle;
pub mod queue;
pub mod retry;

pub mod identity;
pub mod protocol;
pub mod store;

pub mod archive;
pub mod config;
pub mod error;
pub mod program;
pub mod service;
pub mod settings;

pub mod api_types;
