//! The one fact that leaves the tracker: which bug changed, and when.

use std::fmt;

use jiff::{Timestamp, civil, tz};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cursor::{Cursor, Tag};
use crate::plain_datetime;

/// A bug's number: 1 to 2^63 − 1, the range of the positive `BIGINT` every database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BugId(u64);

impl BugId {
    /// The largest bug number, 2^63 − 1.
    pub const MAX: u64 = i64::MAX as u64;

    /// Checks a number's range.
    pub const fn new(number: u64) -> Option<BugId> {
        if number >= 1 && number <= BugId::MAX { Some(BugId(number)) } else { None }
    }

    /// Reads a decimal number. Blanks around it are allowed, because old clients send what their users typed.
    pub fn parse(text: &str) -> Option<BugId> {
        text.trim().parse().ok().and_then(BugId::new)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BugId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for BugId {
    type Err = BadBugId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        BugId::parse(text).ok_or_else(|| BadBugId(text.to_owned()))
    }
}

/// The text is no bug number.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a bug number; use a whole number from 1 to 9223372036854775807")]
pub struct BadBugId(String);

impl<'de> Deserialize<'de> for BugId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        BugId::new(number).ok_or_else(|| serde::de::Error::custom("bug number out of range"))
    }
}

/// An instant in UTC, to the microsecond, from 1970-01-01 to 2199-12-31.
///
/// Written as the original server wrote it: ISO 8601 without a zone, always UTC, a fraction only where there is one.
/// The range keeps out what trackers store when they mean "never" (year 0000, 1000, 9999, `infinity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct When(i64);

impl When {
    /// 1970-01-01T00:00:00.
    pub const MIN: When = When(0);
    /// 2199-12-31T23:59:59.999999.
    pub const MAX: When = When(7_258_118_399_999_999);

    /// From microseconds since 1970-01-01T00:00:00 UTC.
    pub const fn from_micros(micros: i64) -> Option<When> {
        if micros >= When::MIN.0 && micros <= When::MAX.0 { Some(When(micros)) } else { None }
    }

    /// Microseconds since 1970-01-01T00:00:00 UTC.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From a reading of the system clock; a time outside the range becomes `MIN` or `MAX`.
    pub fn from_system_time(time: std::time::SystemTime) -> When {
        let micros = time
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        When(micros.clamp(When::MIN.0, When::MAX.0))
    }

    /// Reads an instant, in UTC unless the text says otherwise. It accepts `Z` or an offset, a fraction (cut off at
    /// microseconds), a blank instead of the `T`, and a date alone (its first instant).
    pub fn parse_utc(text: &str) -> Result<When, BadWhen> {
        if let Some(when) = plain_datetime::read(text.as_bytes()).and_then(When::from_micros) {
            return Ok(when);
        }
        When::parse_in(text, &tz::TimeZone::UTC)
    }

    /// Like [`When::parse_utc`], but a text without an offset is a local time of the given zone.
    ///
    /// When clocks are set back, an hour is repeated: a time in it means the first pass. When clocks are set forward,
    /// an hour is skipped: a time in it is taken as if the clocks had not yet been changed (RFC 5545's rule). So no
    /// local time is an error because of its zone.
    pub fn parse_in(text: &str, zone: &tz::TimeZone) -> Result<When, BadWhen> {
        let text = text.trim();
        let bad = || BadWhen(text.chars().take(40).collect());
        let instant = match text.parse::<Timestamp>() {
            Ok(instant) => instant,
            Err(_) => {
                let local: civil::DateTime = text.parse().map_err(|_| bad())?;
                zone.to_timestamp(local).map_err(|_| bad())?
            }
        };
        let micros = instant.as_nanosecond().div_euclid(1_000);
        i64::try_from(micros).ok().and_then(When::from_micros).ok_or_else(bad)
    }
}

/// The text is no date, or one outside 1970 to 2199.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a date from 1970 to 2199; write it like 2014-04-03T21:13:45")]
pub struct BadWhen(String);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut room = [0; plain_datetime::LONGEST];
        f.write_str(plain_datetime::write(self.0, &mut room))
    }
}

