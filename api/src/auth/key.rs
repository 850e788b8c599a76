//! API keys: `jwk_<id>_<secret><checksum>`. Only the SHA-256 of the secret is kept.
//!
//! The checksum tells a mistyped or cut key without a look at the rows, and lets secret scanners find real keys.

use common::ids::ApiKeyId;
use common::secret::Secret;
use sha2::{Digest, Sha256};

const PREFIX: &str = "jwk_";
const CHECKSUM_LEN: usize = 8;
/// 256 random bits in hexadecimal.
const SECRET_LEN: usize = 64;

/// A key as a client sends it, its checksum being right.
pub struct ApiKeyText {
    pub id: ApiKeyId,
    secret: Secret<String>,
}

impl ApiKeyText {
    /// None for a text that is no key of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
        if rest.len() != SECRET_LEN + CHECKSUM_LEN || !rest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let (secret, sum) = rest.split_at(SECRET_LEN);
        if checksum(id, secret) != sum {
            return None;
        }
        Some(Self {
            id: format!("{}{id}", ApiKeyId::PREFIX).parse().ok()?,
            secret: Secret::new(secret.to_owned()),
        })
    }

    /// Whether this is the key whose hash was stored. Takes the same time wherever the two differ.
    pub fn matches(&self, stored_sha256: &str) -> bool {
        let own = sha256(self.secret.expose());
        let differences = own
            .bytes()
            .zip(stored_sha256.bytes())
            .fold(0u8, |sum, (a, b)| sum | (a ^ b));
        own.len() == stored_sha256.len() && differences == 0
    }
}

/// A key that was just made.
pub struct NewKey {
    pub id: ApiKeyId,
    /// For its owner, once.
    pub text: Secret<String>,
    /// For the row.
    pub secret_sha256: String,
}

impl NewKey {
    pub fn random() -> Self {
        let id = ApiKeyId::random();
        let raw: [u8; SECRET_LEN / 2] = rand::random();
        let secret = data_encoding::HEXLOWER.encode(&raw);
        let name = id.to_string();
        let bare = name.trim_start_matches(ApiKeyId::PREFIX);
        let sum = checksum(bare, &secret);
        Self {
            id,
            text: Secret::new(format!("{PREFIX}{bare}_{secret}{sum}")),
            secret_sha256: sha256(&secret),
        }
    }
}

fn sha256(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
}

fn checksum(id: &str, secret: &str) -> String {
    let mut sum = sha256(&format!("{PREFIX}{id}_{secret}"));
    sum.truncate(CHECKSUM_LEN);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_fits_its_own_hash_alone() {
        let (key, other) = (NewKey::random(), NewKey::random());
        let read = ApiKeyText::parse(key.text.expose()).unwrap();
        assert_eq!(read.id, key.id);
        assert!(read.matches(&key.secret_sha256));
        assert!(!read.matches(&other.secret_sha256));
        assert!(!read.matches(""));
    }

    #[test]
    fn a_key_with_one_letter_changed_is_no_key() {
        let text = NewKey::random().text.expose().clone();
        for place in [5, 40, text.len() - 1] {
            let mut bytes = text.clone().into_bytes();
            bytes[place] = if bytes[place] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(ApiKeyText::parse(&changed).is_none(), "{changed}");
        }
        assert!(ApiKeyText::parse(&text[..text.len() - 1]).is_none());
    }
}
