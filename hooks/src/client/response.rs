//! A response, and what its headers say about time.

use bugfeed_protocol::When;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use jiff::fmt::rfc2822::DateTimeParser;

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Only the beginning of the body was read.
    pub is_cut: bool,
    /// How many redirects were followed.
    pub redirects: u8,
}

impl Response {
    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The server's time, to the second, as its header `Date` says.
    pub fn date(&self) -> Option<When> {
        self.header("date").and_then(http_date)
    }

    /// `Retry-After`, in microseconds from now: seconds, or a date, which counts from the server's own time if that is known.
    pub fn retry_after_us(&self, now_us: i64) -> Option<i64> {
        let text = self.header("retry-after")?.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(
                text.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1_000_000)).unwrap_or(i64::MAX),
            );
        }
        let from_us = self.date().map_or(now_us, When::as_micros);
        Some((http_date(text)?.as_micros() - from_us).max(0))
    }
}

fn http_date(text: &str) -> Option<When> {
    let zoned = DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    When::from_micros(zoned.as_microsecond())
}
