//! Who speaks: the worker token, checked and used up. One answer for every refusal; which it was is for our logs.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::protocol::TOKEN_HEADER;
use common::protocol::token::{NONCE_KEPT, Request, TokenError, Verified};
use common::store::StoreError;
use common::time::Timestamp;

use super::Gateway;

/// Where the server's time stands in a refusal, besides the body: an agent whose clock is off may say so to its owner.
pub const TIME_HEADER: &str = "x-server-time-ms";

#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("no worker token, or more than one")]
    Missing,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token was used before, or signed before the nonces were kept")]
    Used,
    #[error("the nonces do not answer")]
    Store(#[from] StoreError),
}

impl Gateway {
    /// Checks the one token of a request and uses up its nonce.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        request: &Request<'_>,
    ) -> Result<Verified, Refused> {
        let token = the_token(headers, query)?;
        let now = self.clock.now();
        let verified = self.config.fleet.verify(token, request, now)?;
        let nonce = format!("{}:{}", verified.worker, verified.nonce);
        if self
            .stores
            .nonces
            .use_once(&nonce, verified.time, NONCE_KEPT, now)
            .await?
        {
            Ok(verified)
        } else {
            Err(Refused::Used)
        }
    }

    /// The answer to a refused request.
    pub fn refuse(&self, refused: &Refused, path: &str) -> Response {
        tracing::warn!(reason = %refused, path, "a worker was refused");
        let now = self.clock.now();
        match refused {
            Refused::Missing | Refused::Token(_) | Refused::Used => unauthorized(now),
            Refused::Store(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "try again", now),
        }
    }
}

/// The only value of a name, from the header or else from the query.
fn the_token<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<&'a str, Refused> {
    let mut given = headers.get_all(TOKEN_HEADER).iter();
    match (given.next(), given.next()) {
        (Some(token), None) => token.to_str().map_err(|_| Refused::Missing),
        (Some(_), Some(_)) => Err(Refused::Missing),
        (None, _) => parameter(query, "token").ok_or(Refused::Missing),
    }
}

/// A parameter of a query, as it stands: ids and tokens need no decoding. None when it is given twice.
pub fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut values = query?
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| *key == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Some(value),
        _ => None,
    }
}

fn unauthorized(now: Timestamp) -> Response {
    problem(StatusCode::UNAUTHORIZED, "the worker token was not accepted", now)
}

/// An error as `application/problem+json`.
pub fn problem(status: StatusCode, detail: &str, now: Timestamp) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("error"),
        "status": status.as_u16(),
        "detail": detail,
        "server_time_ms": now.as_millis(),
    });
    let headers = [
        (
            header::CONTENT_TYPE.as_str(),
            "application/problem+json".to_owned(),
        ),
        (TIME_HEADER, now.as_millis().to_string()),
    ];
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_given_twice_is_none() {
        assert_eq!(parameter(Some("a=1&token=x"), "token"), Some("x"));
        assert_eq!(parameter(Some("token=x&token=y"), "token"), None);
        assert_eq!(parameter(Some("tokens=x"), "token"), None);
        assert_eq!(parameter(None, "token"), None);
    }

    #[test]
    fn a_doubled_header_is_no_token() {
        let mut headers = HeaderMap::new();
        headers.append(TOKEN_HEADER, "a".parse().unwrap());
        assert_eq!(the_token(&headers, None).unwrap(), "a");
        headers.append(TOKEN_HEADER, "b".parse().unwrap());
        assert!(the_token(&headers, Some("token=c")).is_err());
    }
}