impl std::str::FromStr for When {
    type Err = BadWhen;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        When::parse_utc(text)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        When::parse_utc(&text).map_err(serde::de::Error::custom)
    }
}

/// Bug `bug` changed at time `when`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which bug.
    pub bug: BugId,
    /// When the tracker says it changed.
    pub when: When,
}

/// A change with its number, as the ledger recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The change.
    pub change: Change,
    /// Its number: the ledger's epoch, and a sequence number without holes.
    pub cursor: Cursor,
    /// The lineage tag of the number before it, where that is another one than its own.
    pub after: Option<Tag>,
    /// When the ledger recorded it, by the shim's clock. It is never used to decide whether changes are missing.
    pub recorded: When,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_read_in_every_form_old_clients_use() {
        let want = "2014-04-03T21:13:45";
        for text in [
            want,
            "2014-04-03 21:13:45",
            "2014-04-03T21:13:45Z",
            "2014-04-03 21:13:45Z",
            "2014-04-03T21:13:45+00:00",
            "2014-04-03T14:13:45-07:00",
            "2014-04-03T14:13:45-0700",
            "2014-04-03t21:13:45z",
            " 2014-04-03T21:13:45 ",
            "2014-04-03T21:13:45.000",
            "20140403T211345",
        ] {
            assert_eq!(When::parse_utc(text).map(|w| w.to_string()), Ok(want.to_owned()), "{text}");
        }
        assert_eq!(When::parse_utc("2014-04-03").unwrap().to_string(), "2014-04-03T00:00:00");
        assert_eq!(When::parse_utc("2014-04-03T21:13").unwrap().to_string(), "2014-04-03T21:13:00");
        let fraction = When::parse_utc("2014-04-03T21:13:45.1234567Z").unwrap();
        assert_eq!(fraction.to_string(), "2014-04-03T21:13:45.123456");
        assert_eq!(When::parse_utc("2014-04-03T21:13:45.5").unwrap().to_string(), "2014-04-03T21:13:45.5");
    }

    #[test]
    fn absurd_dates_are_refused() {
        for text in [
            "",
            "yesterday",
            "0000-00-00 00:00:00",
            "1969-12-31T23:59:59",
            "2200-01-01",
            "infinity",
            "-infinity",
            "9999-12-31",
            "2014-02-30",
            "2014-04-03T25:00:00",
            "1396559625",
            "2014-04-03T21:13:45 or later",
        ] {
            assert!(When::parse_utc(text).is_err(), "{text}");
        }
        assert_eq!(When::MAX.to_string(), "2199-12-31T23:59:59.999999");
        assert_eq!(When::MIN.to_string(), "1970-01-01T00:00:00");
    }

    #[test]
    fn local_time_around_both_clock_changes() {
        let zone = tz::TimeZone::get("America/Los_Angeles").unwrap();
        let utc = |text| When::parse_in(text, &zone).unwrap().to_string();
        assert_eq!(utc("2014-03-09 01:59:59"), "2014-03-09T09:59:59");
        assert_eq!(utc("2014-03-09 02:30:00"), "2014-03-09T10:30:00", "skipped: as if not yet changed");
        assert_eq!(utc("2014-03-09 03:00:00"), "2014-03-09T10:00:00");
        assert_eq!(utc("2014-11-02 00:59:59"), "2014-11-02T07:59:59");
        assert_eq!(utc("2014-11-02 01:30:00"), "2014-11-02T08:30:00", "repeated: the first pass");
        assert_eq!(utc("2014-11-02 02:00:00"), "2014-11-02T10:00:00");
        assert_eq!(utc("2014-11-02 01:30:00+00"), "2014-11-02T01:30:00", "an offset wins over the zone");
    }

    #[test]
    fn bug_numbers() {
        for (text, want) in [
            ("1", Some(1)),
            (" 1234\t", Some(1234)),
            ("9223372036854775807", Some(BugId::MAX)),
            ("9223372036854775808", None),
            ("0", None),
            ("-1", None),
            ("1.0", None),
            ("", None),
            ("one", None),
        ] {
            assert_eq!(BugId::parse(text).map(BugId::get), want, "{text}");
        }
    }
}
