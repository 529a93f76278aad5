//! The dates that trackers write.
//!
//! Goes in: a JSON value or a header's text. Comes out: an instant, or why there is none. It knows no clock.

use std::fmt;
use std::sync::{Arc, LazyLock};

use bugfeed_protocol::When;
use jiff::civil::date;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use serde_json::Value;

/// From this many on, a number counts milliseconds, not seconds: 10¹¹ seconds are the year 5138, 10¹¹ milliseconds 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// A text of fewer digits is no number of seconds; `20140403` is a date.
const FEWEST_DIGITS: usize = 9;

/// A form of dates that a source describes, such as `%d.%m.%Y %H:%M:%S %z`.
#[derive(Clone, Debug)]
pub struct DateFormat(Arc<Form>);

#[derive(Debug)]
struct Form {
    text: String,
    /// The zone of dates in which none is written; without it, the source's.
    zone: Option<TimeZone>,
}

impl DateFormat {
    /// Checks a form, in the signs of `strptime`, by writing a date and reading it again.
    ///
    /// # Errors
    /// A sign is not known, or year, month and day do not follow from it. A part of a sentence.
    pub fn new(text: &str, zone: Option<TimeZone>) -> Result<DateFormat, String> {
        let sample = date(2026, 11, 26).at(13, 14, 15, 0).to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
        let written = strtime::format(text, &sample).map_err(|error| error.to_string())?;
        let format = DateFormat(Arc::new(Form { text: text.to_owned(), zone }));
        let read = format.parse(&written, &TimeZone::UTC)?;
        let day = read.as_micros().abs_diff(sample.timestamp().as_microsecond());
        if day > 2 * 86_400_000_000 { Err("it does not tell the day".to_owned()) } else { Ok(format) }
    }

    /// Reads a date. `zone` is that of the source. The error is a part of a sentence.
    pub(crate) fn read(&self, text: &str, zone: &TimeZone) -> Result<When, String> {
        self.parse(text.trim(), zone).map_err(|_| format!("it has not the form {self}"))
    }

    fn parse(&self, text: &str, zone: &TimeZone) -> Result<When, String> {
        let parts = BrokenDownTime::parse(&self.0.text, text).map_err(|error| error.to_string())?;
        let zone = self.0.zone.as_ref().unwrap_or(zone);
        let time = if parts.offset().is_some() || parts.timestamp().is_some() {
            parts.to_timestamp()
        } else {
            // Without an hour, it is the day's beginning.
            parts.to_datetime().and_then(|local| local.to_zoned(zone.clone())).map(|zoned| zoned.timestamp())
        };
        let micros = time.map_err(|error| error.to_string())?.as_microsecond();
        When::from_micros(micros).ok_or_else(|| "it is not from 1970 to 2199".to_owned())
    }
}

impl DateFormat {
    /// The name of the zone of dates in which none is written; `None`: the source's.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.0.zone.as_ref().and_then(TimeZone::iana_name)
    }

    /// Whether a text has this form. It may be no date for all that, or one that is out of range.
    pub(crate) fn fits(&self, text: &str) -> bool {
        BrokenDownTime::parse(&self.0.text, text.trim()).is_ok()
    }
}

impl fmt::Display for DateFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

/// Reads a date: RFC 3339; without an offset (then in the zone); with a blank for the `T`; with ` UTC`, `+0000` or a
/// blank before the offset; seconds or milliseconds since 1970, as a number or a text. A fraction is cut off at
/// microseconds. The error is a part of a sentence.
pub(crate) fn read(value: &Value, zone: &TimeZone) -> Result<When, String> {
    match value {
        Value::Number(number) => since_1970(&number.to_string()).ok_or_else(|| out_of_range(&number.to_string())),
        Value::String(text) => read_text(text, zone),
        Value::Null => Err("null is no date".to_owned()),
        Value::Bool(_) => Err("true or false is no date".to_owned()),
        Value::Array(_) => Err("a list is no date".to_owned()),
        Value::Object(_) => Err("an object is no date".to_owned()),
    }
}

