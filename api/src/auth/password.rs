//! Passwords: Argon2id on blocking threads, a bounded number at a time, the same work for a name that is unknown.

use std::sync::Arc;
use std::time::Duration;

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{CustomizedPasswordHasher, PasswordVerifier};
use common::secret::Secret;
use tokio::sync::Semaphore;

use super::argon::Frugal;
use crate::error::ApiError;

/// Long enough for a phrase, short enough that hashing it is nothing beside Argon2's own work.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=1_024;

/// 19 MiB, two passes, one lane: the least that OWASP advises for Argon2id.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Who waits longer for a turn is told to come back.
const TURN_MAX: Duration = Duration::from_secs(5);

pub struct Passwords {
    turns: Arc<Semaphore>,
}

impl Passwords {
    pub fn new(at_once: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// The PHC string of a new password.
    ///
    /// # Errors
    /// 503 when too many hashes are wanted at once.
    pub async fn hash(&self, password: Secret<String>) -> Result<String, ApiError> {
        self.work(move || hash(password.expose()))
            .await?
            .ok_or_else(ApiError::internal)
    }

    /// Whether `password` fits `stored`. Without a stored hash the same work is done, and the answer is no.
    ///
    /// # Errors
    /// As [`Passwords::hash`].
    pub async fn verify(&self, password: Secret<String>, stored: Option<String>) -> Result<bool, ApiError> {
        self.work(move || match stored {
            Some(stored) => PasswordHash::new(&stored).is_ok_and(|parsed| {
                Frugal
                    .verify_password(password.expose().as_bytes(), &parsed)
                    .is_ok()
            }),
            None => {
                // the result is of no use; its time is
                std::hint::black_box(hash(password.expose()));
                false
            }
        })
        .await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(TURN_MAX, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| ApiError::unavailable())?
            .map_err(|_| ApiError::unavailable())?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|_| ApiError::internal())
    }
}

fn hash(password: &str) -> Option<String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).ok()?;
    let salt: [u8; 16] = rand::random();
    let hashed = Frugal
        .hash_password_with_params(password.as_bytes(), &salt, params)
        .ok()?;
    Some(hashed.to_string())
}

/// A password that nobody chose: 120 random bits, easy to type.
pub fn fresh_password() -> Secret<String> {
    let raw: [u8; 15] = rand::random();
    let text = data_encoding::BASE32_NOPAD.encode(&raw).to_lowercase();
    let groups: Vec<&str> = [0, 6, 12, 18]
        .into_iter()
        .map(|start| &text[start..start + 6])
        .collect();
    Secret::new(groups.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_opens_its_own_hash_alone() {
        let passwords = Passwords::new(1);
        let secret = |text: &str| Secret::new(text.to_owned());
        let stored = passwords.hash(secret("grüße aus dem wald")).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        let opens = |text, stored: Option<&String>| passwords.verify(secret(text), stored.cloned());
        assert!(opens("grüße aus dem wald", Some(&stored)).await.unwrap());
        assert!(!opens("grüße aus dem walde", Some(&stored)).await.unwrap());
        assert!(!opens("grüße aus dem wald", None).await.unwrap());
        assert!(!opens("x", Some(&"not a hash".to_owned())).await.unwrap());
    }

    #[test]
    fn two_fresh_passwords_differ() {
        assert_ne!(fresh_password().expose(), fresh_password().expose());
        assert_eq!(fresh_password().expose().len(), 27);
    }
}
