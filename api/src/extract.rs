//! What handlers take from a request, each refusal being one of ours with a field and a code.

use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use common::identity::{Permission, Principal};
use common::ids::{ApiKeyId, FileId, JobId, RequestId, UserId, WorkerId};
use futures_util::StreamExt;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::audit;
use crate::auth;
use crate::envelope::RateSlot;
use crate::error::ApiError;
use crate::rate;
use crate::state::{App, AppState};

/// An ordinary request; what is larger is a file.
pub const JSON_BYTES_MAX: usize = 256 * 1024;
/// A name and two passwords, each byte of them escaped.
pub const SIGN_IN_BYTES_MAX: usize = 16 * 1024;
/// A bulk of 1,000 jobs of ordinary size.
pub const BULK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most characters of a sentence that quotes the request; our longest list of field names has some 250.
const QUOTED_LEN_MAX: usize = 400;
/// Most parameters of a query: our longest list has five names, of which labels may repeat.
const PARAMETERS_MAX: usize = 64;

/// Somebody who is signed in and may do what `N` stands for.
pub struct Caller<N> {
    pub principal: Principal,
    need: PhantomData<N>,
}

/// What a route demands of its caller.
pub trait Need: Send + Sync {
    const PERMISSION: Option<Permission>;
}

macro_rules! need {
    ($(#[$doc:meta])* $name:ident, $permission:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl Need for $name {
            const PERMISSION: Option<Permission> = $permission;
        }
    };
}

need!(
    /// Anybody who is signed in.
    SignedIn,
    None
);
need!(ReadJobs, Some(Permission::ReadJobs));
need!(WriteJobs, Some(Permission::WriteJobs));
need!(ReadWorkers, Some(Permission::ReadWorkers));
need!(ManageWorkers, Some(Permission::ManageWorkers));
need!(ManageUsers, Some(Permission::ManageUsers));

impl<N: Need> FromRequestParts<App> for Caller<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let principal = auth::authenticate(app, &parts.headers, &parts.method).await?;
        let (counted, allowed) = rate::count(app, &principal, &parts.method).await;
        if let (Some(counted), Some(slot)) = (counted, parts.extensions.get::<RateSlot>()) {
            // set once a request: a second extractor of the same request keeps the first count
            let _ = slot.0.set(counted);
        }
        allowed?;
        if let Some(permission) = N::PERMISSION
            && !principal.allows(permission)
        {
            let request = parts.extensions.get::<RequestId>();
            audit::record(&principal, "denied", &format!("{permission:?} {request:?}"));
            return Err(ApiError::forbidden());
        }
        Ok(Self {
            principal,
            need: PhantomData,
        })
    }
}

/// A JSON body of at most `MAX` bytes. An absent body counts as `{}`, so that a request whose fields are all optional
/// may be sent without.
pub struct Json<T, const MAX: usize = JSON_BYTES_MAX>(pub T);

impl<T: DeserializeOwned, const MAX: usize> FromRequest<App> for Json<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        json(request, app, MAX, app.config.json_timeout).await.map(Self)
    }
}

/// A JSON body with a password in it: small, and there within seconds, since anybody may send one.
pub struct SmallJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for SmallJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let whole = app.config.sign_in_timeout;
        json(request, app, SIGN_IN_BYTES_MAX, whole).await.map(Self)
    }
}

/// Reads a body of at most `max` bytes that is there as a `whole` in time.
async fn json<T: DeserializeOwned>(
    request: Request,
    app: &AppState,
    max: usize,
    whole: Duration,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    let length = content_length(&parts.headers);
    if length.is_some_and(|length| length > max as u64) {
        return Err(ApiError::too_large(max as u64));
    }
    let typed = parts.headers.get(header::CONTENT_TYPE);
    let json = typed.and_then(|value| value.to_str().ok()).is_some_and(is_json);
    if !json && typed.is_some() {
        return Err(not_json());
    }
    let bytes = tokio::time::timeout(whole, read(app, body, max))
        .await
        .map_err(|_| too_slow())??;
    if !json && !bytes.is_empty() {
        return Err(not_json());
    }
    let text: &[u8] = if bytes.is_empty() && !json { b"{}" } else { &bytes };
    parse(text)
}

fn not_json() -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "not_json",
        "Send application/json.",
    )
}

fn is_json(value: &str) -> bool {
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
}

