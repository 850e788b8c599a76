//! A value that must not be printed by accident.

use std::fmt;

/// Shortest secret that signs anything, in bytes. Shorter ones can be found by trying (RFC 2104: the length of the
/// hash's output).
pub const SECRET_BYTES_MIN: usize = 32;

/// Shows as `[secret]` in every log; [`Secret::expose`] is the one way in.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
