//! The worker agent: takes jobs from the control plane and runs each in a container of its own.

pub mod executor;
