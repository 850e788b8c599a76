//! Who speaks. A bearer token (of a sign-in, or an API key) counts before the cookie; rows decide on every request.

mod argon;
mod key;
mod password;
mod standing;
mod token;

pub use self::key::{ApiKeyText, NewKey};
pub use self::password::{PASSWORD_BYTES, Passwords, fresh_password};
pub use self::standing::Standing;
pub use self::token::Tokens;

use std::time::Duration;

use common::api_types::paths::AUTH_COOKIE;
use common::identity::{ApiKey, Login, Principal, Proof, Role, User};
use common::store::StoreError;
use common::time::Timestamp;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::error::ApiError;
use crate::state::AppState;

/// A sign-in ends at the latest after this, whatever its use.
pub const ABSOLUTE: Duration = Duration::from_secs(12 * 3_600);
/// A sign-in ends after this without use: a lunch and a meeting, not a night.
pub const IDLE: Duration = Duration::from_secs(2 * 3_600);
/// Larger credentials are not ours: our tokens have some 400 bytes.
const CREDENTIAL_BYTES_MAX: usize = 4_096;

/// Who makes this request.
///
/// # Errors
/// 401 without valid credentials, 403 for a browser's request that another site made, 503 when rows cannot be read.
pub async fn authenticate(
    app: &AppState,
    headers: &HeaderMap,
    method: &Method,
) -> Result<Principal, ApiError> {
    match credentials(headers)? {
        Credentials::Bearer(text) => match ApiKeyText::parse(text) {
            Some(key) => by_key(app, &key).await,
            None => by_token(app, text).await,
        },
        Credentials::Cookie(text) => {
            let principal = by_token(app, text).await?;
            if !method.is_safe() && !from_our_pages(headers, &app.config.allowed_origins) {
                return Err(ApiError::new(
                    StatusCode::FORBIDDEN,
                    "cross_site",
                    "A request with a cookie must come from our own pages.",
                ));
            }
            Ok(principal)
        }
    }
}

enum Credentials<'a> {
    Bearer(&'a str),
    Cookie(&'a str),
}

fn credentials(headers: &HeaderMap) -> Result<Credentials<'_>, ApiError> {
    let found = if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| ApiError::unauthenticated())?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(ApiError::unauthenticated());
        }
        Credentials::Bearer(rest.trim())
    } else {
        Credentials::Cookie(cookie(headers).ok_or_else(ApiError::unauthenticated)?)
    };
    let (Credentials::Bearer(text) | Credentials::Cookie(text)) = &found;
    if text.is_empty() || text.len() > CREDENTIAL_BYTES_MAX {
        return Err(ApiError::unauthenticated());
    }
    Ok(found)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == AUTH_COOKIE)
        .map(|(_, value)| value)
}

/// A page of another site can make a browser send the cookie along; it cannot forge these two headers.
fn from_our_pages(headers: &HeaderMap, allowed: &[String]) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let origin = text(header::ORIGIN);
    if origin.is_some_and(|origin| allowed.iter().any(|good| good == origin)) {
        return true;
    }
    if let Some(site) = text(http::HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let own = origin
        .and_then(|origin| origin.split_once("://"))
        .map(|(_, host)| host);
    own.is_some() && own == text(header::HOST)
}

async fn by_token(app: &AppState, text: &str) -> Result<Principal, ApiError> {
    let now = app.now();
    let (login_id, subject) = app
        .tokens
        .verify(text, now)
        .ok_or_else(ApiError::unauthenticated)?;
    let identity = &app.stores.identity;
    let login = identity
        .login(login_id)
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    if !login_holds(&login, now) || login.user != subject {
        return Err(ApiError::unauthenticated());
    }
    let user = active_user(app, &login.user).await?;
    // written through at quarter steps only: a busy page costs four writes an idle window, not one a request
    if now.after(IDLE * 3 / 4) > login.idle_end && login.idle_end < login.absolute_end {
        let idle_end = now.after(IDLE).min(login.absolute_end);
        if !identity.touch_login(login_id, idle_end).await? {
            return Err(ApiError::unauthenticated());
        }
    }
    Ok(principal(user, Proof::SignIn(login_id)))
}

async fn by_key(app: &AppState, key: &ApiKeyText) -> Result<Principal, ApiError> {
    let row = app
        .stores
        .identity
        .api_key(key.id)
        .await?
        .ok_or_else(ApiError::unauthenticated)?;
    if !key_holds(&row, app.now()) || !key.matches(&row.secret_sha256) {
        return Err(ApiError::unauthenticated());
    }
    let user = active_user(app, &row.user).await?;
    let role = lesser(row.role, user.role);
    Ok(Principal {
        role,
        ..principal(user, Proof::ApiKey(row.id))
    })
}

fn login_holds(login: &Login, now: Timestamp) -> bool {
    !login.revoked && now < login.idle_end && now < login.absolute_end
}

fn key_holds(key: &ApiKey, now: Timestamp) -> bool {
    !key.revoked && key.expires_at.is_none_or(|end| now < end)
}

/// Whether what a caller proved itself with holds still, and the caller is who it was: for answers that go on for long.
///
/// # Errors
/// When the rows cannot be read.
async fn still_holds(app: &AppState, caller: &Principal) -> Result<bool, StoreError> {
    let (identity, now) = (&app.stores.identity, app.now());
    let proof = match caller.proof {
        Proof::None => true,
        Proof::SignIn(id) => {
            let login = identity.login(id).await?;
            login.is_some_and(|login| login_holds(&login, now))
        }
        Proof::ApiKey(id) => {
            let key = identity.api_key(id).await?;
            key.is_some_and(|key| key_holds(&key, now))
        }
    };
    let user = identity.user(&caller.user).await?;
    Ok(proof && user.is_some_and(|user| !user.disabled && user.account == caller.account))
}

async fn active_user(app: &AppState, id: &common::ids::UserId) -> Result<User, ApiError> {
    app.stores
        .identity
        .user(id)
        .await?
        .filter(|user| !user.disabled)
        .ok_or_else(ApiError::unauthenticated)
}

pub fn principal(user: User, proof: Proof) -> Principal {
    Principal {
        user: user.id,
        name: user.name,
        account: user.account,
        role: user.role,
        proof,
    }
}

/// A key never does more than its owner may do today.
pub const fn lesser(a: Role, b: Role) -> Role {
    match (a, b) {
        (Role::Viewer, _) | (_, Role::Viewer) => Role::Viewer,
        (Role::User, _) | (_, Role::User) => Role::User,
        (Role::Admin, Role::Admin) => Role::Admin,
    }
}

/// `Set-Cookie` for a token that is good until `end`; with none: the cookie is deleted.
pub fn set_cookie(token: Option<(&str, Timestamp)>, now: Timestamp, tls: bool) -> HeaderValue {
    let (value, age) = match token {
        Some((token, end)) => (token, end.since(now).as_secs()),
        None => ("", 0),
    };
    let secure = if tls { "; Secure" } else { "" };
    let text = format!("{AUTH_COOKIE}={value}; HttpOnly; SameSite=Strict; Path=/; Max-Age={age}{secure}");
    HeaderValue::from_str(&text).expect("a token is base64 and dots")
}
