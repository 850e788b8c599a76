//! Names of keys. One hash tag for all of them, so that a Redis Cluster keeps them on one node and a script may use
//! several.

use common::ids::{AccountId, LoginId};
use common::queue::{ClassKey, Lane};
use common::store::StoreError;

/// Longest prefix: names stay readable, and an installation needs but a word.
const PREFIX_LEN_MAX: usize = 64;

#[derive(Debug)]
pub struct Keys {
    tag: String,
    /// Of each job that waits: its lane.
    pub places: String,
    /// Of each lane that is not empty: its length.
    pub lanes: String,
    /// Of each account that waits: how many lanes it has.
    pub accounts: String,
    /// What the set of each lane begins with.
    pub lane_sets: String,
    /// The mark that a rebuild of the queue began with.
    pub build: String,
    /// What the leader holds back for jobs that have waited too long.
    pub reservations: String,
    /// The server's run on which the queue was whole.
    pub built: String,
    /// When the nonces' store was born, and on which run of the server.
    pub born: String,
    /// Channel of the hints.
    pub hints: String,
}

impl Keys {
    /// None when the prefix could not stand within a hash tag.
    pub fn new(prefix: &str) -> Option<Self> {
        let fits = (1..=PREFIX_LEN_MAX).contains(&prefix.len())
            && prefix
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'));
        fits.then(|| {
            let tag = format!("{{{prefix}}}:");
            Self {
                places: format!("{tag}queue:places"),
                lanes: format!("{tag}queue:lanes"),
                accounts: format!("{tag}queue:accounts"),
                lane_sets: format!("{tag}queue:lane:"),
                build: format!("{tag}queue:build"),
                reservations: format!("{tag}queue:reservations"),
                built: format!("{tag}queue:built"),
                born: format!("{tag}nonces:born"),
                hints: format!("{tag}hints"),
                tag,
            }
        })
    }

    pub fn lane(&self, lane: &Lane) -> String {
        format!("{}{}", self.lane_sets, lane_name(lane))
    }

    pub fn lock(&self, key: &str) -> String {
        format!("{}lock:{key}", self.tag)
    }

    pub fn nonce(&self, nonce: &str) -> String {
        format!("{}nonce:{nonce}", self.tag)
    }

    pub fn login(&self, id: LoginId) -> String {
        format!("{}login:{id}", self.tag)
    }

    pub fn bucket(&self, bucket: &str) -> String {
        format!("{}rate:{bucket}", self.tag)
    }

    /// A key that means nothing, of each type one.
    pub fn probe(&self, r#type: &str) -> String {
        format!("{}probe:{type}", self.tag)
    }

    /// The pattern that all keys and the channel fit.
    pub fn all(&self) -> String {
        format!("{}*", self.tag)
    }
}

pub fn lane_name(lane: &Lane) -> String {
    format!("{} {}", lane.account, lane.class)
}

/// # Errors
/// [`StoreError::Corrupt`] for a name that we did not make.
pub fn lane_of(name: &str) -> Result<Lane, StoreError> {
    // No account's name holds a blank.
    let parts = name.split_once(' ');
    let lane = parts.and_then(|(account, class)| {
        Some(Lane {
            class: ClassKey::from_text(class),
            account: AccountId::new(account).ok()?,
        })
    });
    lane.ok_or_else(|| StoreError::Corrupt {
        what: format!("the queue has a lane `{name}`"),
        source: None,
    })
}

#[cfg(test)]
mod tests {
    use common::lifecycle::testing::account;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_prefix_that_would_break_the_hash_tag_is_refused() {
        for bad in ["", "a}b", "{a", "a b", "ä", &"x".repeat(65)] {
            assert!(Keys::new(bad).is_none(), "{bad:?}");
        }
        assert_eq!(Keys::new("jw").unwrap().lock("l"), "{jw}:lock:l");
    }

    proptest! {
        #[test]
        fn a_lane_reads_back_as_itself(class in "\\PC*", name in "[a-z0-9][a-z0-9._-]{0,20}") {
            let lane = Lane { class: ClassKey::from_text(&class), account: account(&name) };
            prop_assert_eq!(&lane_of(&lane_name(&lane)).unwrap(), &lane);
        }
    }
}
