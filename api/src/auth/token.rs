//! The token of a sign-in: a JWT with one algorithm, one key and every claim required and typed.
//!
//! It only names a sign-in; the sign-in's row decides (see [`super`]). Times are checked here against our own clock.

use common::ids::{LoginId, UserId};
use common::time::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Says that this token opens the interface; a token for anything else says something else.
const TYPE: &str = "access";
/// There is one key. A token that names another is refused, whatever the name looks like.
const KEY_ID: &str = "1";
/// Clocks of replicas differ by this much at the most.
const LEEWAY_SECONDS: i64 = 30;

pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    issuer: String,
    audience: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: UserId,
    sid: LoginId,
    jti: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    typ: String,
}

impl Tokens {
    pub fn new(config: &Config) -> Self {
        let secret = config.jwt_secret.expose();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&[&config.audience]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        // by our own clock, below
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
        }
    }

    pub fn issue(&self, login: LoginId, user: &UserId, now: Timestamp, end: Timestamp) -> String {
        let seconds = now.as_millis() / 1_000;
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: self.audience.clone(),
            sub: user.clone(),
            sid: login,
            jti: common::ids::RequestId::random().to_string(),
            iat: seconds,
            nbf: seconds,
            exp: end.as_millis() / 1_000,
            typ: TYPE.to_owned(),
        };
        let header = Header {
            kid: Some(KEY_ID.to_owned()),
            ..Header::new(Algorithm::HS256)
        };
        jsonwebtoken::encode(&header, &claims, &self.encoding).expect("an HMAC over plain data")
    }

    /// The sign-in that `text` names and whose it is; none for a token that is not ours or not of this time.
    pub fn verify(&self, text: &str, now: Timestamp) -> Option<(LoginId, UserId)> {
        let data = jsonwebtoken::decode::<Claims>(text, &self.decoding, &self.validation).ok()?;
        let (header, claims) = (data.header, data.claims);
        let plain_header = header.kid.as_deref() == Some(KEY_ID)
            && header.typ.as_deref() == Some("JWT")
            && header.crit.is_none()
            && header.cty.is_none();
        let seconds = now.as_millis() / 1_000;
        let in_time = claims.nbf <= seconds.saturating_add(LEEWAY_SECONDS)
            && claims.iat <= seconds.saturating_add(LEEWAY_SECONDS)
            && seconds < claims.exp.saturating_add(LEEWAY_SECONDS);
        let ours = claims.typ == TYPE && claims.iss == self.issuer && claims.aud == self.audience;
        (plain_header && in_time && ours && !claims.jti.is_empty()).then_some((claims.sid, claims.sub))
    }
}
