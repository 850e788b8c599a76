//! Inputs and artifacts, over HTTP on the control plane's worker listener.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use common::ids::{AttemptId, FileId};
use common::protocol::token::{EMPTY_SHA256, Request, WorkerKey};
use common::protocol::{FILES_PATH_PREFIX, InputSource, TOKEN_HEADER};
use common::time::SharedClock;
use futures_util::StreamExt;
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use crate::config::ServerUrl;

/// The body's hash, lower-case hexadecimal, of an upload.
pub const SHA256_HEADER: &str = "x-content-sha256";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest silence in the middle of a transfer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const HASH_BUFFER_BYTES: usize = 64 * 1024;

#[async_trait]
pub trait FileServer: Send + Sync {
    /// Fetches an input of `attempt` into the file `to`, and checks its size and hash.
    ///
    /// # Errors
    /// [`TransferError`].
    async fn fetch(&self, attempt: AttemptId, source: &InputSource, to: &Path) -> Result<(), TransferError>;

    /// Stores the file `from` as an artifact of `attempt`; the same id again is the same file.
    ///
    /// # Errors
    /// [`TransferError`].
    async fn store(
        &self,
        attempt: AttemptId,
        file: FileId,
        path: &str,
        from: &Path,
    ) -> Result<Stored, TransferError>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Another try would end the same way.
    #[error("the control plane answered HTTP {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("what arrived is not what was announced")]
    Mismatch,
    #[error("the transfer failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TransferError {
    pub const fn retryable(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::Mismatch | Self::Failed(_) => true,
        }
    }

    fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed(Box::new(error))
    }
}

pub struct HttpFiles {
    client: reqwest::Client,
    server: ServerUrl,
    key: WorkerKey,
    audience: String,
    clock: SharedClock,
}

impl HttpFiles {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        server: ServerUrl,
        key: WorkerKey,
        audience: String,
        clock: SharedClock,
    ) -> Result<Self, TransferError> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(TransferError::failed)?;
        Ok(Self {
            client,
            server,
            key,
            audience,
            clock,
        })
    }

    fn token(&self, method: &str, file: FileId, body_sha256: &str) -> String {
        let path = format!("{FILES_PATH_PREFIX}{file}");
        let request = Request {
            method,
            path: &path,
            audience: &self.audience,
            body_sha256,
        };
        self.key.sign(&request, self.clock.now())
    }
}

#[async_trait]
impl FileServer for HttpFiles {
    async fn fetch(&self, attempt: AttemptId, source: &InputSource, to: &Path) -> Result<(), TransferError> {
        let answer = self
            .client
            .get(url(&self.server, attempt, source.file, None))
            .header(TOKEN_HEADER, self.token("GET", source.file, EMPTY_SHA256))
            .send()
            .await
            .map_err(TransferError::failed)?;
        let answer = check(answer).await?;
        let mut body = answer.bytes_stream();
        let mut file = tokio::fs::File::create(to).await.map_err(TransferError::failed)?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0u64);
        while let Some(part) = body.next().await {
            let part = part.map_err(TransferError::failed)?;
            bytes += part.len() as u64;
            if bytes > source.bytes {
                return Err(TransferError::Mismatch);
            }
            hasher.update(&part);
            file.write_all(&part).await.map_err(TransferError::failed)?;
        }
        file.flush().await.map_err(TransferError::failed)?;
        if bytes == source.bytes && hex(&hasher.finalize()) == source.sha256 {
            Ok(())
        } else {
            Err(TransferError::Mismatch)
        }
    }

    async fn store(
        &self,
        attempt: AttemptId,
        file: FileId,
        path: &str,
        from: &Path,
    ) -> Result<Stored, TransferError> {
        // Read twice, so that the hash is known before the body is sent; a file is not held in memory.
        let stored = digest(from).await.map_err(TransferError::failed)?;
        let body = tokio::fs::File::open(from).await.map_err(TransferError::failed)?;
        let answer = self
            .client
            .put(url(&self.server, attempt, file, Some(path)))
            .header(TOKEN_HEADER, self.token("PUT", file, &stored.sha256))
            .header(SHA256_HEADER, &stored.sha256)
            .header(http::header::CONTENT_LENGTH, stored.bytes)
            .body(reqwest::Body::wrap_stream(ReaderStream::new(
                body.take(stored.bytes),
            )))
            .send()
            .await
            .map_err(TransferError::failed)?;
        check(answer).await?;
        Ok(stored)
    }
}

fn url(server: &ServerUrl, attempt: AttemptId, file: FileId, path: Option<&str>) -> String {
    let mut url = format!("{}?attempt={attempt}", server.file(file));
    if let Some(path) = path {
        url.push_str("&path=");
        for byte in path.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                url.push(char::from(byte));
            } else {
                url.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    url
}

async fn check(answer: reqwest::Response) -> Result<reqwest::Response, TransferError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let final_answer = status.is_client_error()
        && !matches!(
            status,
            // A clock that is being set right, a limit, a slow body: worth another try.
            StatusCode::UNAUTHORIZED | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    if final_answer {
        Err(TransferError::Refused {
            status: status.as_u16(),
            message: status.canonical_reason().unwrap_or("refused").to_owned(),
        })
    } else {
        Err(TransferError::Failed(
            format!("the control plane answered HTTP {}", status.as_u16()).into(),
        ))
    }
}

async fn digest(path: &Path) -> std::io::Result<Stored> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hasher.update(&buffer[..read]);
    }
    Ok(Stored {
        bytes,
        sha256: hex(&hasher.finalize()),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
