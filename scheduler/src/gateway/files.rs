//! Inputs out, artifacts in: over HTTP on the same listener, each request with a token of its own, bound to an attempt
//! that the worker holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, BodyDataStream};
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::ids::{AttemptId, FileId, WorkerId};
use common::job::{Job, validate_path};
use common::protocol::FILES_PATH_PREFIX;
use common::protocol::token::{EMPTY_SHA256, Request};
use common::store::{FileMeta, FilePurpose, Held, NewFile, StoreError};
use futures_util::StreamExt;

use super::Gateway;
use super::auth::{Refused, parameter, problem};

/// SHA-256 of the body, lower-case hexadecimal: signed in the token, checked on the bytes.
const CONTENT_HEADER: &str = "x-content-sha256";

/// Attempts whose artifacts are counted; past it the oldest counts are of no use any more and are dropped.
const COUNTED_MAX: usize = 10_000;

/// Rows read at once.
const PAGE: usize = 500;

/// How many artifacts each attempt has brought, on this replica.
#[derive(Default)]
pub struct FileCounts(Mutex<HashMap<AttemptId, u32>>);

impl FileCounts {
    /// Counts one more, unless that would be too many.
    fn admit(&self, attempt: AttemptId, most: u32) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_MAX {
            counts.clear();
        }
        let count = counts.entry(attempt).or_insert(0);
        if *count >= most {
            return false;
        }
        *count += 1;
        true
    }
}

/// Why a transfer does not happen.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{1}")]
    Bad(StatusCode, &'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
}

const NOT_FOUND: Failure = Failure::Bad(StatusCode::NOT_FOUND, "there is no such file for this attempt");

/// `GET /worker/files/{id}?attempt=…`: an input of an attempt.
pub async fn fetch(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let answer = fetch_input(&gateway, &id, query.as_deref(), &headers).await;
    gateway.answer(answer, &id)
}

/// `PUT /worker/files/{id}?attempt=…&path=…`: an artifact of an attempt.
pub async fn bring(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = bring_artifact(&gateway, &id, query.as_deref(), &headers, body).await;
    gateway.answer(answer, &id)
}

