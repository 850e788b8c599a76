//! `Range` of a request, one range only (RFC 9110 §14): what cannot be read is ignored, as the standard demands.

use std::ops::Range;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::error::ApiError;

/// Which bytes of `total` are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    Part(Range<u64>),
}

/// # Errors
/// 416 where the range lies past the end.
pub fn wanted(headers: &HeaderMap, total: u64) -> Result<Wanted, ApiError> {
    let text = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let Some((first, last)) = text.and_then(one_range) else {
        return Ok(Wanted::Whole);
    };
    let range = match (first, last) {
        (Some(first), Some(last)) if first > last => return Ok(Wanted::Whole),
        (Some(first), last) => first..last.map_or(total, |last| last.saturating_add(1).min(total)),
        (None, Some(suffix)) => total.saturating_sub(suffix)..total,
        (None, None) => return Ok(Wanted::Whole),
    };
    if range.start >= range.end {
        let at_most = HeaderValue::from_str(&format!("bytes */{total}")).expect("digits");
        return Err(ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "bad_range",
            format!("There are {total} bytes."),
        )
        .with_header(header::CONTENT_RANGE, at_most));
    }
    Ok(Wanted::Part(range))
}

fn one_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let number = |part: &str| match part.trim() {
        "" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    Some((number(first)?, number(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, total: u64) -> Result<Wanted, StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
        wanted(&headers, total).map_err(|_| StatusCode::RANGE_NOT_SATISFIABLE)
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let refused = Err(StatusCode::RANGE_NOT_SATISFIABLE);
        for (text, total, expected) in [
            ("bytes=0-0", 10, Ok(Wanted::Part(0..1))),
            ("bytes=2-", 10, Ok(Wanted::Part(2..10))),
            ("bytes=2-100", 10, Ok(Wanted::Part(2..10))),
            ("bytes=-3", 10, Ok(Wanted::Part(7..10))),
            ("bytes=-30", 10, Ok(Wanted::Part(0..10))),
            ("bytes=10-", 10, refused.clone()),
            ("bytes=-0", 10, refused.clone()),
            ("bytes=0-", 0, refused),
            ("bytes=5-2", 10, Ok(Wanted::Whole)),
            ("bytes=0-1,4-5", 10, Ok(Wanted::Whole)),
            ("lines=0-1", 10, Ok(Wanted::Whole)),
            (
                "bytes=18446744073709551615-",
                10,
                Err(StatusCode::RANGE_NOT_SATISFIABLE),
            ),
        ] {
            assert_eq!(of(text, total), expected, "{text} of {total}");
        }
    }
}
