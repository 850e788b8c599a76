//! Typed identifiers. No bare string or integer names a thing in this system.
//!
//! Two families: *made* ids (128 bits, shown as a prefix and 26 letters of Crockford's base 32) and *given* names
//! (chosen by an operator, up to [`NAME_LEN_MAX`] characters of a small alphabet). Parsing refuses a foreign prefix,
//! so an attempt's id can never be looked up as a job's.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::time::Timestamp;

/// Longest given name, in characters: what `docs/API.md` promises clients for every id.
pub const NAME_LEN_MAX: usize = 64;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

/// Why a text is not the id that it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("expected an id that begins with `{expected}`")]
    ForeignPrefix { expected: &'static str },
    #[error("expected 26 letters or digits after the prefix")]
    Malformed,
    #[error(
        "expected 1 to {NAME_LEN_MAX} characters of A-Z a-z 0-9 . _ - beginning with a letter or a digit"
    )]
    BadName,
}

macro_rules! made_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new id whose order follows the time it was made at; those of one process and one millisecond follow
            /// each other as well.
            pub fn generate(now: Timestamp) -> Self {
                Self(in_order(now))
            }

            /// A new id that tells nothing and cannot be guessed.
            pub fn random() -> Self {
                Self(rand::random())
            }

            pub const fn from_u128(raw: u128) -> Self {
                Self(raw)
            }

            pub const fn as_u128(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(Self::PREFIX)?;
                f.write_str(encode(self.0, &mut [0; TEXT_LEN]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let digits = text.strip_prefix(Self::PREFIX).ok_or(IdError::ForeignPrefix { expected: Self::PREFIX })?;
                decode(digits).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

/// Milliseconds, then 80 random bits; within a millisecond each is a random step above the one before, so that what was
/// submitted first is first also where a store takes several submissions a millisecond.
fn in_order(now: Timestamp) -> u128 {
    const RANDOM_BITS: u32 = 80;
    static LAST: Mutex<u128> = Mutex::new(0);
    let time = (now.as_millis().max(0) as u128) << RANDOM_BITS;
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let next = last.saturating_add(1 + u128::from(rand::random::<u32>()));
    // A step out of the millisecond would need more ids within it than there can be.
    *last = if next >> RANDOM_BITS == time >> RANDOM_BITS {
        next
    } else {
        time | (rand::random::<u128>() >> (u128::BITS - RANDOM_BITS))
    };
    *last
}

macro_rules! given_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// # Errors
            /// [`IdError::BadName`] when the text is empty, too long or outside the alphabet.
            pub fn new(text: &str) -> Result<Self, IdError> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(IdError::BadName) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(&text).map_err(de::Error::custom)
            }
        }
    };
}

made_id!(
    /// What the user asked for.
    JobId, "job_");
made_id!(
    /// One run of a job on one worker. Unguessable: it is the token that fences agents.
    AttemptId, "att_");
made_id!(
    /// A worker's session with the control plane; never used again once lost.
    SessionId, "ses_");
made_id!(
    /// An uploaded input or a collected artifact.
    FileId, "fil_");
made_id!(
    /// A sign-in of a user (`sid` of the JWT).
    LoginId, "sid_");
made_id!(
    /// An API key's public part.
    ApiKeyId, "key_");
made_id!(
    /// One HTTP request, for logs and errors.
    RequestId, "req_");

given_name!(
    /// The tenant that users and jobs belong to.
    AccountId);
given_name!(
    /// A person or program that signs in.
    UserId);
given_name!(
    /// A registered agent; one a node.
    WorkerId);
given_name!(
    /// A named group of workers that jobs ask for.
    PoolName);

impl Default for PoolName {
    fn default() -> Self {
        Self("default".into())
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= NAME_LEN_MAX
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn encode(mut raw: u128, buffer: &mut [u8; TEXT_LEN]) -> &str {
    for place in buffer.iter_mut().rev() {
        *place = ALPHABET[(raw & 31) as usize];
        raw >>= 5;
    }
    std::str::from_utf8(buffer).expect("the alphabet is ASCII")
}

fn decode(text: &str) -> Result<u128, IdError> {
    if text.len() != TEXT_LEN || text.as_bytes()[0] > b'7' {
        return Err(IdError::Malformed);
    }
    text.bytes().try_fold(0u128, |raw, byte| {
        let digit = ALPHABET
            .iter()
            .position(|&letter| letter == byte)
            .ok_or(IdError::Malformed)?;
        Ok((raw << 5) | digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_back_as_itself(raw: u128) {
            let id = JobId::from_u128(raw);
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        }

        #[test]
        fn order_of_text_is_order_of_number(a: u128, b: u128) {
            prop_assert_eq!(a.cmp(&b), JobId::from_u128(a).to_string().cmp(&JobId::from_u128(b).to_string()));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = text.parse::<JobId>();
            let _ = WorkerId::new(&text);
        }
    }

    #[test]
    fn a_foreign_prefix_is_refused() {
        let attempt = AttemptId::random().to_string();
        assert_eq!(
            attempt.parse::<JobId>(),
            Err(IdError::ForeignPrefix { expected: "job_" })
        );
    }

    #[test]
    fn names_keep_to_their_alphabet() {
        for good in ["a", "node-1.rack_2", &"x".repeat(64)] {
            assert!(WorkerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a b", "a/b", "a\n", "ä", &"x".repeat(65)] {
            assert!(WorkerId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn later_ids_sort_later() {
        let now = Timestamp::from_millis(500);
        let same: Vec<JobId> = (0..1_000).map(|_| JobId::generate(now)).collect();
        assert!(same.is_sorted_by(|a, b| a < b), "those of one millisecond");
        let early = JobId::generate(Timestamp::from_millis(1_000));
        let late = JobId::generate(Timestamp::from_millis(2_000));
        assert!(early < late);
    }
}
