//! Where an endpoint's requests may go.
//!
//! Goes in: the URL of an endpoint, and each address that a name turns out to have. Comes out: yes, or a refusal that names
//! the option that would allow it. What is not public is denied (IANA's registries of special-purpose addresses), unless the
//! operator allows the network. URLs are read as browsers read them, so that each spelling of an address is seen as that
//! address. It never looks a name up: names are judged when they are connected to, as [`AddressRule`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use super::network::Network;
use crate::client::{Address, AddressRule};

/// The longest URL, in bytes.
pub const LONGEST_URL: usize = 2_048;

/// What the operator allows.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// These networks are allowed besides what is public (`--allow-network`).
    pub allowed: Vec<Network>,
    /// `http://` is refused (`--https-only`).
    pub https_only: bool,
}

/// An address that requests may not go to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {what}, where endpoints may not be; to allow it, start with --allow-network {allow}")]
pub struct Forbidden {
    /// The address.
    pub address: IpAddr,
    /// What it is.
    pub what: &'static str,
    /// The network that `--allow-network` would have to name.
    pub allow: Network,
}

/// Why a text is no URL for an endpoint. No message repeats the URL, which may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// It cannot be understood.
    #[error("this is no URL ({0}); one looks like https://example.org/hook")]
    NoUrl(String),
    /// It is longer than [`LONGEST_URL`].
    #[error("the URL is longer than {LONGEST_URL} bytes")]
    TooLong,
    /// Blanks, control characters and backslashes are read differently by different programs.
    #[error("the URL holds a blank, a control character or a backslash; write them as %20 and so on")]
    Character,
    /// Another scheme.
    #[error("a URL begins with https:// or http://")]
    Scheme,
    /// `http://` under `--https-only`.
    #[error("the URL must begin with https://, because --https-only is set")]
    HttpsOnly,
    /// A name or password.
    #[error("the URL holds a name or password; send it as a header, for example Authorization")]
    UserInfo,
    /// Port 0.
    #[error("port 0 cannot be connected to")]
    Port,
    /// The host is an address that is not allowed.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
}

impl Rules {
    /// Reads the URL of an endpoint. A name in it is not looked up; an address in it is judged. A fragment is left out.
    ///
    /// # Errors
    /// If it is no URL to which requests may go.
    pub fn check(&self, text: &str) -> Result<Address, BadUrl> {
        if text.len() > LONGEST_URL {
            return Err(BadUrl::TooLong);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(BadUrl::Character);
        }
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl::Scheme)?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return Err(BadUrl::Scheme);
        }
        if self.https_only && !is_https {
            return Err(BadUrl::HttpsOnly);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(BadUrl::NoUrl("it has no host".to_owned()));
        }
        if authority.contains('@') {
            return Err(BadUrl::UserInfo);
        }
        let url = Url::parse(text).map_err(|error| BadUrl::NoUrl(error.to_string()))?;
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => return Err(BadUrl::NoUrl("it has no host".to_owned())),
        };
        if url.port() == Some(0) {
            return Err(BadUrl::Port);
        }
        let address = Address::parse(url.as_str()).map_err(|error| BadUrl::NoUrl(error.to_string()))?;
        // What was judged must be what is connected to.
        let host = address.origin().host.as_str();
        let is_same = match literal {
            Some(literal) => host.parse() == Ok(literal),
            None => url.host_str() == Some(host) && host.parse::<IpAddr>().is_err(),
        };
        if !is_same {
            return Err(BadUrl::NoUrl("the host can be read in two ways".to_owned()));
        }
        if let Some(literal) = literal {
            self.judge(literal)?;
        }
        Ok(address)
    }

    /// Whether requests may go to this address.
    ///
    /// # Errors
    /// If it is not public and no network allows it.
    pub fn judge(&self, address: IpAddr) -> Result<(), Forbidden> {
        if self.allowed.iter().any(|network| network.contains(address)) {
            return Ok(());
        }
        let what = match address {
            IpAddr::V4(address) => special_v4(address),
            IpAddr::V6(address) => special_v6(address),
        };
        what.map_or(Ok(()), |what| Err(Forbidden { address, what, allow: to_allow(address) }))
    }
}

impl AddressRule for Rules {
    fn permits(&self, host: &str, address: IpAddr) -> Result<(), String> {
        self.judge(address).map_err(|forbidden| match host.parse::<IpAddr>() {
            Ok(_) => forbidden.to_string(),
            Err(_) => format!("{host} leads to {address}: {forbidden}"),
        })
    }
}

