//! What MongoDB is asked, read from the wire: writes that wait for the journals of a majority, groups that are one
//! command, and nothing that only some servers understand.

#![allow(clippy::unwrap_used, clippy::panic)]

mod groups;
#[path = "../support/mongo.rs"]
mod support;
mod tap;
mod writes;
