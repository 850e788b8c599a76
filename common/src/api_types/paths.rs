//! Where things are, for clients: the server's own table is held to these by a test.

use crate::ids::{ApiKeyId, FileId, JobId, UserId, WorkerId};

pub const BASE: &str = "/api/v1";
pub const LOGIN: &str = "/api/v1/auth/login";
pub const LOGOUT: &str = "/api/v1/auth/logout";
pub const ME: &str = "/api/v1/auth/me";
pub const KEYS: &str = "/api/v1/auth/keys";
pub const PASSWORD: &str = "/api/v1/auth/password";
pub const USERS: &str = "/api/v1/users";
pub const ACCOUNTS: &str = "/api/v1/accounts";
pub const JOBS: &str = "/api/v1/jobs";
pub const JOBS_BULK: &str = "/api/v1/jobs/bulk";
pub const JOBS_COUNTS: &str = "/api/v1/jobs/counts";
pub const FILES: &str = "/api/v1/files";
pub const WORKERS: &str = "/api/v1/workers";
pub const OPENAPI: &str = "/api/v1/openapi.json";
pub const HEALTH: &str = "/healthz";
pub const READY: &str = "/readyz";

/// The cookie that carries a browser's token.
pub const AUTH_COOKIE: &str = "auth_token";
/// A client's own name for one submission, good for 24 h.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// `true` on an answer that an earlier request with the same key had already made.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
/// The SHA-256 (lower-case hexadecimal) that an upload must have.
pub const CONTENT_SHA256: &str = "x-content-sha256";
pub const REQUEST_ID: &str = "x-request-id";

pub fn job(id: JobId) -> String {
    format!("{JOBS}/{id}")
}

pub fn job_cancel(id: JobId) -> String {
    format!("{JOBS}/{id}/cancel")
}

pub fn job_explain(id: JobId) -> String {
    format!("{JOBS}/{id}/explain")
}

pub fn job_artifacts(id: JobId) -> String {
    format!("{JOBS}/{id}/artifacts")
}

pub fn job_logs(id: JobId) -> String {
    format!("{JOBS}/{id}/logs")
}

pub fn job_logs_raw(id: JobId) -> String {
    format!("{JOBS}/{id}/logs/raw")
}

pub fn job_logs_follow(id: JobId) -> String {
    format!("{JOBS}/{id}/logs/follow")
}

pub fn file(id: FileId) -> String {
    format!("{FILES}/{id}")
}

pub fn key(id: ApiKeyId) -> String {
    format!("{KEYS}/{id}")
}

pub fn user_disable(id: &UserId) -> String {
    format!("{USERS}/{id}/disable")
}

pub fn worker(id: &WorkerId) -> String {
    format!("{WORKERS}/{id}")
}

pub fn worker_drain(id: &WorkerId) -> String {
    format!("{WORKERS}/{id}/drain")
}
