//! The worker token: HMAC-SHA256 over a canonical text, used once.
//!
//! A worker's key is derived from the fleet secret, its id and a generation number: a stolen node's key opens no
//! other node and can be revoked alone. Secrets have key ids, two may be valid at a time.
//!
//! Text: `v1:<kid>:<worker>:<generation>:<time>:<nonce>:<mac>`, with the time in ms, 32 hexadecimal digits of nonce
//! and 64 of MAC. The MAC covers, one a line: `v1`, kid, worker, generation, method, path without query, audience,
//! time, nonce, SHA-256 of the body. The audience is configured and not the `Host` header, since proxies rewrite it.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::ids::WorkerId;
use crate::secret::{SECRET_BYTES_MIN, Secret};
use crate::time::Timestamp;

/// Longest distance between the signer's clock and ours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// How long a nonce has to be remembered: twice the window, since a token is good on both sides of now.
pub const NONCE_KEPT: Duration = Duration::from_secs(120);

/// Longest token text: every part has its limit.
const TOKEN_LEN_MAX: usize = 512;

const VERSION: &str = "v1";

type HmacSha256 = Hmac<Sha256>;

/// What a token is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    pub method: &'a str,
    /// Without query.
    pub path: &'a str,
    pub audience: &'a str,
    /// Lower-case hexadecimal SHA-256 of the body; of nothing for a request without one.
    pub body_sha256: &'a str,
}

/// SHA-256 of nothing.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The fleet's secrets, newest first, from which every worker's key is derived.
#[derive(Debug, Clone)]
pub struct FleetSecrets(Vec<(String, Secret<Vec<u8>>)>);

/// Why a set of secrets is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a fleet secret must have at least {SECRET_BYTES_MIN} bytes")]
    Short,
    #[error(
        "one or two fleet secrets may be valid at a time, each under its own key id of A-Z a-z 0-9 . _ -"
    )]
    Ids,
}

impl FleetSecrets {
    /// # Errors
    /// When a secret is too short, or there are not one or two with good ids of their own.
    pub fn new(secrets: Vec<(String, Secret<Vec<u8>>)>) -> Result<Self, SecretError> {
        if secrets
            .iter()
            .any(|(_, secret)| secret.expose().len() < SECRET_BYTES_MIN)
        {
            return Err(SecretError::Short);
        }
        let ids_good = secrets.iter().all(|(kid, _)| WorkerId::new(kid).is_ok());
        let distinct = !matches!(secrets.as_slice(), [(first, _), (second, _)] if first == second);
        if !(1..=2).contains(&secrets.len()) || !ids_good || !distinct {
            return Err(SecretError::Ids);
        }
        Ok(Self(secrets))
    }

    /// The key to give to a worker, by the newest secret.
    pub fn worker_key(&self, worker: &WorkerId, generation: u32) -> WorkerKey {
        let (kid, secret) = self.0.first().expect("checked in new");
        WorkerKey {
            kid: kid.clone(),
            worker: worker.clone(),
            generation,
            key: derive(secret, worker, generation),
        }
    }

    /// Who signed `token` for `request`, once everything but the nonce was checked. The caller then has the nonce
    /// used up, atomically, and compares the generation with the worker's.
    ///
    /// # Errors
    /// [`TokenError`]; which one is for our logs, the peer hears one answer for all.
    pub fn verify(&self, token: &str, request: &Request<'_>, now: Timestamp) -> Result<Verified, TokenError> {
        let parts = Parts::parse(token)?;
        let known = self.0.iter().find(|(kid, _)| kid == parts.kid);
        // An unknown key id costs the same work, so that time does not tell which ids exist.
        let (_, secret) = known.unwrap_or_else(|| self.0.first().expect("checked in new"));
        let key = derive(secret, &parts.worker, parts.generation);
        let text = canonical(
            parts.kid,
            &parts.worker,
            parts.generation,
            request,
            parts.time,
            parts.nonce,
        );
        mac(key.expose(), text.as_bytes())
            .verify_slice(&parts.mac)
            .map_err(|_| TokenError::BadMac)?;
        if known.is_none() {
            return Err(TokenError::UnknownKey);
        }
        if now.since(parts.time).max(parts.time.since(now)) > CLOCK_SKEW_MAX {
            return Err(TokenError::Expired);
        }
        Ok(Verified {
            worker: parts.worker,
            generation: parts.generation,
            nonce: parts.nonce.to_owned(),
            time: parts.time,
        })
    }
}

/// One worker's key, as its node keeps it.
#[derive(Debug, Clone)]
pub struct WorkerKey {
    pub kid: String,
    pub worker: WorkerId,
    pub generation: u32,
    key: Secret<[u8; 32]>,
}

