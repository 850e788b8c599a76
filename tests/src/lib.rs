//! The end-to-end package: what its tests share.

pub mod agents;
pub mod chaos;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod docker;
pub mod door;
pub mod events;
pub mod faults;
pub mod fleet;
pub mod history;
pub mod images;
pub mod inside;
pub mod marked;
pub mod process;
pub mod proxy;
pub mod replay;
pub mod scene;
pub mod scripts;
pub mod sim;
pub mod simulation;
pub mod text;
pub mod tidy;
pub mod wait;
pub mod watcher;
