//! Files in and out, streamed: no file is ever whole in memory.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::response::{IntoResponse, Response};
use common::api_types::{FileList, FileView, paths};
use common::identity::Principal;
use common::ids::FileId;
use common::store::{FileMeta, FilePurpose, FileQuery, FileWriter, NewFile, StoreError};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::logs::download as downloaded;
use crate::audit;
use crate::error::ApiError;
use crate::extract::{Caller, Id, Params, ReadJobs, WriteJobs, content_length, next_piece, too_slow};
use crate::range::{Wanted, wanted};
use crate::state::{App, AppState};

const PAGE_DEFAULT: u64 = 50;
const PAGE_MAX: u64 = 200;
const NAME_BYTES_MAX: usize = 255;
const CONTENT_TYPE_BYTES_MAX: usize = 127;
const BINARY: &str = "application/octet-stream";

/// Stores a file: the raw body, or the field `file` of a form.
#[utoipa::path(post, path = "/files", tag = "files", params(
        ("name" = Option<String>, Query, description = "What the file is called; forms may say it themselves."),
        ("X-Content-SHA256" = Option<String>, Header, description = "What the file's SHA-256 must be, in hexadecimal.")),
    request_body(content = crate::openapi::Binary, content_type = "application/octet-stream"),
    responses((status = 201, description = "Stored, whole.", body = FileView),
        (status = 413, description = "Over the installation's limit; nothing is kept.")))]
pub async fn upload(
    State(app): State<App>,
    caller: Caller<WriteJobs>,
    mut params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    let name = params.one::<String>("name")?;
    params.finish()?;
    let headers = request.headers();
    let expected = expected_sha256(headers)?;
    if content_length(headers).is_some_and(|length| length > app.config.upload_bytes_max) {
        return Err(ApiError::too_large(app.config.upload_bytes_max));
    }
    let declared = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or(BINARY)
        .to_owned();
    let meta = if declared.to_ascii_lowercase().starts_with("multipart/form-data") {
        from_form(&app, &caller.principal, name, request, expected.as_deref()).await?
    } else {
        let upload = Upload::begin(&app, &caller.principal, name.as_deref(), &declared).await?;
        let mut pieces = request.into_body().into_data_stream();
        upload.take(&mut pieces, expected.as_deref()).await?
    };
    let location = HeaderValue::from_str(&paths::file(meta.id)).expect("an id is ASCII");
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        axum::Json(FileView::from(meta)),
    )
        .into_response())
}

/// Files, newest first.
#[utoipa::path(get, path = "/files", tag = "files", params(
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "Default 50.")),
    responses((status = 200, description = "A page.", body = FileList)))]
pub async fn list(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    mut params: Params,
) -> Result<axum::Json<FileList>, ApiError> {
    let query = FileQuery {
        account: caller.principal.scope().cloned(),
        before: params.one::<FileId>("cursor")?,
        limit: params.number("limit", PAGE_DEFAULT, 1..=PAGE_MAX)? as usize,
    };
    params.finish()?;
    let files = app.stores.files.list(&query).await?;
    let next = files
        .last()
        .filter(|_| files.len() == query.limit)
        .map(|last| last.id.to_string());
    Ok(axum::Json(FileList {
        files: files.into_iter().map(FileView::from).collect(),
        next,
    }))
}

/// A file's bytes.
#[utoipa::path(get, path = "/files/{id}", tag = "files", params(
        ("id" = FileId, Path, description = "The file."),
        ("Range" = Option<String>, Header, description = "One range of bytes.")),
    responses((status = 200, description = "The file.", content_type = "application/octet-stream", body = crate::openapi::Binary),
        (status = 206, description = "The range.", content_type = "application/octet-stream", body = crate::openapi::Binary),
        (status = 416, description = "The range lies past the end.")))]
pub async fn download(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<FileId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let meta = visible(&app, &caller.principal, id).await?;
    let tag = format!("\"{}\"", meta.sha256);
    let same = headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let (status, range) = match wanted(&headers, meta.bytes) {
        Ok(Wanted::Part(range)) if same => (StatusCode::PARTIAL_CONTENT, range),
        Ok(_) => (StatusCode::OK, 0..meta.bytes),
        Err(error) if same => return Err(error),
        Err(_) => (StatusCode::OK, 0..meta.bytes),
    };
    let bytes = app.stores.files.read(id, range.start, Some(range.end)).await?;
    let mut response = downloaded(
        status,
        range,
        meta.bytes,
        &meta.content_type,
        &meta.name,
        Body::from_stream(bytes),
    );
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    Ok(response)
}

