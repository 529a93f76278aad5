//! What proxies say in the headers of a request about whose request it is: `X-Forwarded-For`, and `Forwarded` (RFC 7239).
//!
//! Goes in: the lines of the two headers of a request that came from a proxy, and which addresses are proxies. Comes out: the
//! client. Each proxy adds an address at the right end. So the list is read from there, and the first address that is no
//! proxy's is the client's: what stands further left is what that client says of itself, and is not looked at.
//!
//! **Two headers.** Most proxies write one of the two, and hand the other on as the client has sent it. A client can therefore
//! forge the other one. Where both are there and do not say the same, nobody can tell which is the proxy's, unless the
//! operator has said it ([`Trusted`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// At most so many proxies are followed.
const MOST_HOPS: usize = 32;

/// Which header the proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trusted {
    /// Either. If both are there, they have to say the same.
    #[default]
    Either,
    /// `X-Forwarded-For`; the other is not looked at.
    XForwardedFor,
    /// `Forwarded`; the other is not looked at.
    Forwarded,
}

/// What became of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The client's address, IPv4 as such.
    Client(IpAddr),
    /// The proxy does not tell: `unknown`, or a name that stands for somebody (`_x`).
    Hidden,
    /// There is no such header.
    Nothing,
    /// It cannot be read, or the two headers differ.
    Unclear,
}

/// Finds the client of a request that came from a proxy. The lines of a header are given in their order; `is_proxy` says which
/// addresses belong to proxies that are believed.
pub fn client<'a>(
    x_forwarded_for: impl DoubleEndedIterator<Item = &'a [u8]>,
    forwarded: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: Trusted,
    is_proxy: impl Fn(IpAddr) -> bool,
) -> Found {
    let by_list = || walk(x_forwarded_for.rev().map(list), &is_proxy);
    let by_standard = || walk(forwarded.rev().map(elements), &is_proxy);
    match trusted {
        Trusted::XForwardedFor => by_list(),
        Trusted::Forwarded => by_standard(),
        Trusted::Either => match (by_list(), by_standard()) {
            (Found::Nothing, other) | (other, Found::Nothing) => other,
            (one, other) if one == other => one,
            _ => Found::Unclear,
        },
    }
}

/// What one proxy says of who asked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Address(IpAddr),
    Hidden,
    Bad,
}

/// Goes from proxy to proxy, beginning with the nearest. `lines` are the lines from the last to the first; each is a list of
/// nodes in their order.
fn walk(lines: impl Iterator<Item = Vec<Node>>, is_proxy: impl Fn(IpAddr) -> bool) -> Found {
    let mut last = Found::Nothing;
    for (hops, node) in lines.flat_map(|nodes| nodes.into_iter().rev()).enumerate() {
        match node {
            Node::Address(_) if hops >= MOST_HOPS => return Found::Unclear,
            Node::Address(address) if is_proxy(address) => last = Found::Client(address),
            Node::Address(address) => return Found::Client(address),
            Node::Hidden => return Found::Hidden,
            Node::Bad => return Found::Unclear,
        }
    }
    // All of them are proxies. The farthest one is the nearest to a client that is known.
    last
}

/// A line of `X-Forwarded-For`. Empty places are none (RFC 9110 §5.6.1).
fn list(line: &[u8]) -> Vec<Node> {
    let Ok(line) = std::str::from_utf8(line) else { return vec![Node::Bad] };
    line.split(',').map(str::trim).filter(|text| !text.is_empty()).map(node).collect()
}

/// A node: an address, perhaps with a port; `unknown`; or a name that stands for somebody.
fn node(text: &str) -> Node {
    if text.eq_ignore_ascii_case("unknown") || text.to_ascii_lowercase().starts_with("unknown:") {
        return Node::Hidden;
    }
    if text.starts_with('_') {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        return if text.bytes().all(plain) { Node::Hidden } else { Node::Bad };
    }
    match address(text) {
        Some(address) => Node::Address(address.to_canonical()),
        None => Node::Bad,
    }
}

fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Some(inside) = text.strip_prefix('[') {
        let (address, port) = inside.split_once(']')?;
        (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(())?;
        return address.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let (address, port) = text.split_once(':')?;
    is_port(port).then(|| address.parse::<Ipv4Addr>().ok().map(IpAddr::V4))?
}

/// A number, or a name that stands for one.
fn is_port(text: &str) -> bool {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        || text.len() > 1
            && text.starts_with('_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// A line of `Forwarded`: the node of each element. An element without `for` does not tell. If the line cannot be read, all of it
/// is one bad node: a client may have begun a quoted text in which the proxy's own element has disappeared.
fn elements(line: &[u8]) -> Vec<Node> {
    let read = || -> Option<Vec<Node>> {
        let line = std::str::from_utf8(line).ok()?;
        let (mut nodes, mut rest) = (Vec::new(), line);
        while !rest.trim_start_matches([' ', '\t', ',']).is_empty() {
            let (node, after) = element(rest.trim_start_matches([' ', '\t', ',']))?;
            nodes.push(node);
            rest = after;
        }
        Some(nodes)
    };
    read().unwrap_or_else(|| vec![Node::Bad])
}

/// One element, which is pairs with semicolons between them; and what follows its comma.
fn element(mut rest: &str) -> Option<(Node, &str)> {
    let mut found = None;
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        let is_token =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        let (value, after) = is_token.then(|| value(after))??;
        if name.eq_ignore_ascii_case("for") && found.replace(node(&value)).is_some() {
            return None;
        }
        let after = after.trim_start_matches([' ', '\t']);
        let found = found.unwrap_or(Node::Hidden);
        match after.as_bytes().first() {
            None => return Some((found, "")),
            Some(b',') => return Some((found, &after[1..])),
            Some(b';') if after[1..].trim_start().is_empty() => return Some((found, "")),
            Some(b';') => rest = &after[1..],
            Some(_) => return None,
        }
    }
}

/// A value, and what follows it. Without quotes it may have characters that need them: some proxies forget the quotes.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t', '"']).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return (!value.is_empty() && !after.starts_with('"')).then(|| (value.to_owned(), after));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices());
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// 10.0.0.0/8 and fd00::/8 are the proxies.
    fn is_proxy(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => v4.octets()[0] == 10,
            IpAddr::V6(v6) => v6.octets()[0] == 0xfd,
        }
    }

    fn ask(list: &[&str], standard: &[&str], trusted: Trusted) -> Found {
        fn lines<'a>(lines: &'a [&str]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
            lines.iter().map(|line| line.as_bytes())
        }
        client(lines(list), lines(standard), trusted, is_proxy)
    }

    fn found(text: &str) -> Found {
        match text {
            "hidden" => Found::Hidden,
            "nothing" => Found::Nothing,
            "unclear" => Found::Unclear,
            address => Found::Client(address.parse().unwrap()),
        }
    }

    #[test]
    fn the_first_address_from_the_right_that_is_no_proxy() {
        for (lines, want) in [
            (&[][..], "nothing"),
            (&[""], "nothing"),
            (&[" , ,"], "nothing"),
            (&["192.0.2.1"], "192.0.2.1"),
            (&["203.0.113.9, 192.0.2.1"], "192.0.2.1"),
            (&["203.0.113.9", "192.0.2.1"], "192.0.2.1"),
            (&["203.0.113.9", "192.0.2.1, 10.0.0.2", "10.0.0.1"], "192.0.2.1"),
            (&["rubbish, \"x, 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1:8080"], "192.0.2.1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["[2001:db8::1]:80, fd00::1"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["10.0.0.2, 10.0.0.1"], "10.0.0.2"),
            (&["203.0.113.9, unknown"], "hidden"),
            (&["203.0.113.9, _proxy, 10.0.0.1"], "hidden"),
            (&["203.0.113.9, rubbish"], "unclear"),
            (&["203.0.113.9, 192.0.2.1:x"], "unclear"),
            (&["203.0.113.9, 192.0.2.300"], "unclear"),
            (&["fe80::1%eth0"], "unclear"),
            (&["[2001:db8::1"], "unclear"),
        ] {
            assert_eq!(ask(lines, &[], Trusted::Either), found(want), "{lines:?}");
            assert_eq!(ask(lines, &["for=203.0.113.1"], Trusted::XForwardedFor), found(want), "{lines:?}");
            assert_eq!(ask(lines, &[], Trusted::Forwarded), Found::Nothing);
        }
        let long = vec!["10.0.0.1"; 40].join(", ");
        assert_eq!(ask(&[&format!("192.0.2.1, {long}")], &[], Trusted::Either), Found::Unclear);
    }

    #[test]
    fn elements_of_forwarded() {
        for (lines, want) in [
            (&[][..], "nothing"),
            (&["for=192.0.2.1"], "192.0.2.1"),
            (&["For=\"192.0.2.1:8080\";proto=https;by=10.0.0.1"], "192.0.2.1"),
            (&["for=203.0.113.9, for=192.0.2.1;by=_x , for=10.0.0.2"], "192.0.2.1"),
            (&["for=203.0.113.9", "for=192.0.2.1"], "192.0.2.1"),
            (&["for=\"[2001:db8::1]:_port\""], "2001:db8::1"),
            (&["for=\"\\[2001:db8::1\\]\""], "2001:db8::1"),
            // Some forget the quotes.
            (&["for=[2001:db8::1]"], "2001:db8::1"),
            (&["host=\"a, b; for=203.0.113.9\";for=192.0.2.1"], "192.0.2.1"),
            (&["by=10.0.0.1; for=192.0.2.1;"], "192.0.2.1"),
            (&["for=203.0.113.9, for=unknown"], "hidden"),
            (&["for=203.0.113.9, for=_SEVKISEK, for=10.0.0.1"], "hidden"),
            (&["for=203.0.113.9, proto=https"], "hidden"),
            (&["for=\"_x:_y\""], "hidden"),
            (&["for=203.0.113.9, for=rubbish"], "unclear"),
            (&["for=192.0.2.1;for=192.0.2.2"], "unclear"),
            (&["for"], "unclear"),
            (&["for="], "unclear"),
            (&["=x"], "unclear"),
            (&["for=\"192.0.2.1"], "unclear"),
            (&["for=\"192.0.2.1\"x"], "unclear"),
            // A client that begins a quoted text does not make the proxy's element disappear unnoticed.
            (&["for=203.0.113.9, x=\", for=192.0.2.1"], "unclear"),
            (&["for=203.0.113.9, x=\", for=\"[2001:db8::1]\""], "unclear"),
            (&["for=\"203.0.113.9\\\", for=192.0.2.1"], "unclear"),
            // In a line of its own it does not even do that.
            (&["for=\"203.0.113.9", "for=192.0.2.1"], "192.0.2.1"),
        ] {
            assert_eq!(ask(&[], lines, Trusted::Either), found(want), "{lines:?}");
            assert_eq!(ask(&["203.0.113.1"], lines, Trusted::Forwarded), found(want), "{lines:?}");
        }
    }

    #[test]
    fn two_headers_have_to_say_the_same_or_one_is_named() {
        for (list, standard, want) in [
            ("192.0.2.1", "for=192.0.2.1", "192.0.2.1"),
            ("203.0.113.9, 192.0.2.1", "for=192.0.2.1, for=10.0.0.1", "192.0.2.1"),
            ("unknown", "for=_x", "hidden"),
            ("192.0.2.1", "for=203.0.113.9", "unclear"),
            ("203.0.113.9", "for=192.0.2.1", "unclear"),
            ("192.0.2.1", "for=unknown", "unclear"),
            ("192.0.2.1", "for=\"", "unclear"),
        ] {
            assert_eq!(ask(&[list], &[standard], Trusted::Either), found(want), "{list} {standard}");
        }
    }

    #[test]
    fn any_bytes_have_an_answer() {
        let mut random = SmallRng::seed_from_u64(1);
        let pieces =
            ["for=", "\"", "\\", ",", ";", "192.0.2.1", "[::1]", "_x", "unknown", " ", "=", "by", ":", "é", "10.0.0.1"];
        for _ in 0..10_000 {
            let text: String =
                (0..random.random_range(0..12)).map(|_| pieces[random.random_range(0..pieces.len())]).collect();
            for trusted in [Trusted::Either, Trusted::XForwardedFor, Trusted::Forwarded] {
                let _ = ask(&[&text], &[&text], trusted);
            }
            let bytes: Vec<u8> =
                text.bytes().map(|byte| if random.random_bool(0.05) { random.random() } else { byte }).collect();
            let _ = client([&bytes[..]].into_iter(), [&bytes[..]].into_iter(), Trusted::Either, is_proxy);
        }
    }
}