/// Reads a date that is a text.
pub(crate) fn read_text(text: &str, zone: &TimeZone) -> Result<When, String> {
    let text = text.trim();
    let digits = text.split('.').next().unwrap_or_default();
    if digits.len() >= FEWEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return since_1970(text).ok_or_else(|| out_of_range(text));
    }
    if text.len() > 64 {
        return Err("a text of this length is no date".to_owned());
    }
    let utc = [" UTC", " GMT", " Z"].iter().find_map(|end| text.strip_suffix(end));
    match (utc, text.rsplit_once(' ')) {
        (Some(local), _) => When::parse_in(local, &TimeZone::UTC),
        (None, Some((local, offset))) if offset.starts_with(['+', '-']) => {
            When::parse_in(&format!("{local}{offset}"), zone)
        }
        _ => When::parse_in(text, zone),
    }
    .map_err(|error| error.to_string())
}

/// Seconds or milliseconds since 1970, with a fraction or without, as decimal text.
fn since_1970(text: &str) -> Option<When> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if text.ends_with('.') || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let (unit, digits) = if whole >= MILLISECONDS_FROM { (1_000, 3) } else { (1_000_000, 6) };
    // As many digits of the fraction as the unit has microseconds, filled up with zeros.
    let micros = fraction.bytes().chain(std::iter::repeat(b'0')).take(digits);
    let micros = micros.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    whole.checked_mul(unit)?.checked_add(micros).and_then(When::from_micros)
}

/// Forms in which each text means one day only, for advice.
const FORMS: &[&str] = &[
    "%d.%m.%Y %H:%M:%S %z",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M",
    "%d %b %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Q %Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%Y%m%dT%H%M%S%z",
    "%Y%m%dT%H%M%S",
];

/// The form in which a text is a date, if it is one of those that are known by their look.
pub(crate) fn form_of(text: &str) -> Option<DateFormat> {
    static KNOWN: LazyLock<Vec<DateFormat>> =
        LazyLock::new(|| FORMS.iter().filter_map(|form| DateFormat::new(form, None).ok()).collect());
    KNOWN.iter().find(|form| form.read(text, &TimeZone::UTC).is_ok()).cloned()
}

/// Whether a text that cannot be read begins as RFC 3339 says, or is a number: then no form mends it, because it is a day
/// that does not exist, or one outside 1970 to 2199.
pub(crate) fn is_out_of_range(text: &str) -> bool {
    let text = text.trim();
    let is_number = text.len() >= FEWEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let day = text.get(..10).filter(|day| {
        let good =
            |(index, byte): (usize, u8)| if index == 4 || index == 7 { byte == b'-' } else { byte.is_ascii_digit() };
        day.bytes().enumerate().all(good)
    });
    is_number || day.is_some_and(|day| When::parse_utc(day).is_err())
}