impl WorkerKey {
    /// A fresh token for `request`.
    pub fn sign(&self, request: &Request<'_>, now: Timestamp) -> String {
        let nonce = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
        self.sign_with(request, now, &nonce)
    }

    fn sign_with(&self, request: &Request<'_>, now: Timestamp, nonce: &str) -> String {
        let text = canonical(&self.kid, &self.worker, self.generation, request, now, nonce);
        let tag = mac(self.key.expose(), text.as_bytes()).finalize().into_bytes();
        let tag = data_encoding::HEXLOWER.encode(&tag);
        format!(
            "{VERSION}:{}:{}:{}:{}:{nonce}:{tag}",
            self.kid,
            self.worker,
            self.generation,
            now.as_millis()
        )
    }

    /// As one line for a node's configuration: `jwwk1:<kid>:<worker>:<generation>:<key>`.
    pub fn to_text(&self) -> Secret<String> {
        let key = data_encoding::HEXLOWER.encode(self.key.expose());
        Secret::new(format!(
            "jwwk1:{}:{}:{}:{key}",
            self.kid, self.worker, self.generation
        ))
    }

    /// Reads [`WorkerKey::to_text`].
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split(':');
        let (Some("jwwk1"), Some(kid), Some(worker), Some(generation), Some(key), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(TokenError::Malformed);
        };
        let key = data_encoding::HEXLOWER_PERMISSIVE
            .decode(key.as_bytes())
            .map_err(|_| TokenError::Malformed)?;
        Ok(Self {
            kid: kid.to_owned(),
            worker: WorkerId::new(worker).map_err(|_| TokenError::Malformed)?,
            generation: generation.parse().map_err(|_| TokenError::Malformed)?,
            key: Secret::new(key.try_into().map_err(|_| TokenError::Malformed)?),
        })
    }
}

/// A token whose signature and time are good; its nonce is still to be used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub worker: WorkerId,
    pub generation: u32,
    pub nonce: String,
    pub time: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a worker token")]
    Malformed,
    #[error("signed with an unknown key id")]
    UnknownKey,
    #[error("the signature does not fit the request")]
    BadMac,
    #[error("signed more than 60 s from now: check the clock of the worker's host")]
    Expired,
}

struct Parts<'a> {
    kid: &'a str,
    worker: WorkerId,
    generation: u32,
    time: Timestamp,
    nonce: &'a str,
    mac: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Malformed);
        }
        let fields: Vec<&str> = token.split(':').collect();
        let [VERSION, kid, worker, generation, time, nonce, mac] = fields[..] else {
            return Err(TokenError::Malformed);
        };
        if nonce.len() != 32
            || !nonce
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
        {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            kid,
            worker: WorkerId::new(worker).map_err(|_| TokenError::Malformed)?,
            generation: generation.parse().map_err(|_| TokenError::Malformed)?,
            time: Timestamp::from_millis(time.parse().map_err(|_| TokenError::Malformed)?),
            nonce,
            mac: data_encoding::HEXLOWER
                .decode(mac.as_bytes())
                .map_err(|_| TokenError::Malformed)?,
        })
    }
}

fn canonical(
    kid: &str,
    worker: &WorkerId,
    generation: u32,
    request: &Request<'_>,
    time: Timestamp,
    nonce: &str,
) -> String {
    let Request {
        method,
        path,
        audience,
        body_sha256,
    } = request;
    format!(
        "{VERSION}\n{kid}\n{worker}\n{generation}\n{method}\n{path}\n{audience}\n{}\n{nonce}\n{body_sha256}",
        time.as_millis()
    )
}

fn derive(secret: &Secret<Vec<u8>>, worker: &WorkerId, generation: u32) -> Secret<[u8; 32]> {
    let text = format!("jobworker worker key v1\n{worker}\n{generation}");
    Secret::new(
        mac(secret.expose(), text.as_bytes())
            .finalize()
            .into_bytes()
            .into(),
    )
}

