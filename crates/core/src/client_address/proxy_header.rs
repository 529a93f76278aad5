//! The header of HAProxy's PROXY protocol, versions 1 and 2, with which a proxy begins a connection that it forwards.
//!
//! Goes in: the first bytes of a connection. Comes out: whose connection it is, or how many bytes of the header are missing, so
//! that nothing after it is read. What is no such header is refused as soon as that can be seen.
//!
//! Version 1 is one line of at most 107 bytes. Version 2 has a length; more than [`MOST`] bytes of addresses and extensions
//! (TLVs) are refused. Extensions are skipped, and their checksum is not looked at: whoever may send this header may say
//! what it likes anyway.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// So many bytes of addresses and extensions may a header of version 2 have. HAProxy's own extensions, with the name of a
/// client's certificate among them, need a few hundred.
pub const MOST: usize = 2048;

/// A header of version 1 has at most so many bytes, with the end of its line.
const LINE: usize = 107;

/// What a header of version 1 begins with.
const WORD: &[u8] = b"PROXY ";

/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of a header of version 2 before the addresses.
const FIXED: usize = 16;

/// The shortest header: `PROXY UNKNOWN` and the end of the line.
const SHORTEST: usize = 15;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The proxy's own: it looks whether somebody is here (LOCAL).
    Proxy,
    /// The proxy does not say, or it is no address of IP.
    Unknown,
    /// This one's.
    Client(SocketAddr),
}

/// How far a header is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// At least so many bytes of it are missing; never 0.
    Missing(usize),
    /// It is complete.
    Complete(Source),
}

/// Why something is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// It begins with other bytes.
    Absent,
    /// It is longer than a header may be.
    TooLong,
    /// Version 1: the line does not name a protocol, two addresses of it and two ports.
    Line,
    /// Version 2: a version, a command or a family that does not exist.
    Kind,
    /// Version 2: too short for the addresses that it says it has.
    Short,
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadHeader::Absent => "the connection does not begin with a PROXY header",
            BadHeader::TooLong => "the PROXY header is too long",
            BadHeader::Line => "the line of the PROXY header cannot be read",
            BadHeader::Kind => "the PROXY header has an unknown version, command or family",
            BadHeader::Short => "the PROXY header is too short for its addresses",
        })
    }
}

/// Reads the header of which these are the first bytes. The caller adds bytes until it is complete, and never more than are
/// [missing](Progress::Missing).
///
/// # Errors
/// If these bytes begin no header.
pub fn read(bytes: &[u8]) -> Result<Progress, BadHeader> {
    if begins(bytes, SIGNATURE) {
        return version_2(bytes);
    }
    if begins(bytes, WORD) { version_1(bytes) } else { Err(BadHeader::Absent) }
}

/// Whether the two agree as far as both go.
fn begins(bytes: &[u8], with: &[u8]) -> bool {
    bytes.iter().zip(with).all(|(a, b)| a == b)
}

fn version_1(bytes: &[u8]) -> Result<Progress, BadHeader> {
    if bytes.len() < SHORTEST && !bytes.contains(&b'\n') {
        return Ok(Progress::Missing(SHORTEST - bytes.len()));
    }
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        if bytes.contains(&b'\n') {
            return Err(BadHeader::Line);
        }
        // The end of the line, or its second byte.
        let missing = if bytes.ends_with(b"\r") { 1 } else { 2 };
        return if bytes.len() + missing > LINE { Err(BadHeader::TooLong) } else { Ok(Progress::Missing(missing)) };
    };
    if line.contains(&b'\n') {
        return Err(BadHeader::Line);
    }
    let line = std::str::from_utf8(line).map_err(|_| BadHeader::Line)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(Progress::Complete(Source::Unknown));
    }
    let [Some(source), Some(destination), Some(port), Some(other), None] = [(); 5].map(|()| words.next()) else {
        return Err(BadHeader::Line);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse().ok().map(IpAddr::V4),
            Some("TCP6") => text.parse().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let complete = || {
        let source = SocketAddr::new(address(source)?, number(port)?);
        address(destination).zip(number(other)).map(|_| Progress::Complete(Source::Client(source)))
    };
    complete().ok_or(BadHeader::Line)
}

/// A port in decimal, without a sign and without zeros before it.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok())?
}

fn version_2(bytes: &[u8]) -> Result<Progress, BadHeader> {
    let &[kind, family, high, low] = match bytes.get(SIGNATURE.len()..FIXED).and_then(|rest| rest.try_into().ok()) {
        Some(fixed) => fixed,
        // The shortest header of version 1 is shorter, and until the sixth byte it may be one.
        None => return Ok(Progress::Missing(if bytes.is_empty() { SHORTEST } else { FIXED - bytes.len() })),
    };
    // Version 2, and the command in the other half.
    let is_local = match kind {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader::Kind),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(BadHeader::TooLong);
    }
    // The addresses of the family have so many bytes.
    let needed = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        // The proxy's own connection is taken whatever it says of its family.
        _ if is_local => 0,
        _ => return Err(BadHeader::Kind),
    };
    if length < needed && !is_local {
        return Err(BadHeader::Short);
    }
    match (FIXED + length).checked_sub(bytes.len()) {
        Some(0) => {}
        Some(missing) => return Ok(Progress::Missing(missing)),
        None => return Err(BadHeader::TooLong),
    }
    let body = &bytes[FIXED..];
    let source = match family {
        _ if is_local => Some(Source::Proxy),
        0x11 => v4(body).map(Source::Client),
        0x21 => v6(body).map(Source::Client),
        // A stream cannot come from a datagram or from a file, and who is behind it does not become clear.
        _ => Some(Source::Unknown),
    };
    source.map(Progress::Complete).ok_or(BadHeader::Short)
}

