//! The shell of JobWorker: a client of the API ([`verbs`]), and the whole system in one process ([`up`]).
//!
//! Results go to stdout, everything else to stderr; each error says what was wrong, what was expected and what to do
//! next ([`failure`]), and each ending has a documented status ([`exit`]).

pub mod archive;
pub mod args;
pub mod client;
pub mod credentials;
pub mod exit;
pub mod failure;
pub mod output;
mod private_file;
pub mod quantity;
mod signals;
pub mod up;
pub mod verbs;
