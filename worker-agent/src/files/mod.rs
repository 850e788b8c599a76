//! Files into a workspace ([`inputs`]) and out of it ([`artifacts`]). Nothing here follows a path that a job or an
//! archive chose: every name is opened below a folder that is held open ([`beneath`]).

pub mod artifacts;
mod beneath;
pub mod inputs;