/// Source, destination, and their ports.
fn v4(body: &[u8]) -> Option<SocketAddr> {
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(body.get(..4)?).ok()?);
    Some(SocketAddr::new(address.into(), port(body.get(8..10)?)?))
}

fn v6(body: &[u8]) -> Option<SocketAddr> {
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(body.get(..16)?).ok()?);
    Some(SocketAddr::new(address.into(), port(body.get(32..34)?)?))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// Reads a header as a caller does, so many bytes at most at a time. Returns how many bytes were read.
    fn feed(bytes: &[u8], most: usize) -> (usize, Result<Progress, BadHeader>) {
        let mut read_so_far = 0;
        loop {
            match read(&bytes[..read_so_far]) {
                Ok(Progress::Missing(missing)) => {
                    assert!(missing > 0 && read_so_far + missing <= FIXED + MOST);
                    let next = read_so_far + missing.min(most);
                    if next > bytes.len() {
                        return (read_so_far, Ok(Progress::Missing(missing)));
                    }
                    read_so_far = next;
                }
                done => return (read_so_far, done),
            }
        }
    }

    fn second(kind: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[kind, family], &length, body].concat()
    }

    fn client(address: &str) -> Result<Progress, BadHeader> {
        Ok(Progress::Complete(Source::Client(address.parse().unwrap())))
    }

    #[test]
    fn headers_are_read_to_their_last_byte_however_they_arrive() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&[0, 7]);
        let with_extensions = [&v4[..], &[4, 0, 1, 9], &[0xee; MOST - 16]].concat();
        let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(longest.len(), 104);
        for (bytes, want) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\n".to_vec(), client("192.0.2.1:8080")),
            (b"PROXY TCP6 2001:db8::1 ::1 7 0\r\n".to_vec(), client("[2001:db8::1]:7")),
            (longest.into_bytes(), client("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Ok(Progress::Complete(Source::Unknown))),
            (format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).into_bytes(), Ok(Progress::Complete(Source::Unknown))),
            (second(0x21, 0x11, &v4), client("192.0.2.1:8080")),
            (second(0x21, 0x21, &v6), client("[2001:db8::1]:7")),
            (second(0x21, 0x11, &with_extensions), client("192.0.2.1:8080")),
            (second(0x20, 0x00, &[]), Ok(Progress::Complete(Source::Proxy))),
            (second(0x20, 0x11, &v4), Ok(Progress::Complete(Source::Proxy))),
            (second(0x20, 0x55, &[1, 2, 3]), Ok(Progress::Complete(Source::Proxy))),
            (second(0x21, 0x00, &[1, 2, 3]), Ok(Progress::Complete(Source::Unknown))),
            (second(0x21, 0x12, &v4), Ok(Progress::Complete(Source::Unknown))),
            (second(0x21, 0x31, &[b'/'; 216]), Ok(Progress::Complete(Source::Unknown))),
        ] {
            let request = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            for most in [1, 2, 7, 4096] {
                assert_eq!(feed(&request, most), (bytes.len(), want), "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_can_be_seen() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        for (bytes, want) in [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), BadHeader::Absent),
            (b"proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Absent),
            (b"PROXYTCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Absent),
            (b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec(), BadHeader::Absent),
            (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\0\0\0\0\0".to_vec(), BadHeader::Absent),
            (too_long.into_bytes(), BadHeader::TooLong),
            ([b"PROXY TCP4 ", &[b'1'; 4000][..]].concat(), BadHeader::TooLong),
            (b"PROXY \r\n         ".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 01 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP6 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY TCP4 192.0.2.1 nowhere 1 2\r\n".to_vec(), BadHeader::Line),
            (b"PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), BadHeader::Line),
            (second(0x11, 0x11, &[0; 12]), BadHeader::Kind),
            (second(0x22, 0x11, &[0; 12]), BadHeader::Kind),
            (second(0x21, 0x13, &[0; 12]), BadHeader::Kind),
            (second(0x21, 0x41, &[0; 12]), BadHeader::Kind),
            (second(0x21, 0x11, &[0; 11]), BadHeader::Short),
            (second(0x21, 0x21, &[0; 35]), BadHeader::Short),
            (second(0x21, 0x31, &[0; 215]), BadHeader::Short),
            (second(0x21, 0x11, &[0; MOST + 1]), BadHeader::TooLong),
        ] {
            for most in [1, 4096] {
                let (_, got) = feed(&[&bytes[..], &[b'x'; 20]].concat(), most);
                assert_eq!(got, Err(want), "{:?}", String::from_utf8_lossy(&bytes));
            }
        }
    }

    /// Whatever comes, there is an answer, and never more is asked for than a header may have.
    #[test]
    fn any_bytes_have_an_answer() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..20_000 {
            let mut bytes = match random.random_range(0..3) {
                0 => b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 80\r\n".to_vec(),
                1 => b"PROXY TCP6 ::1 ::1 1 2\r\n".to_vec(),
                _ => second(0x21, 0x11, &[9; 20]),
            };
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            let most = random.random_range(1..20);
            assert!(feed(&bytes, most).0 <= bytes.len());
            // A caller that asks for more than was missing gets an answer too.
            let _ = read(&bytes);
        }
    }
}