async fn read(app: &AppState, body: Body, max: usize) -> Result<Bytes, ApiError> {
    let mut pieces = body.into_data_stream();
    let mut whole = bytes::BytesMut::new();
    while let Some(piece) = next_piece(app, &mut pieces).await? {
        if whole.len() + piece.len() > max {
            return Err(ApiError::too_large(max as u64));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The next piece of a body, within the configured pause.
pub async fn next_piece<S, E>(app: &AppState, pieces: &mut S) -> Result<Option<Bytes>, ApiError>
where
    S: futures_util::Stream<Item = Result<Bytes, E>> + Unpin,
{
    match tokio::time::timeout(app.config.body_timeout, pieces.next()).await {
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(None) => Ok(None),
        Ok(Some(Err(_))) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "broken_body",
            "The body ended too early.",
        )),
        Err(_) => Err(too_slow()),
    }
}

pub fn too_slow() -> ApiError {
    ApiError::new(
        StatusCode::REQUEST_TIMEOUT,
        "too_slow",
        "The body took too long to arrive.",
    )
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            data_error(&field, &inner.to_string())
        } else {
            bad_json(&inner)
        }
    })?;
    reader.end().map_err(|error| bad_json(&error))?;
    Ok(value)
}

fn bad_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "bad_json",
        format!("The body is not valid JSON: {error}."),
    )
}

/// Serde's sentence, with the field it is about and a code of ours.
fn data_error(path: &str, sentence: &str) -> ApiError {
    let sentence = sentence.split(" at line ").next().unwrap_or(sentence).to_owned();
    let (code, named) = if let Some(rest) = sentence.strip_prefix("unknown field `") {
        ("unknown_field", rest.split('`').next())
    } else if let Some(rest) = sentence.strip_prefix("missing field `") {
        ("missing", rest.split('`').next())
    } else if sentence.starts_with("duplicate field") {
        ("duplicate_field", None)
    } else {
        ("wrong_type", None)
    };
    let path = if path == "." { "" } else { path };
    let field: String = match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        Some(name) => format!("{path}.{name}"),
        None => path.to_owned(),
    };
    ApiError::field(beginning(&field), code, beginning(&sentence))
}

/// Both quote what was sent: an answer is no echo of megabytes.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(QUOTED_LEN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// An id from the path. One that cannot be is answered as one that is not there.
pub struct Id<T>(pub T);

pub trait Thing: FromStr + Send {
    const THING: &'static str;
}

impl Thing for JobId {
    const THING: &'static str = "job";
}

impl Thing for FileId {
    const THING: &'static str = "file";
}

impl Thing for ApiKeyId {
    const THING: &'static str = "key";
}

impl Thing for UserId {
    const THING: &'static str = "user";
}

impl Thing for WorkerId {
    const THING: &'static str = "worker";
}

impl<T: Thing> FromRequestParts<App> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let axum::extract::Path(text) = axum::extract::Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::not_found(T::THING))?;
        text.parse().map(Self).map_err(|_| ApiError::not_found(T::THING))
    }
}

/// The query's parameters. Each is taken by name; what nobody took is refused.
pub struct Params(Vec<(String, String)>);

impl FromRequestParts<App> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let bad = || ApiError::new(StatusCode::BAD_REQUEST, "bad_query", "The query cannot be read.");
        let axum::extract::Query(pairs) =
            axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, app)
                .await
                .map_err(|_| bad())?;
        if pairs.len() > PARAMETERS_MAX {
            return Err(bad());
        }
        Ok(Self(pairs))
    }
}

impl Params {
    /// Every value of a parameter that may repeat.
    pub fn many(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(key, _)| key == name);
        self.0 = left;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// A parameter that may be there once.
    ///
    /// # Errors
    /// 422 with the name, when it is there twice or cannot be read.
    pub fn one<T: FromStr>(&mut self, name: &'static str) -> Result<Option<T>, ApiError>
    where
        T::Err: std::fmt::Display,
    {
        let mut values = self.many(name);
        match (values.pop(), values.is_empty()) {
            (None, _) => Ok(None),
            (Some(value), true) => value
                .parse()
                .map(Some)
                .map_err(|error: T::Err| ApiError::field(name, "wrong_type", error.to_string())),
            (Some(_), false) => Err(ApiError::field(name, "repeated", "expected once")),
        }
    }

    /// A number that is held to a range.
    ///
    /// # Errors
    /// 422 with the name.
    pub fn number(
        &mut self,
        name: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64, ApiError> {
        let value = self.one(name)?.unwrap_or(default);
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(ApiError::field(
                name,
                "out_of_range",
                format!("expected {} to {}", range.start(), range.end()),
            ))
        }
    }

    /// # Errors
    /// 422 naming the first parameter that nobody took.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().take(64).collect();
                Err(ApiError::field(
                    shown,
                    "unknown_field",
                    "there is no such parameter",
                ))
            }
        }
    }
}
