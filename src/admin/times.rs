//! Times as people write them: dates, or a distance from now such as `2h` or `90d`.

use bugfeed_protocol::When;

use super::AdminError;

/// A time in the past, for the API: `2h` is two hours ago.
pub(super) fn ago(option: &str, text: &str) -> Result<String, AdminError> {
    read(option, text, -1, crate::compose::all_in_one::this_second())
}

/// A time to come: `90d` is in 90 days.
pub(super) fn ahead(option: &str, text: &str) -> Result<String, AdminError> {
    read(option, text, 1, crate::compose::all_in_one::this_second())
}

fn read(option: &str, text: &str, sign: i64, now: When) -> Result<String, AdminError> {
    let wrong = |fix: &str| AdminError::Value(format!("--{option}: '{text}' is no time; {fix}"));
    let fix = "write a date such as 2026-11-26 or 2026-11-26T12:00:00 (UTC), or a distance from now such as 2h or 90d";
    if let Ok(when) = When::parse_utc(text) {
        return Ok(when.to_string());
    }
    let unit = match text.chars().next_back() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => return Err(wrong(fix)),
    };
    let number = text[..text.len() - 1].parse::<u32>().map_err(|_| wrong(fix))?;
    let distance_us = i64::from(number).checked_mul(sign * unit * 1_000_000);
    let when = distance_us.and_then(|us| now.as_micros().checked_add(us)).and_then(When::from_micros);
    when.map(|when| when.to_string()).ok_or_else(|| wrong("that is too far away"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_distances() {
        let now: When = "2026-11-26T12:00:00".parse().unwrap();
        let of = |text: &str, sign| read("from", text, sign, now).map_err(|error| error.to_string());
        assert_eq!(of("2h", -1).unwrap(), "2026-11-26T10:00:00");
        assert_eq!(of("1d", 1).unwrap(), "2026-11-27T12:00:00");
        assert_eq!(of("2026-01-02", 1).unwrap(), "2026-01-02T00:00:00");
        for bad in ["", "h", "2 h", "2w", "-1h", "soon", "9999999999d", "é"] {
            assert!(of(bad, -1).unwrap_err().contains("--from"), "{bad}");
        }
        assert!(of("4000000000d", -1).is_err());
    }
}
