//! The end-to-end package: what its tests share.

pub mod scripts;
pub mod tidy;
