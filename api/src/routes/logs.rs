//! Output of jobs: by page, as raw bytes, and followed.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use common::api_types::{
    EventId, FRAMES_CONTENT_TYPE, FollowEvent, INTEGER_MAX, LogChunkView, LogPageView, event, frame,
    idle_frame,
};
use common::ids::JobId;
use common::log::Stream;
use common::store::LogPosition;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::jobs::visible;
use crate::error::ApiError;
use crate::extract::{Caller, Id, Params, ReadJobs};
use crate::range::{Wanted, wanted};
use crate::services::follow::{Follower, IDLE_AFTER, Told};
use crate::services::logs;
use crate::state::App;

/// Of one page; base64 makes a third more of it.
const PAGE_BYTES: u64 = 256 * 1024;
const PAGE_BYTES_MAX: u64 = 1024 * 1024;
const TAIL_LINES_MAX: u64 = 100_000;
/// A download opens nothing and runs nothing, whatever the job wrote.
pub const DOWNLOAD_POLICY: &str = "sandbox; default-src 'none'; frame-ancestors 'none'";

/// A page of output, both streams in the order of arrival.
#[utoipa::path(get, path = "/jobs/{id}/logs", tag = "logs", params(
        ("id" = JobId, Path, description = "The job."),
        ("attempt" = Option<u32>, Query, maximum = 4294967295u64, description = "Its number; default: the last."),
        ("stream" = Option<Stream>, Query, description = "Only this stream."),
        ("from" = Option<u64>, Query, maximum = 9007199254740991u64, description = "`next` of the page before; default 0."),
        ("limit_bytes" = Option<u64>, Query, minimum = 1, maximum = 1048576, description = "About how much; default 262144.")),
    responses((status = 200, description = "The page.", body = LogPageView)))]
pub async fn page(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
    mut params: Params,
) -> Result<axum::Json<LogPageView>, ApiError> {
    let number = params.one::<u32>("attempt")?;
    let stream = take_stream(&mut params)?;
    let from = params.number("from", 0, 0..=INTEGER_MAX)?;
    let limit = params.number("limit_bytes", PAGE_BYTES, 1..=PAGE_BYTES_MAX)?;
    params.finish()?;
    // the row before the log: an attempt that had ended by then has all its output stored
    let job = visible(&app, &caller.principal, id).await?;
    let Some(attempt) = logs::attempt(&job, number)? else {
        return Ok(axum::Json(LogPageView {
            attempt: None,
            chunks: Vec::new(),
            next: from,
            complete: job.state.is_terminal(),
        }));
    };
    let page = app
        .stores
        .logs
        .read(attempt.id, stream, LogPosition(from), limit as usize)
        .await?;
    let ended = attempt.end.is_some();
    let at_end =
        page.chunks.is_empty() || (ended && page.next >= app.stores.logs.extent(attempt.id).await?.end);
    Ok(axum::Json(LogPageView {
        attempt: Some(attempt.number),
        chunks: page
            .chunks
            .iter()
            .map(|stored| LogChunkView::of(attempt.number, stored))
            .collect(),
        next: page.next.0,
        complete: ended && at_end,
    }))
}

/// The bytes of one stream, whole, by `Range`, or the last lines.
#[utoipa::path(get, path = "/jobs/{id}/logs/raw", tag = "logs", params(
        ("id" = JobId, Path, description = "The job."),
        ("attempt" = Option<u32>, Query, maximum = 4294967295u64, description = "Its number; default: the last."),
        ("stream" = Option<Stream>, Query, description = "Default stdout."),
        ("tail" = Option<u64>, Query, maximum = 100000, description = "Only the last lines, that many. The last bytes: \
            `Range: bytes=-n`."),
        ("Range" = Option<String>, Header, description = "One range of bytes.")),
    responses((status = 200, description = "What is stored now.", content_type = "application/octet-stream", body = crate::openapi::Binary),
        (status = 206, description = "The range.", content_type = "application/octet-stream", body = crate::openapi::Binary),
        (status = 416, description = "The range lies past the end.")))]
pub async fn raw(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let number = params.one::<u32>("attempt")?;
    let stream = take_stream(&mut params)?.unwrap_or(Stream::Stdout);
    let tail = params.one::<u64>("tail")?.map(|lines| lines.min(TAIL_LINES_MAX));
    params.finish()?;
    let job = visible(&app, &caller.principal, id).await?;
    let attempt = logs::attempt(&job, number)?.ok_or_else(|| ApiError::not_found("attempt"))?;
    let store = &app.stores.logs;
    let total = store.extent(attempt.id).await?.of(stream).bytes;
    let (status, range) = match tail {
        Some(lines) => {
            let start = logs::tail_start(&**store, attempt.id, stream, total, lines).await?;
            (StatusCode::OK, start..total)
        }
        None => match wanted(&headers, total)? {
            Wanted::Whole => (StatusCode::OK, 0..total),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        },
    };
    let name = format!("{id}-{}-{}.log", attempt.number, stream.as_str());
    let bytes = logs::stream(store.clone(), attempt.id, stream, range.start, range.end);
    Ok(download(
        status,
        range,
        total,
        "application/octet-stream",
        &name,
        Body::from_stream(bytes),
    ))
}

/// States, attempts and output as they come, until the job has ended. `Last-Event-ID` goes on after what was received.
///
/// A client that accepts frames of bytes gets them instead of server-sent events.
#[utoipa::path(get, path = "/jobs/{id}/logs/follow", tag = "logs", params(
        ("id" = JobId, Path, description = "The job."),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last `log` event received.")),
    responses((status = 200, description = "Events `state`, `attempt`, `log` and, at last, `end`.",
        content((String = "text/event-stream"), (crate::openapi::Binary = "application/vnd.jobworker.follow")))))]
