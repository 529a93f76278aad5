//! Parsers for values of options that several command lines share.
//!
//! Goes in: a text. Comes out: the value, or an error that says what may be written.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use jiff::tz::TimeZone;

/// Reads an IANA zone name.
///
/// # Errors
/// Says what is allowed.
pub fn zone(text: &str) -> Result<TimeZone, String> {
    TimeZone::get(text).map_err(|_| "not a time zone; use an IANA name such as UTC or America/Los_Angeles".to_owned())
}

/// Reads `90s`, `30m`, `24h` or `7d`.
///
/// # Errors
/// Says what is allowed.
pub fn age(text: &str) -> Result<Duration, String> {
    let bad = || "use a whole number and a unit, as in 90s, 30m, 24h or 7d".to_owned();
    let unit = text.chars().next_back().ok_or_else(bad)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number = &text[..text.len() - 1];
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    // The limit of about a thousand years keeps later arithmetic from overflowing.
    total.filter(|total| *total <= 366_000 * 86_400).map(Duration::from_secs).ok_or_else(bad)
}

/// Reads where to listen: an address or the name of a host, and a port.
///
/// # Errors
/// Says what to write.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let wrong = || "write ADDRESS:PORT, such as 127.0.0.1:8844, [::1]:8844, 0.0.0.0:8844 or localhost:8844".to_owned();
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if host.is_empty() || !host.chars().all(name) {
        return Err(wrong());
    }
    let found =
        (host, port).to_socket_addrs().map_err(|error| format!("the host '{host}' is not known here: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    // An IPv4 address is preferred, because the printed and documented addresses are IPv4.
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("the host '{host}' has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen() {
        for (text, want) in [("127.0.0.1:1", "127.0.0.1:1"), ("[::1]:1", "[::1]:1"), ("localhost:1", "127.0.0.1:1")] {
            assert_eq!(listen_address(text).map(|address| address.to_string()), Ok(want.to_owned()));
        }
        for text in
            ["", "8844", ":8844", "localhost", "localhost:", "localhost:99999", "http://localhost:8844", "a b:1"]
        {
            assert!(listen_address(text).is_err_and(|error| error.contains("127.0.0.1:8844")), "{text}");
        }
        assert!(listen_address("no-such-host.invalid:1").is_err_and(|error| error.contains("no-such-host.invalid")));
    }
}