fn out_of_range(number: &str) -> String {
    let number: String = number.chars().take(40).collect();
    format!("{number} is no number of seconds or milliseconds since 1970, up to 2199")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn utc(value: &Value) -> String {
        read(value, &TimeZone::UTC).map_or_else(|error| format!("error: {error}"), |when| when.to_string())
    }

    #[test]
    fn every_form() {
        for (value, want) in [
            (json!("2020-07-24T20:11:22"), "2020-07-24T20:11:22"),
            (json!("2020-07-24T20:11:22Z"), "2020-07-24T20:11:22"),
            (json!("2020-07-24T22:11:22+02:00"), "2020-07-24T20:11:22"),
            (json!("2020-07-24 20:11:22"), "2020-07-24T20:11:22"),
            (json!("2017-09-15 16:50:55 UTC"), "2017-09-15T16:50:55"),
            (json!("2017-09-15 18:50:55 +0200"), "2017-09-15T16:50:55"),
            (json!("2026-05-20T14:20:00.000+0000"), "2026-05-20T14:20:00"),
            (json!("2026-05-20T14:20:00.1234567-0130"), "2026-05-20T15:50:00.123456"),
            (json!(1_396_559_625), "2014-04-03T21:13:45"),
            (json!(1_396_559_625_500_i64), "2014-04-03T21:13:45.5"),
            (json!(1_396_559_625.25), "2014-04-03T21:13:45.25"),
            (json!("1396559625"), "2014-04-03T21:13:45"),
            (json!("1396559625000"), "2014-04-03T21:13:45"),
            (json!("1396559625.1234569"), "2014-04-03T21:13:45.123456"),
            (json!("1396559625500.7"), "2014-04-03T21:13:45.5007"),
            (json!(0), "1970-01-01T00:00:00"),
            (
                json!(99_999_999_999_i64),
                "error: 99999999999 is no number of seconds or milliseconds since 1970, up to 2199",
            ),
            (json!(100_000_000_000_i64), "1973-03-03T09:46:40"),
            (json!("20140403"), "2014-04-03T00:00:00"),
        ] {
            assert_eq!(utc(&value), want, "{value}");
        }
    }

    #[test]
    fn what_is_no_date() {
        for value in [
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!(""),
            json!("yesterday"),
            json!(-1),
            json!(-1.5),
            json!(1e30),
            json!(u64::MAX),
            json!("99999999999999999999999"),
            json!("1396559625."),
            json!("1.3.9.6.5.5.9.6.2.5"),
            json!("139655962.5.5"),
            json!("9999-12-31T00:00:00"),
            json!("0000-00-00 00:00:00"),
            json!("x".repeat(1000)),
        ] {
            assert!(utc(&value).starts_with("error"), "{value}");
        }
    }

    #[test]
    fn forms_that_a_source_describes() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let read = |form: &str, zone: Option<&TimeZone>, text: &str| {
            let format = DateFormat::new(form, zone.cloned()).unwrap();
            format.read(text, &TimeZone::UTC).map_or_else(|error| error, |when| when.to_string())
        };
        let full = "%d.%m.%Y %H:%M:%S %z";
        assert_eq!(read(full, None, " 26.11.2026 12:30:00 +0100 "), "2026-11-26T11:30:00");
        assert_eq!(read(full, Some(&berlin), "26.11.2026 12:30:00 -0000"), "2026-11-26T12:30:00");
        assert_eq!(read("%d.%m.%Y %H:%M", None, "26.11.2026 12:30"), "2026-11-26T12:30:00");
        assert_eq!(read("%d.%m.%Y %H:%M", Some(&berlin), "01.07.2026 12:30"), "2026-07-01T10:30:00");
        assert_eq!(read("%m/%d/%Y", None, "11/26/2026"), "2026-11-26T00:00:00");
        assert_eq!(read("%a, %d %b %Y %H:%M:%S %z", None, "Thu, 26 Nov 2026 11:30:00 +0000"), "2026-11-26T11:30:00");
        assert_eq!(read("%s", None, "1795694400"), "2026-11-26T12:00:00");
        assert_eq!(read("%d.%m.%Y", None, "2026-11-26"), "it has not the form %d.%m.%Y");
        assert_eq!(read("%d.%m.%Y", None, "31.02.2026"), "it has not the form %d.%m.%Y");
        for form in ["", "%d.%m.", "%H:%M", "%!", "2026", "%"] {
            assert!(DateFormat::new(form, None).is_err(), "{form}");
        }
    }

    #[test]
    fn a_zone_counts_where_the_text_has_none() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let read = |text: &str| read_text(text, &zone).unwrap().to_string();
        assert_eq!(read("2026-07-01 12:00:00"), "2026-07-01T10:00:00");
        assert_eq!(read("2026-07-01 12:00:00 UTC"), "2026-07-01T12:00:00");
        assert_eq!(read("2026-07-01T12:00:00Z"), "2026-07-01T12:00:00");
    }
}
