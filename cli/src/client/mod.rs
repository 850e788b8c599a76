//! Speaks with the API over HTTP: one place that knows requests, errors and when trying again is safe.
//!
//! Every answer is bounded. A request is tried again only where that cannot do the thing twice: reads, and submissions,
//! which carry an idempotency key. Redirects are not followed, so that a token goes to no other server.

mod errors;
mod events;
mod follow;
mod transfer;

use std::time::Duration;

use bytes::Bytes;
use common::api_types::paths;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::events::{Event, EventParser, TooLong};
pub use self::follow::{Followed, Follower};
pub use self::transfer::{Download, Target, Upload, upload};

use crate::credentials::SERVER_DEFAULT;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::sanitise::line;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer of JSON takes milliseconds; a server that needs this long is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is read into memory: a page of 1,000 jobs with 48 KiB of specification each.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How often a request is tried that may be tried again.
const TRIES_MAX: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait that a server may ask for between two tries.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer(pub Bytes);

impl Answer {
    /// # Errors
    /// The server speaks another version of the interface.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.0).map_err(|error| {
            Failure::new("the server's answer was not understood")
                .source(error)
                .expected(format!("an API of version {}", env!("CARGO_PKG_VERSION")))
                .next("compare `jobworker --version` with the server's, and the address with `--server`")
        })
    }
}

/// A request before it is sent.
#[derive(Debug)]
pub struct Call<'a> {
    method: Method,
    path: &'a str,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    idempotency_key: Option<String>,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: &'a str) -> Self {
        Self::new(Method::POST, path)
    }

    pub fn delete(path: &'a str) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            query: Vec::new(),
            body: None,
            idempotency_key: None,
        }
    }

    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    #[must_use]
    pub fn json(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_vec(body).expect("a request is plain data").into());
        self
    }

    /// Makes a submission safe to send again.
    #[must_use]
    pub fn key(mut self, key: String) -> Self {
        self.idempotency_key = Some(key);
        self
    }

    fn may_be_repeated(&self) -> bool {
        self.method == Method::GET || self.method == Method::DELETE || self.idempotency_key.is_some()
    }
}

impl Client {
    /// # Errors
    /// The address is none, or not `http`.
    pub fn new(server: &str, token: Option<String>) -> Result<Self, Failure> {
        let base = base_url(server)?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("jobworker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(15))
            // a token goes to the server that was named and to nobody between
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::new("the HTTP client could not be made").source(error))?;
        Ok(Self { http, base, token })
    }

    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Sends a call and reads the answer; tries again where that is safe and may help.
    ///
    /// # Errors
    /// A sentence for the user, with the server's own words where it has some.
    pub async fn call(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            let sent = self.request(call).timeout(ANSWER_TIMEOUT).send().await;
            match pause_before_retry(&sent, pause) {
                Some(wait) if tries < TRIES_MAX && call.may_be_repeated() => tokio::time::sleep(wait).await,
                Some(_) | None => return self.read(sent).await,
            }
            tries += 1;
            pause *= 3;
        }
    }

    /// Calls and understands the answer.
    ///
    /// # Errors
    /// As [`Client::call`] and [`Answer::parse`].
    pub async fn ask<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, Failure> {
        self.call(call).await?.parse()
    }

    /// Sends once, without a limit of time, and gives the answer's body to be read piece by piece.
    async fn open(&self, call: &Call<'_>) -> Result<Response, Failure> {
        self.accepted(self.request(call).send().await).await
    }

    fn request(&self, call: &Call<'_>) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}{}",
            self.base.path().trim_end_matches('/'),
            call.path
        ));
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header(paths::IDEMPOTENCY_KEY, key);
        }
        if let Some(body) = &call.body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        request
    }

    async fn read(&self, sent: Result<Response, reqwest::Error>) -> Result<Answer, Failure> {
        let response = self.accepted(sent).await?;
        Ok(Answer(self.body(response).await?))
    }

    /// The response, if the server did what it was asked.
    async fn accepted(&self, sent: Result<Response, reqwest::Error>) -> Result<Response, Failure> {
        let response = sent.map_err(|error| errors::transport(self.server(), error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await.unwrap_or_default();
        Err(errors::refused(
            self.server(),
            status,
            &body,
            self.token.is_some(),
        ))
    }

    async fn body(&self, mut response: Response) -> Result<Bytes, Failure> {
        let mut body = Vec::new();
        while let Some(part) = response
            .chunk()
            .await
            .map_err(|error| errors::transport(self.server(), error))?
        {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(Failure::new(format!(
                    "the server's answer is larger than {ANSWER_BYTES_MAX} bytes"
                )));
            }
            body.extend_from_slice(&part);
        }
        Ok(body.into())
    }
}

/// How long to wait before the same request is sent again; none where that would not help.
fn pause_before_retry(sent: &Result<Response, reqwest::Error>, pause: Duration) -> Option<Duration> {
    match sent {
        Ok(response) => match response.status() {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Some(retry_after(response).unwrap_or(pause)).filter(|wait| *wait <= RETRY_AFTER_MAX)
            }
            _ => None,
        },
        // nothing listens there: that does not pass within a second, and the user should know at once
        Err(error) if error.is_connect() || error.is_builder() => None,
        Err(_) => Some(pause),
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?;
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn base_url(server: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        Failure::new(format!("`{}` is no address of a server: {why}", line(server)))
            .expected(format!("something like `{SERVER_DEFAULT}`"))
            .next("correct `--server` or JOBWORKER_SERVER, or sign in again: `jobworker login --server URL`")
            .exit(Exit::USAGE)
    };
    let url = Url::parse(server).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        // not `wrong`: it would show the password
        return Err(Failure::new("the server's address holds a name or a password")
            .expected(format!("something like `{SERVER_DEFAULT}`"))
            .next("leave them out, and sign in: `jobworker login --server URL`")
            .exit(Exit::USAGE));
    }
    match url.scheme() {
        "http" if url.host_str().is_some() => Ok(url),
        "https" => Err(wrong("this program speaks plain HTTP only, and would not send a token over anything else")
            .next("use the server's plain address on its own machine, or a tunnel: `ssh -L 3000:127.0.0.1:3000 HOST`")),
        _ => Err(wrong("it does not begin with `http://` and a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_and_says_what_it_should_be_otherwise() {
        assert!(Client::new("http://127.0.0.1:3000/", None).is_ok());
        for bad in ["", "127.0.0.1:3000", "ftp://x", "https://x", "http://"] {
            let text = Client::new(bad, None).unwrap_err().to_string();
            assert!(text.contains("expected: something like"), "{bad}: {text}");
        }
    }

    #[test]
    fn a_prefix_of_the_address_and_the_query_are_kept() {
        let client = Client::new("http://h/prefix/", None).unwrap();
        let call = Call::get("/api/v1/jobs").query("label", "a=b&c");
        let request = client.request(&call).build().unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://h/prefix/api/v1/jobs?label=a%3Db%26c"
        );
    }
}
