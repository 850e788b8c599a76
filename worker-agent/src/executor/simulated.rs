//! An executor without containers, for benchmarks.
