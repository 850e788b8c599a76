//! The end-to-end package: what its tests share.

pub mod tidy;
