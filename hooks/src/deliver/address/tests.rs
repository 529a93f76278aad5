//! Every spelling of a forbidden address, the edges of each network, and what is allowed.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

fn rules(allowed: &[&str]) -> Rules {
    Rules { allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(), https_only: false }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the refusal of a URL says first, or where it leads.
fn check(host: &str) -> Result<String, BadUrl> {
    rules(&[]).check(&format!("https://{host}/hook?a=b")).map(|address| address.origin().to_string())
}

#[test]
fn spellings_of_a_forbidden_address() {
    for host in [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F.1",
        "0x7f.0x0.0x0.0x1",
        "0177.0.0.1",
        "017700000001",
        "00000177.0.0.1",
        "127.0.0.1:443",
        "%31%32%37.0.0.1",
        "127。0。0。1",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::7f00:1]",
        "[::127.0.0.1]",
        "[::ffff:0:7f00:1]",
        "[::5efe:7f00:1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b:1::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2001:0:7f00:1::]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[5f00::1]",
        "[100::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "169.254.169.254",
        "0xa9.254.43518",
        "168.63.129.16",
        "255.255.255.255",
        "[::ffff:8.8.8.8]",
    ] {
        let refused = check(host).unwrap_err();
        assert!(matches!(refused, BadUrl::Forbidden(_)), "{host}: {refused}");
    }
}

#[test]
fn what_is_no_host() {
    for host in [
        "[127.0.0.1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[::1",
        "::1",
        "127.0.0.1.1",
        "256.0.0.1",
        "0x100000000",
        "4294967296",
        "1.2.3.08",
        "example.org:99999",
        "example.org:x",
        "exa%00mple.org",
        "exa%2fmple.org",
        "a<b",
        "",
        ":443",
        "%",
        "xn--a",
    ] {
        let refused = check(host).unwrap_err();
        assert!(matches!(refused, BadUrl::NoUrl(_)), "{host}: {refused}");
    }
}

#[test]
fn urls_that_are_refused_and_why() {
    for (url, want) in [
        ("https://a:b@example.org/", BadUrl::UserInfo),
        ("https://@example.org/", BadUrl::UserInfo),
        ("https://example.org@127.0.0.1/", BadUrl::UserInfo),
        ("https://example.org:80@127.0.0.1/", BadUrl::UserInfo),
        ("https://example.org\\@127.0.0.1/", BadUrl::Character),
        ("https://example.org/a b", BadUrl::Character),
        (" https://example.org/", BadUrl::Character),
        ("https://example.org/\r\nX: y", BadUrl::Character),
        ("https://exam\tple.org/", BadUrl::Character),
        ("https://exam\u{a0}ple.org/", BadUrl::Character),
        ("ftp://example.org/", BadUrl::Scheme),
        ("file:///etc/passwd", BadUrl::Scheme),
        ("https:example.org", BadUrl::Scheme),
        ("https:/example.org", BadUrl::Scheme),
        ("example.org", BadUrl::Scheme),
        ("", BadUrl::Scheme),
        ("https://example.org:0/", BadUrl::Port),
        (&format!("https://example.org/{}", "a".repeat(LONGEST_URL)), BadUrl::TooLong),
    ] {
        assert_eq!(rules(&[]).check(url).unwrap_err(), want, "{url}");
    }
    assert!(matches!(rules(&[]).check("https:///example.org"), Err(BadUrl::NoUrl(_))));
    let https_only = Rules { https_only: true, ..Rules::default() };
    assert_eq!(https_only.check("http://example.org/").unwrap_err(), BadUrl::HttpsOnly);
    assert!(https_only.check("HTTPS://example.org/").is_ok());
}