fn mac(key: &[u8], text: &[u8]) -> HmacSha256 {
    let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn fleet() -> FleetSecrets {
        FleetSecrets::new(vec![(
            "k1".into(),
            Secret::new(b"0123456789abcdef0123456789abcdef".to_vec()),
        )])
        .unwrap()
    }

    fn key() -> WorkerKey {
        fleet().worker_key(&WorkerId::new("node-1").unwrap(), 1)
    }

    const REQUEST: Request<'_> = Request {
        method: "GET",
        path: WEBSOCKET,
        audience: "jobworker",
        body_sha256: EMPTY_SHA256,
    };
    const WEBSOCKET: &str = crate::protocol::WEBSOCKET_PATH;

    #[test]
    fn a_fresh_token_names_its_worker() {
        let verified = fleet().verify(&key().sign(&REQUEST, NOW), &REQUEST, NOW).unwrap();
        assert_eq!(verified.worker.as_str(), "node-1");
    }

    #[test]
    fn any_changed_field_spoils_it() {
        let token = key().sign(&REQUEST, NOW);
        for request in [
            Request {
                method: "POST",
                ..REQUEST
            },
            Request {
                path: "/ws/workers",
                ..REQUEST
            },
            Request {
                audience: "other",
                ..REQUEST
            },
            Request {
                body_sha256: "00",
                ..REQUEST
            },
        ] {
            assert_eq!(
                fleet().verify(&token, &request, NOW),
                Err(TokenError::BadMac),
                "{request:?}"
            );
        }
        for place in 1..7 {
            let mut parts: Vec<String> = token.split(':').map(str::to_owned).collect();
            let last = parts[place].pop().unwrap();
            parts[place].push(if last == '1' { '2' } else { '1' });
            assert!(
                fleet().verify(&parts.join(":"), &REQUEST, NOW).is_err(),
                "field {place}"
            );
        }
    }

    #[test]
    fn a_field_cannot_be_shifted_into_the_next() {
        let (a, b) = (
            Request {
                method: "GETx",
                path: "/y",
                ..REQUEST
            },
            Request {
                method: "GET",
                path: "x/y",
                ..REQUEST
            },
        );
        let token = key().sign(&a, NOW);
        assert_eq!(fleet().verify(&token, &b, NOW), Err(TokenError::BadMac));
    }

    #[test]
    fn an_old_or_future_token_is_refused() {
        let token = key().sign(&REQUEST, NOW);
        for seconds in [59, 60] {
            assert!(
                fleet()
                    .verify(&token, &REQUEST, NOW.after(Duration::from_secs(seconds)))
                    .is_ok()
            );
        }
        assert_eq!(
            fleet().verify(&token, &REQUEST, NOW.after(Duration::from_millis(60_001))),
            Err(TokenError::Expired)
        );
        let early = Timestamp::from_millis(NOW.as_millis() - 60_001);
        assert_eq!(fleet().verify(&token, &REQUEST, early), Err(TokenError::Expired));
    }

    #[test]
    fn one_workers_key_opens_no_other() {
        let other = fleet().worker_key(&WorkerId::new("node-2").unwrap(), 1);
        let forged = WorkerKey {
            worker: WorkerId::new("node-1").unwrap(),
            ..other
        };
        assert_eq!(
            fleet().verify(&forged.sign(&REQUEST, NOW), &REQUEST, NOW),
            Err(TokenError::BadMac)
        );
    }

    #[test]
    fn two_secrets_are_valid_at_a_time() {
        let old = (
            "k1".to_owned(),
            Secret::new(b"0123456789abcdef0123456789abcdef".to_vec()),
        );
        let new = ("k2".to_owned(), Secret::new(vec![7; 32]));
        let both = FleetSecrets::new(vec![new, old]).unwrap();
        assert!(both.verify(&key().sign(&REQUEST, NOW), &REQUEST, NOW).is_ok());
        assert_eq!(both.worker_key(&WorkerId::new("n").unwrap(), 1).kid, "k2");
    }

    #[test]
    fn short_secrets_and_bad_ids_are_refused() {
        let secret = |length| Secret::new(vec![1; length]);
        assert_eq!(
            FleetSecrets::new(vec![("k".into(), secret(31))]).unwrap_err(),
            SecretError::Short
        );
        assert_eq!(FleetSecrets::new(vec![]).unwrap_err(), SecretError::Ids);
        assert_eq!(
            FleetSecrets::new(vec![("a:b".into(), secret(32))]).unwrap_err(),
            SecretError::Ids
        );
    }

    #[test]
    fn a_key_reads_back_from_its_line() {
        let read = WorkerKey::parse(key().to_text().expose()).unwrap();
        assert!(fleet().verify(&read.sign(&REQUEST, NOW), &REQUEST, NOW).is_ok());
    }

    /// The vector that other implementations of the token test themselves with (`docs/API.md`).
    #[test]
    fn the_golden_vector_holds() {
        let token = key().sign_with(&REQUEST, NOW, "000102030405060708090a0b0c0d0e0f");
        assert_eq!(token, GOLDEN);
    }
    const GOLDEN: &str = "v1:k1:node-1:1:1700000000000:000102030405060708090a0b0c0d0e0f:004d7e894b0f117cb44acf3851603c8c67ce1d29dcc22dbab411103b60cef3ee";

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,600}") {
            let _ = fleet().verify(&text, &REQUEST, NOW);
            let _ = WorkerKey::parse(&text);
        }
    }
}
