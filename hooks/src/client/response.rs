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
        if let Some(seconds) = seconds(text) {
            return Some(seconds.saturating_mul(1_000_000));
        }
        let from_us = self.date().map_or(now_us, When::as_micros);
        Some((http_date(text)?.as_micros() - from_us).max(0))
    }
}

/// Whole seconds. Some servers write decimals, which count up to the next second.
fn seconds(text: &str) -> Option<i64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let more = i64::from(part.bytes().any(|byte| byte != b'0'));
    (is_digits(whole) && is_digits(part)).then(|| whole.parse::<i64>().unwrap_or(i64::MAX).saturating_add(more))
}

fn http_date(text: &str) -> Option<When> {
    let zoned = DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    When::from_micros(zoned.as_microsecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_to_wait_are_rounded_up() {
        let all = ["5", "0", "1.5", "2.0", "0.001", "99999999999999999999"].map(seconds);
        assert_eq!(all, [Some(5), Some(0), Some(2), Some(2), Some(1), Some(i64::MAX)]);
        assert_eq!(["", ".5", "1.", "-1", "1.2.3", "1e3", "soon"].map(seconds), [None; 7]);
    }
}
