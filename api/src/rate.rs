//! Rate limits by principal: reads apart from writes, counted where every replica counts.
//!
//! A limiter that does not answer lets signed-in callers through (their credentials were checked against the rows);
//! sign-ins fail closed, since guessing is what the limit is there against.

use std::net::IpAddr;

use common::identity::Principal;
use common::store::{Quota, RateDecision};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::error::ApiError;
use crate::state::AppState;

/// A decision and the policy that it was made by.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    name: &'static str,
    quota: Quota,
    decision: RateDecision,
}

impl Counted {
    /// `RateLimit` and `RateLimit-Policy` as the IETF's draft has them.
    pub fn write(&self, headers: &mut HeaderMap) {
        let window = self.quota.window.as_secs().max(1);
        let policy = format!("\"{}\";q={};w={window}", self.name, self.quota.limit);
        let wait = self.decision.retry_after.as_millis().div_ceil(1_000);
        let state = format!("\"{}\";r={};t={wait}", self.name, self.decision.remaining);
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }

    fn refused(&self) -> ApiError {
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            format!(
                "Over {} {} in {} s.",
                self.quota.limit,
                self.name,
                self.quota.window.as_secs()
            ),
        )
        .retry_after(self.decision.retry_after)
    }
}

/// Counts a request of somebody who is signed in; none where that kind is not limited.
pub async fn count(
    app: &AppState,
    principal: &Principal,
    method: &Method,
) -> (Option<Counted>, Result<(), ApiError>) {
    let (name, quota) = if method.is_safe() {
        ("reads", app.config.limits.reads)
    } else {
        ("writes", app.config.limits.writes)
    };
    let Some(quota) = quota else {
        return (None, Ok(()));
    };
    let bucket = format!("{name}:{}", principal.user);
    match app.stores.limiter.check(&bucket, quota, app.now()).await {
        Ok(decision) => {
            let counted = Counted {
                name,
                quota,
                decision,
            };
            let answer = if decision.allowed {
                Ok(())
            } else {
                Err(counted.refused())
            };
            (Some(counted), answer)
        }
        Err(error) => {
            tracing::warn!(%error, "the rate limiter does not answer");
            (None, Ok(()))
        }
    }
}

/// Counts a try to sign in, by address and by name.
pub async fn count_sign_in(app: &AppState, peer: Option<IpAddr>, name: &str) -> Result<(), ApiError> {
    let limits = &app.config.limits;
    let digest = <sha2::Sha256 as sha2::Digest>::digest(name.as_bytes());
    let by_name = format!("login:name:{}", data_encoding::HEXLOWER.encode(&digest[..16]));
    let by_address = format!("login:address:{}", peer.map(network).unwrap_or_default());
    for (bucket, quota) in [
        (by_address, limits.sign_ins_per_address),
        (by_name, limits.sign_ins_per_name),
    ] {
        let Some(quota) = quota else { continue };
        let decision = app.stores.limiter.check(&bucket, quota, app.now()).await?;
        if !decision.allowed {
            return Err(Counted {
                name: "sign-ins",
                quota,
                decision,
            }
            .refused());
        }
    }
    Ok(())
}

/// One customer of a provider has a /64 to himself.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}