/// Deletes a file. A job that still wants it as an input will fail.
#[utoipa::path(delete, path = "/files/{id}", tag = "files", params(("id" = FileId, Path, description = "The file.")),
    responses((status = 204, description = "Deleted.")))]
pub async fn delete(
    State(app): State<App>,
    caller: Caller<WriteJobs>,
    Id(id): Id<FileId>,
) -> Result<StatusCode, ApiError> {
    visible(&app, &caller.principal, id).await?;
    match app.stores.files.delete(id).await {
        Ok(()) | Err(StoreError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    audit::record(&caller.principal, "file deleted", &id.to_string());
    Ok(StatusCode::NO_CONTENT)
}

async fn visible(app: &AppState, caller: &Principal, id: FileId) -> Result<FileMeta, ApiError> {
    app.stores
        .files
        .meta(id)
        .await?
        .filter(|meta| caller.sees(&meta.account))
        .ok_or_else(|| ApiError::not_found("file"))
}

async fn from_form(
    app: &App,
    caller: &Principal,
    name: Option<String>,
    request: Request,
    expected: Option<&str>,
) -> Result<FileMeta, ApiError> {
    let bad_form = || ApiError::new(StatusCode::BAD_REQUEST, "bad_form", "The form cannot be read.");
    let mut form = Multipart::from_request(request, app)
        .await
        .map_err(|_| bad_form())?;
    let field = tokio::time::timeout(app.config.body_timeout, form.next_field());
    let field = field.await.map_err(|_| too_slow())?.map_err(|_| bad_form())?;
    let Some(mut field) = field.filter(|field| field.name() == Some("file")) else {
        return Err(ApiError::field(
            "file",
            "missing",
            "expected the form's first field to be `file`",
        ));
    };
    let name = name.or_else(|| field.file_name().map(str::to_owned));
    let content_type = field.content_type().unwrap_or(BINARY).to_owned();
    let upload = Upload::begin(app, caller, name.as_deref(), &content_type).await?;
    upload.take(&mut field, expected).await
}

/// A file on its way in. Dropped before its end it leaves nothing behind.
struct Upload<'a> {
    app: &'a AppState,
    writer: Box<dyn FileWriter>,
    bytes: u64,
}

impl<'a> Upload<'a> {
    async fn begin(
        app: &'a AppState,
        caller: &Principal,
        name: Option<&str>,
        content_type: &str,
    ) -> Result<Self, ApiError> {
        let name = name.unwrap_or("file");
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(ApiError::field(
                "name",
                "bad_text",
                format!("expected 1 to {NAME_BYTES_MAX} printable bytes"),
            ));
        }
        let content_type = if content_type.len() <= CONTENT_TYPE_BYTES_MAX {
            content_type
        } else {
            BINARY
        };
        let writer = app
            .stores
            .files
            .create(NewFile {
                id: FileId::generate(app.now()),
                account: caller.account.clone(),
                owner: caller.user.clone(),
                purpose: FilePurpose::Upload,
                name: name.to_owned(),
                content_type: content_type.to_owned(),
                created_at: app.now(),
            })
            .await?;
        Ok(Self {
            app,
            writer,
            bytes: 0,
        })
    }

    async fn take<S, E>(mut self, pieces: &mut S, expected: Option<&str>) -> Result<FileMeta, ApiError>
    where
        S: futures_util::Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let limit = self.app.config.upload_bytes_max;
        while let Some(piece) = next_piece(self.app, pieces).await? {
            self.bytes += piece.len() as u64;
            if self.bytes > limit {
                return Err(ApiError::too_large(limit));
            }
            self.writer.write(piece).await?;
        }
        match self.writer.finish(expected).await {
            Ok(meta) => Ok(meta),
            Err(StoreError::Corrupt { .. }) if expected.is_some() => Err(ApiError::field(
                "X-Content-SHA256",
                "sha256_mismatch",
                "the bytes received have another SHA-256; nothing was kept",
            )),
            Err(error) => Err(error.into()),
        }
    }
}

fn expected_sha256(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(paths::CONTENT_SHA256) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .filter(|text| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(|text| Some(text.to_ascii_lowercase()))
        .ok_or_else(|| ApiError::field("X-Content-SHA256", "wrong_type", "expected 64 hexadecimal digits"))
}