pub async fn follow(
    State(app): State<App>,
    caller: Caller<ReadJobs>,
    Id(id): Id<JobId>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    params.finish()?;
    let resume = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            Some(
                text.parse::<EventId>()
                    .map_err(|error| ApiError::field("Last-Event-ID", "wrong_type", error.to_string()))?,
            )
        }
    };
    visible(&app, &caller.principal, id).await?;
    let permit = app.room_to_follow()?;
    let follower = Follower::new(app, id, caller.principal, resume, permit);
    let told = futures_util::stream::unfold(follower, |mut follower| async move {
        let told = follower.next().await?;
        Some((told, follower))
    });
    let response = if wants_frames(&headers) {
        let parts = told.flat_map(|told| futures_util::stream::iter(parts(&told)));
        let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
        ([(header::CONTENT_TYPE, FRAMES_CONTENT_TYPE)], body).into_response()
    } else {
        let events = told.filter_map(async |told| sent_event(&told).map(Ok::<_, Infallible>));
        let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(IDLE_AFTER));
        stream.into_response()
    };
    // asks proxies to pass events on as they come
    Ok(([("x-accel-buffering", "no")], response).into_response())
}

/// Whether the client names our frames among what it takes, and not as what it refuses (`q=0`); whoever does prefers
/// them.
fn wants_frames(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|accepted| accepted.to_str().ok())
        .flat_map(|accepted| accepted.split(','))
        .any(|one| {
            let mut parts = one.split(';').map(str::trim);
            let named = parts
                .next()
                .is_some_and(|media| media.eq_ignore_ascii_case(FRAMES_CONTENT_TYPE));
            named && !parts.any(is_refusal)
        })
}

/// Whether a parameter of a media type is a weight of nothing.
fn is_refusal(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, weight)| {
        name.trim().eq_ignore_ascii_case("q") && weight.trim().parse() == Ok(0.0_f32)
    })
}

/// As the bytes of its frame.
fn parts(told: &Told) -> Vec<Bytes> {
    match told {
        Told::Idle => vec![idle_frame()],
        Told::Event(event) => match frame(event) {
            Ok(parts) => parts.into(),
            Err(error) => {
                tracing::error!(%error, "an event could not be written");
                Vec::new()
            }
        },
    }
}

fn sent_event(told: &Told) -> Option<Event> {
    let blank = Event::default();
    let written = match told {
        // its keep-alive has a clock of its own
        Told::Idle => return None,
        Told::Event(FollowEvent::State(state)) => blank.event(event::STATE).json_data(state),
        Told::Event(FollowEvent::Attempt(attempt)) => blank.event(event::ATTEMPT).json_data(attempt),
        Told::Event(FollowEvent::Log(chunk)) => {
            let id = chunk.id().to_string();
            blank.event(event::LOG).id(id).json_data(chunk.view())
        }
        Told::Event(FollowEvent::End(end)) => blank.event(event::END).json_data(end),
    };
    if let Err(error) = &written {
        tracing::error!(%error, "an event could not be written");
    }
    written.ok()
}

fn take_stream(params: &mut Params) -> Result<Option<Stream>, ApiError> {
    match params.one::<String>("stream")?.as_deref() {
        None => Ok(None),
        Some("stdout") => Ok(Some(Stream::Stdout)),
        Some("stderr") => Ok(Some(Stream::Stderr)),
        Some(_) => Err(ApiError::field(
            "stream",
            "wrong_type",
            "expected stdout or stderr",
        )),
    }
}

/// An answer that a browser stores and never shows.
pub fn download(
    status: StatusCode,
    range: std::ops::Range<u64>,
    total: u64,
    content_type: &str,
    name: &str,
    body: Body,
) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let length = range.end - range.start;
    for (header, value) in [
        (
            header::CONTENT_TYPE,
            text(content_type).or_else(|| text("application/octet-stream")),
        ),
        (header::CONTENT_LENGTH, text(&length.to_string())),
        (header::ACCEPT_RANGES, text("bytes")),
        (header::CONTENT_DISPOSITION, text(&attachment(name))),
        (header::CONTENT_SECURITY_POLICY, text(DOWNLOAD_POLICY)),
    ] {
        if let Some(value) = value {
            headers.insert(header, value);
        }
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Some(value) = text(&format!("bytes {}-{}/{total}", range.start, range.end - 1))
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

/// RFC 6266, the name percent-encoded as RFC 8187 has it: whatever it holds, it stays within its quotes.
fn attachment(name: &str) -> String {
    let mut text = String::from("attachment; filename*=UTF-8''");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_for_those_who_name_them_and_do_not_refuse_them() {
        for (accepted, wanted) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/event-stream"], false),
            (&["application/vnd.jobworker.follower"], false),
            (&["application/vnd.jobworker.follow"], true),
            (&["Application/VND.JobWorker.Follow"], true),
            (
                &["text/event-stream;q=0.5, application/vnd.jobworker.follow ; q=0.1"],
                true,
            ),
            (&["text/event-stream", "application/vnd.jobworker.follow"], true),
            (&["application/vnd.jobworker.follow;version=0"], true),
            (&["application/vnd.jobworker.follow;q=soon"], true),
            (&["application/vnd.jobworker.follow;q=0"], false),
            (&["application/vnd.jobworker.follow; Q = 0.000, */*"], false),
            (&["application/vnd.jobworker.follow;version=1;q=0."], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accepted {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(wants_frames(&headers), wanted, "{accepted:?}");
        }
    }
}
