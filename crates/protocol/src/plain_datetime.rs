//! The form of date that almost every message has, `2014-04-03T21:13:45` with an optional fraction. It is read and
//! written without a calendar library, because a gateway does that for every change. All other forms of dates are left
//! to jiff.
//!
//! Days and dates are converted in eras of 400 years (146,097 days) that begin on 1 March, so that the leap day is the
//! last day of a year.

/// Length of the longest text, in bytes.
pub(crate) const LONGEST: usize = "2199-12-31T23:59:59.999999".len();

const DAY_US: i64 = 86_400_000_000;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAY: i64 = 719_468;
const ERA_DAYS: i64 = 146_097;

/// Microseconds since 1970 of a text in exactly this form, with up to six digits of fraction. `None` does not mean that
/// the text is wrong: it may be a date in another form.
pub(crate) fn read(text: &[u8]) -> Option<i64> {
    let (head, fraction) = text.split_at_checked(19)?;
    let number = |from: usize, to: usize| {
        head[from..to].iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    if (head[4], head[7], head[10], head[13], head[16]) != (b'-', b'-', b'T', b':', b':') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > days || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) => {
            let value = digits
                .iter()
                .try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))?;
            (digits.len()..6).fold(value, |value, _| value * 10)
        }
        _ => return None,
    };
    // Years begin in March here, so January and February belong to the year before.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let since_1970 = era * ERA_DAYS + day_of_era - EPOCH_DAY;
    Some(since_1970 * DAY_US + ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Writes a time from 1970 to 2199 as text; the fraction has no trailing zeros.
pub(crate) fn write(micros: i64, room: &mut [u8; LONGEST]) -> &str {
    let (days, of_day) = (micros.div_euclid(DAY_US) + EPOCH_DAY, micros.rem_euclid(DAY_US));
    let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (seconds, fraction) = (of_day / 1_000_000, of_day % 1_000_000);

    room.copy_from_slice(b"0000-00-00T00:00:00.000000");
    for (value, from, to) in [
        (year, 0, 4),
        (month, 5, 7),
        (day, 8, 10),
        (seconds / 3600, 11, 13),
        (seconds / 60 % 60, 14, 16),
        (seconds % 60, 17, 19),
        (fraction, 20, 26),
    ] {
        let mut left = value;
        for digit in room[from..to].iter_mut().rev() {
            *digit = b'0' + u8::try_from(left % 10).expect("a digit");
            left /= 10;
        }
    }
    let mut len = if fraction == 0 { 19 } else { LONGEST };
    while len > 19 && room[len - 1] == b'0' {
        len -= 1;
    }
    std::str::from_utf8(&room[..len]).expect("digits and signs")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::change::When;

    fn theirs(micros: i64) -> String {
        TimeZone::UTC.to_datetime(Timestamp::from_microsecond(micros).unwrap()).to_string()
    }

    fn agree(micros: i64) {
        let mut room = [0; LONGEST];
        let text = write(micros, &mut room);
        assert_eq!(text, theirs(micros));
        assert_eq!(read(text.as_bytes()), Some(micros), "{text}");
    }

    #[test]
    fn every_day_and_many_times_as_the_library_has_them() {
        for day in 0..=When::MAX.as_micros() / DAY_US {
            agree(day * DAY_US);
            agree((day + 1) * DAY_US - 1);
        }
        for step in 0..50_000 {
            let micros = step * 1_234_567_890_123 % When::MAX.as_micros();
            agree(micros);
            agree(micros - micros % 1000);
            agree(micros - micros % 1_000_000);
        }
    }

    #[test]
    fn what_is_no_date_is_left_to_the_library() {
        for text in [
            "",
            "2014-04-03",
            "2014-04-03 21:13:45",
            "2014-04-03T21:13:45Z",
            "2014-04-03T21:13:45.",
            "2014-04-03T21:13:45.1234567",
            "2014-04-03T21:13:45+02:00",
            "2014-02-29T00:00:00",
            "2100-02-29T00:00:00",
            "2014-04-31T00:00:00",
            "2014-00-01T00:00:00",
            "2014-13-01T00:00:00",
            "2014-04-00T00:00:00",
            "2014-04-03T24:00:00",
            "2014-04-03T23:60:00",
            "2014-04-03T23:59:60",
            "+014-04-03T21:13:45",
            "2014-04-03T21:13:45.1x",
            "２014-04-03T21:13:45",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read(b"2000-02-29T00:00:00.5"), Some(951_782_400_500_000));
    }
}