#[test]
fn urls_that_are_taken() {
    for (host, want) in [
        ("example.org", "https://example.org"),
        ("Example.ORG:443", "https://example.org"),
        ("example.org:8443", "https://example.org:8443"),
        ("example.org.", "https://example.org."),
        ("bücher.example", "https://xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("8.8.8.8", "https://8.8.8.8"),
        ("0x8.8.2056", "https://8.8.8.8"),
        ("[2606:4700:4700::1111]:444", "https://[2606:4700:4700::1111]:444"),
        ("[64:ff9b::8.8.8.8]", "https://[64:ff9b::808:808]"),
        ("1.example", "https://1.example"),
        // Judged when it is connected to.
        ("localhost", "https://localhost"),
    ] {
        assert_eq!(check(host).as_deref(), Ok(want), "{host}");
    }
    for text in ["https://example.org?to=a@b.example", "https://example.org#a@b"] {
        assert!(rules(&[]).check(text).is_ok(), "no name or password: {text}");
    }
    let address = rules(&[]).check("http://example.org/a/../b%20c?d=é#secret").unwrap();
    assert_eq!(address.target().to_string(), "/b%20c?d=%C3%A9");
}

#[test]
fn a_refusal_names_what_to_allow_and_that_allows_it() {
    for (address, option) in [
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.9.9.9", "127.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("::1", "::1/128"),
        ("fd00::5", "fd00::5/128"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1/128"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1/128"),
    ] {
        let forbidden = rules(&[]).judge(ip(address)).unwrap_err();
        assert!(forbidden.to_string().ends_with(&format!("start with --allow-network {option}")), "{forbidden}");
        assert_eq!(rules(&["192.168.0.0/16", option]).judge(ip(address)), Ok(()));
    }
    let text = rules(&[]).permits("ci.example.org", ip("10.0.0.1")).unwrap_err();
    assert!(
        text.starts_with("ci.example.org leads to 10.0.0.1: 10.0.0.1 is an address of a private network"),
        "{text}"
    );
    assert!(rules(&[]).permits("8.8.8.8", ip("8.8.8.8")).is_ok());
    // A network of IPv4 allows no other way to write its addresses.
    let loopback = rules(&["127.0.0.0/8"]);
    for address in ["::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "10.0.0.1"] {
        assert!(loopback.judge(ip(address)).is_err(), "{address}");
    }
}

#[test]
fn the_edges_of_each_network() {
    let all = rules(&[]);
    let v4 = |bits: u32| all.judge(IpAddr::V4(Ipv4Addr::from_bits(bits))).is_ok();
    for (network, prefix, what) in SPECIAL_V4 {
        let first = u32::from_be_bytes(network);
        let last = first | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        assert!(!v4(first) && !v4(last), "{network:?} {what}");
    }
    for public in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2001:200::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2001:ffff::",
        "2003::",
        "2000::",
        "3ffe:ffff::",
        "3fff:1000::",
        "2a00:1450:4001::200e",
        "3e00::",
    ] {
        assert_eq!(all.judge(ip(public)), Ok(()), "{public}");
    }
    for special in [
        // One of each network, so that none can be left out of the table unnoticed.
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "168.63.129.16",
        "169.254.1.1",
        "172.31.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.175.48.1",
        "198.19.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "239.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "2001::",
        "2001:1ff:ffff::",
        "2001:db8::",
        "2001:db8:ffff:ffff::",
        "2002::",
        "2002:ffff::",
        "3fff::",
        "3fff:fff:ffff::",
        "1fff:ffff::",
        "4000::",
        "2620:4f:8000::1",
        "64:ff9b:0:0:0:1::",
    ] {
        assert!(all.judge(ip(special)).is_err(), "{special}");
    }
}

/// Ways to write an address of IPv4 in a URL.
fn spell(address: Ipv4Addr, random: &mut StdRng) -> String {
    let parts = address.octets();
    let number = |value: u32, random: &mut StdRng| match random.random_range(0..4) {
        0 => format!("0x{value:x}"),
        1 => format!("0X{value:08X}"),
        2 => format!("0{value:o}"),
        _ => value.to_string(),
    };
    let given = random.random_range(0..4);
    let mut text = String::new();
    for part in &parts[..given] {
        text += &number(u32::from(*part), random);
        text.push('.');
    }
    let rest = parts[given..].iter().fold(0, |sum, part| sum << 8 | u32::from(*part));
    text += &number(rest, random);
    if random.random_bool(0.2) {
        text.push('.');
    }
    text
}

#[test]
fn every_spelling_is_judged_as_the_address_that_it_is() {
    let mut random = StdRng::seed_from_u64(14);
    let all = rules(&[]);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..20_000 {
        // Half of them from the networks that are not public.
        let (network, prefix, _) = SPECIAL_V4[random.random_range(0..SPECIAL_V4.len())];
        let within = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let bits: u32 = random.random();
        let bits = if random.random_bool(0.5) { u32::from_be_bytes(network) | bits & within } else { bits };
        let address = Ipv4Addr::from_bits(bits);
        let judged = all.judge(IpAddr::V4(address)).map_err(BadUrl::from);
        let text = spell(address, &mut random);
        let checked = all.check(&format!("http://{text}:8080/"));
        match &checked {
            Ok(url) => {
                assert_eq!(url.origin().host, address.to_string(), "{text}");
                taken += 1;
            }
            Err(_) => refused += 1,
        }
        assert_eq!(checked.map(|_| ()), judged, "{text} {address}");
        let nat64 = format!("http://[64:ff9b::{address}]/");
        assert_eq!(all.check(&nat64).is_ok(), judged.is_ok(), "{nat64}");
        for hiding in [format!("[::ffff:{address}]"), format!("[::{address}]"), format!("[::ffff:0:{address}]")] {
            assert!(all.check(&format!("http://{hiding}/")).is_err(), "{hiding}");
        }
    }
    assert!(refused > 5_000 && taken > 5_000, "{refused} {taken}");
}
