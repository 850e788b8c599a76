//! The images that tests run jobs in: `scripts/images.env` names them, `JOBWORKER_TEST_IMAGE` another base.

use anyhow::Result;

use crate::scripts::image;

/// Busybox under all its names, nothing else set.
///
/// # Errors
/// When nobody names it.
pub fn base() -> Result<String> {
    match std::env::var("JOBWORKER_TEST_IMAGE") {
        Ok(name) if !name.is_empty() => Ok(name),
        Ok(_) | Err(_) => image("JOBWORKER_IMAGE"),
    }
}

/// One that sets everything that an image can set.
///
/// # Errors
/// When nobody names it.
pub fn rules() -> Result<String> {
    image("JOBWORKER_RULES_IMAGE")
}