async fn fetch_input(
    gateway: &Gateway,
    id: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let worker = gateway.sender("GET", id, query, headers, EMPTY_SHA256).await?;
    let (file, job, _) = gateway.bound(id, query, &worker).await?;
    if !job.spec.inputs.iter().any(|input| input.file == file) {
        return Err(NOT_FOUND);
    }
    let meta = gateway
        .stores
        .files
        .meta(file)
        .await?
        .filter(|meta| meta.account == job.account)
        .ok_or(NOT_FOUND)?;
    let bytes = gateway.stores.files.read(file, 0, None).await?;
    let headers = [
        (
            header::CONTENT_TYPE.as_str(),
            "application/octet-stream".to_owned(),
        ),
        (header::CONTENT_LENGTH.as_str(), meta.bytes.to_string()),
        (CONTENT_HEADER, meta.sha256),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

async fn bring_artifact(
    gateway: &Gateway,
    id: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let sha256 = headers
        .get(CONTENT_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|text| {
            text.len() == EMPTY_SHA256.len() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
        .ok_or(Failure::Bad(
            StatusCode::BAD_REQUEST,
            "x-content-sha256: expected 64 hexadecimal digits",
        ))?;
    let worker = gateway.sender("PUT", id, query, headers, sha256).await?;
    let (file, job, attempt) = gateway.bound(id, query, &worker).await?;
    let path = parameter(query, "path")
        .and_then(percent_decoded)
        .ok_or(Failure::Bad(
            StatusCode::BAD_REQUEST,
            "path: expected a path below the workspace",
        ))?;
    validate_path(&path).map_err(|rule| Failure::Bad(StatusCode::BAD_REQUEST, rule))?;
    let limits = &gateway.config.limits;
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limits.file_bytes_max) {
        return Err(TOO_LARGE);
    }
    if let Some(meta) = gateway.stores.files.meta(file).await? {
        return repeated(&meta, attempt, sha256);
    }
    if !gateway.file_counts.admit(attempt, limits.files_per_attempt_max) {
        return Err(Failure::Bad(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the attempt has too many artifacts",
        ));
    }
    let new = NewFile {
        id: file,
        account: job.account.clone(),
        owner: job.submitted_by.clone(),
        purpose: FilePurpose::Artifact { attempt },
        name: path,
        content_type: "application/octet-stream".to_owned(),
        created_at: gateway.clock.now(),
    };
    match store(gateway, new, body.into_data_stream(), sha256).await {
        Ok(meta) => Ok((StatusCode::CREATED, axum::Json(meta)).into_response()),
        // Brought twice at the same time; the other one has stored it.
        Err(Failure::Store(StoreError::Exists)) => match gateway.stores.files.meta(file).await? {
            Some(meta) => repeated(&meta, attempt, sha256),
            None => Err(Failure::Bad(StatusCode::CONFLICT, "the file is being stored")),
        },
        Err(Failure::Store(StoreError::Corrupt { .. })) => Err(Failure::Bad(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the bytes do not have this SHA-256",
        )),
        Err(other) => Err(other),
    }
}

const TOO_LARGE: Failure = Failure::Bad(StatusCode::PAYLOAD_TOO_LARGE, "the file is too large");

async fn store(
    gateway: &Gateway,
    new: NewFile,
    mut body: BodyDataStream,
    sha256: &str,
) -> Result<FileMeta, Failure> {
    let limits = &gateway.config.limits;
    let mut writer = gateway.stores.files.create(new).await?;
    let mut total = 0u64;
    loop {
        let next = tokio::time::timeout(limits.transfer_stall, body.next()).await;
        let bytes: Bytes = match next {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(Some(Err(_))) => return Err(Failure::Bad(StatusCode::BAD_REQUEST, "the body broke off")),
            Ok(None) => break,
            Err(_) => {
                return Err(Failure::Bad(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body stopped coming",
                ));
            }
        };
        total += bytes.len() as u64;
        if total > limits.file_bytes_max {
            return Err(TOO_LARGE);
        }
        writer.write(bytes).await?;
    }
    Ok(writer.finish(Some(sha256)).await?)
}

/// The same file again is answered as before.
fn repeated(meta: &FileMeta, attempt: AttemptId, sha256: &str) -> Result<Response, Failure> {
    if meta.purpose == (FilePurpose::Artifact { attempt }) && meta.sha256 == sha256 {
        Ok(axum::Json(meta).into_response())
    } else {
        Err(Failure::Bad(
            StatusCode::CONFLICT,
            "there is another file of this id",
        ))
    }
}

impl Gateway {
    async fn sender(
        &self,
        method: &str,
        id: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        body_sha256: &str,
    ) -> Result<WorkerId, Failure> {
        let path = format!("{FILES_PATH_PREFIX}{id}");
        let request = Request {
            method,
            path: &path,
            audience: &self.config.audience,
            body_sha256,
        };
        Ok(self.authenticate(headers, query, &request).await?.worker)
    }

    /// The file and the job that a request speaks of, if the worker holds the attempt now.
    async fn bound(
        &self,
        id: &str,
        query: Option<&str>,
        worker: &WorkerId,
    ) -> Result<(FileId, Job, AttemptId), Failure> {
        let file: FileId = id.parse().map_err(|_| NOT_FOUND)?;
        let attempt: AttemptId = parameter(query, "attempt")
            .and_then(|text| text.parse().ok())
            .ok_or(Failure::Bad(
                StatusCode::BAD_REQUEST,
                "attempt: expected an attempt's id",
            ))?;
        let session = self
            .stores
            .workers
            .get(worker)
            .await?
            .and_then(|worker| worker.session)
            .ok_or(NOT_FOUND)?;
        let (held, mut after) = (Held::Sessions(vec![session]), None);
        loop {
            let rows = self.stores.jobs.held(&held, after, PAGE).await?;
            let (full, last) = (rows.len() == PAGE, rows.last().map(|job| job.id));
            if let Some(job) = rows.into_iter().find(|job| job.state.attempt() == Some(attempt)) {
                return Ok((file, job, attempt));
            }
            if !full {
                return Err(NOT_FOUND);
            }
            after = last;
        }
    }

    fn answer(&self, answer: Result<Response, Failure>, id: &str) -> Response {
        let now = self.clock.now();
        match answer {
            Ok(response) => response,
            Err(Failure::Refused(refused)) => self.refuse(&refused, id),
            Err(Failure::Bad(status, detail)) => problem(status, detail, now),
            Err(Failure::Store(error)) => {
                tracing::warn!(%error, file = id, "a file was not transferred");
                problem(StatusCode::SERVICE_UNAVAILABLE, "try again", now)
            }
        }
    }
}

/// A query's value as text. None for broken escapes and for what is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_broken_ones_refused() {
        assert_eq!(percent_decoded("out%2Fa%20b+c"), Some("out/a b c".to_owned()));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_attempt_brings_no_more_than_its_number_of_files() {
        let (counts, attempt) = (FileCounts::default(), AttemptId::random());
        assert!(counts.admit(attempt, 2) && counts.admit(attempt, 2));
        assert!(!counts.admit(attempt, 2));
        assert!(counts.admit(AttemptId::random(), 2));
    }
}
