//! Whether the dates of rows fit the clock: a wrong `--timezone` makes every one of them wrong by hours.
//!
//! Goes in: dates of rows that were just read, and the time. Comes out: by how much the dates are off, once that is certain.
//! Pure.

use bugfeed_protocol::When;
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// A smaller difference is not caused by a zone, but by an inexact clock or a long transaction.
const LEAST_S: i64 = 40 * 60;
/// A larger difference is not caused by a zone: no two zones are further apart.
const MOST_S: i64 = 26 * 3600;
/// Zones differ by whole quarters of an hour.
const QUARTER_S: i64 = 15 * 60;
/// How far a difference may be from whole quarters of an hour.
const SLACK_S: i64 = 2 * 60;
/// After this many fresh rows, one after the other, that are late by the same time, long transactions are not the cause.
const FRESH: u32 = 5;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Dates {
    /// By how many seconds the last fresh rows are late, and how many they are.
    late: Option<(i64, u32)>,
    said: bool,
}

impl Dates {
    /// By how many seconds the dates are off; a positive number means ahead of the clock. Returned only once, when it is
    /// certain: after one date that is hours ahead, or after several `fresh` rows that are late by the same time. (A row
    /// that is not fresh may be late because it waited in the table.)
    pub(super) fn note(&mut self, now: When, dates: impl IntoIterator<Item = When>, fresh: bool) -> Option<i64> {
        if self.said {
            return None;
        }
        for when in dates {
            let ahead_s = (when.as_micros() - now.as_micros()).div_euclid(1_000_000);
            let off_s = (ahead_s + QUARTER_S / 2).div_euclid(QUARTER_S) * QUARTER_S;
            let is_zone = (ahead_s - off_s).abs() <= SLACK_S && (LEAST_S..=MOST_S).contains(&off_s.abs());
            if is_zone && off_s > 0 {
                self.said = true;
                return Some(off_s);
            }
            if !fresh {
                continue;
            }
            let before = self.late.filter(|(same, _)| is_zone && *same == off_s).map_or(0, |(_, count)| count);
            self.late = is_zone.then_some((off_s, before + 1));
            if before + 1 >= FRESH && is_zone {
                self.said = true;
                return Some(off_s);
            }
        }
        None
    }
}

/// What to give as `--timezone` if the tracker's clock is this many seconds ahead of UTC, in words.
pub(super) fn zone_hint(ahead_s: i64) -> String {
    let now = Timestamp::now();
    let offset = i32::try_from(ahead_s).ok().and_then(|s| Offset::from_seconds(s).ok());
    if ahead_s == 0 {
        return "UTC".to_owned();
    }
    let own = TimeZone::system();
    if let (Some(name), true) = (own.iana_name(), offset == Some(own.to_offset(now))) {
        return format!("{name} (this machine's own)");
    }
    let sign = if ahead_s < 0 { '-' } else { '+' };
    let (hours, minutes) = (ahead_s.abs() / 3600, ahead_s.abs() / 60 % 60);
    let named = format!("the tracker's IANA zone, where it is UTC{sign}{hours:02}:{minutes:02} now");
    if minutes != 0 || hours > 12 {
        return named;
    }
    // The sign in these names is reversed: Etc/GMT+5 is five hours behind UTC.
    let other = if ahead_s < 0 { '+' } else { '-' };
    format!("{named}, such as Europe/Berlin or America/New_York; Etc/GMT{other}{hours} where clocks never change")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> When {
        When::from_micros((1_396_559_625 + seconds) * 1_000_000).unwrap()
    }

    #[test]
    fn dates_that_do_not_fit_the_clock() {
        let check = |batches: &[(&[i64], bool)], want: Option<i64>| {
            let mut dates = Dates::default();
            let said: Vec<i64> = batches
                .iter()
                .filter_map(|(batch, fresh)| dates.note(at(0), batch.iter().map(|s| at(*s)), *fresh))
                .collect();
            assert_eq!(said, want.into_iter().collect::<Vec<_>>(), "{batches:?}");
        };
        const H: i64 = 3600;
        check(&[(&[0, -1, 5, 60], true)], None);
        check(&[(&[2 * H - 1], false), (&[2 * H - 1], false)], Some(2 * H));
        check(&[(&[5 * H + 1800 - 3], true)], Some(5 * H + 1800));
        check(&[(&[30 * 24 * H], true), (&[H + 400], true)], None);
        // Old rows prove nothing. Fresh rows do, if all of them are late by the same time.
        check(&[(&[-2 * H; 100], false)], None);
        check(&[(&[-2 * H - 1; 4], true)], None);
        check(&[(&[-2 * H - 1; 4], true), (&[-2 * H - 3], true)], Some(-2 * H));
        check(&[(&[-2 * H, -2 * H, -2 * H, 0, -2 * H, -2 * H], true)], None);
        check(&[(&[-2 * H, -3 * H, -2 * H, -3 * H, -2 * H], true)], None);
    }

    #[test]
    fn a_zone_is_named_as_the_option_takes_it() {
        assert_eq!(zone_hint(0), "UTC");
        for (ahead_s, want) in [(7200, "UTC+02:00"), (7200, "Etc/GMT-2"), (-18_000, "Etc/GMT+5"), (19_800, "UTC+05:30")]
        {
            let hint = zone_hint(ahead_s);
            assert!(hint.contains(want) || hint.contains("this machine's own"), "{hint}");
        }
        assert!(TimeZone::get("Etc/GMT-2").unwrap().to_offset(Timestamp::now()).seconds() == 7200);
    }
}