/// The least network that allows this address: all of this machine, or the address alone.
fn to_allow(address: IpAddr) -> Network {
    match address {
        IpAddr::V4(v4) if v4.is_loopback() => Network::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        _ => Network::new(address, if address.is_ipv4() { 32 } else { 128 }),
    }
    .expect("the prefix is no longer than the address, and no bit follows it")
}

const PRIVATE: &str = "an address of a private network";
const EXAMPLE: &str = "an address for documentation";
const RELAY: &str = "an address of a relay or sink of Internet services";

/// Networks of IPv4 that are not public: address, length of the prefix, what it is.
#[rustfmt::skip]
const SPECIAL_V4: [([u8; 4], u8, &str); 20] = [
    ([0, 0, 0, 0], 8, "an address of this host on this network"),
    ([10, 0, 0, 0], 8, PRIVATE),
    ([100, 64, 0, 0], 10, "an address between a provider and its customers (carrier-grade NAT)"),
    ([127, 0, 0, 0], 8, "an address of this machine"),
    // Public by its number, but Azure answers it within each of its machines.
    ([168, 63, 129, 16], 32, "the address of Azure's wire server"),
    ([169, 254, 0, 0], 16, "a link-local address (where clouds keep their metadata)"),
    ([172, 16, 0, 0], 12, PRIVATE),
    ([192, 0, 0, 0], 24, "an address for protocols"),
    ([192, 0, 2, 0], 24, EXAMPLE),
    ([192, 31, 196, 0], 24, RELAY),
    ([192, 52, 193, 0], 24, RELAY),
    ([192, 88, 99, 0], 24, RELAY),
    ([192, 168, 0, 0], 16, PRIVATE),
    ([192, 175, 48, 0], 24, RELAY),
    ([198, 18, 0, 0], 15, "an address for benchmarks"),
    ([198, 51, 100, 0], 24, EXAMPLE),
    ([203, 0, 113, 0], 24, EXAMPLE),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([255, 255, 255, 255], 32, "the broadcast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

/// Networks within 2000::/3 that are not public.
#[rustfmt::skip]
const SPECIAL_V6: [([u16; 4], u8, &str); 5] = [
    ([0x2001, 0, 0, 0], 23, "an address for protocols (Teredo, benchmarks, ORCHID)"),
    ([0x2001, 0xdb8, 0, 0], 32, EXAMPLE),
    ([0x2002, 0, 0, 0], 16, "an address of IPv4 within IPv6 (6to4)"),
    ([0x2620, 0x4f, 0x8000, 0], 48, RELAY),
    ([0x3fff, 0, 0, 0], 20, EXAMPLE),
];

/// What this address is, unless it is public.
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = address.to_bits();
    let is_in = |network: [u8; 4], prefix: u8| (bits ^ u32::from_be_bytes(network)) >> (32 - u32::from(prefix)) == 0;
    SPECIAL_V4.iter().find(|(network, prefix, _)| is_in(*network, *prefix)).map(|(_, _, what)| *what)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    // In networks without IPv4, all servers of IPv4 have such addresses (NAT64), so the address within decides.
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b, c, d] = address.octets();
        return special_v4(Ipv4Addr::new(a, b, c, d))
            .map(|_| "an address of IPv4 within IPv6 (NAT64) that is not public");
    }
    if segments[0] & 0xe000 != 0x2000 {
        return Some(match segments {
            [0, 0, 0, 0, 0, 0, 0, 1] => "an address of this machine",
            [0, 0, 0, 0, 0 | 0xffff, 0 | 0xffff, ..] => "an address of IPv4 within IPv6",
            [first, ..] if first & 0xffc0 == 0xfe80 => "a link-local address",
            [first, ..] if first & 0xfe00 == 0xfc00 => PRIVATE,
            [first, ..] if first & 0xff00 == 0xff00 => "a multicast address",
            _ => "no public address",
        });
    }
    let bits = address.to_bits() >> 64;
    let is_in = |network: &[u16; 4], prefix: u8| {
        let network = network.iter().fold(0_u128, |sum, segment| sum << 16 | u128::from(*segment));
        (bits ^ network) >> (64 - u32::from(prefix)) == 0
    };
    SPECIAL_V6.iter().find(|(network, prefix, _)| is_in(network, *prefix)).map(|(_, _, what)| *what)
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.https_only { "https only; public addresses" } else { "public addresses" })?;
        self.allowed.iter().try_for_each(|network| write!(f, " and {network}"))
    }
}

#[cfg(test)]
mod tests;
