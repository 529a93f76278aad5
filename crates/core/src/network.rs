//! A network, as `--allow-network` and `--behind-proxy` name it.
//!
//! Goes in: `10.0.0.0/8`, `fd00::/8`, or one address. Comes out: whether an address is in it. IPv4 and IPv6 are never mixed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network of IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadNetwork {
    /// It cannot be understood.
    NoNetwork(String),
    /// The address is within a network, and does not begin it.
    Longer(Network),
}

impl fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadNetwork::NoNetwork(text) => {
                write!(f, "'{text}' is no network; write one as 10.0.0.0/8, fd00::/8 or 192.0.2.7")
            }
            BadNetwork::Longer(network) => {
                write!(f, "the address goes on after the prefix; the network that it is in is {network}")
            }
        }
    }
}

impl std::error::Error for BadNetwork {}

impl Network {
    /// The network of all addresses that begin with the first `prefix` bits of `address`. `None`: the prefix is longer than
    /// the address, or there are other bits than 0 after it.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Network> {
        let network = Network::around(address, prefix)?;
        (network.address == address).then_some(network)
    }

    fn around(address: IpAddr, prefix: u8) -> Option<Network> {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(u32::from(prefix))?).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(u32::from(prefix))?).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Some(Network { address, prefix })
    }

    /// Whether the address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Network::around(address, self.prefix) == Some(*self)
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        let bad = || BadNetwork::NoNetwork(text.chars().take(60).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| bad())?,
            Some(_) => return Err(bad()),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        let network = Network::around(address, prefix).ok_or_else(bad)?;
        if network.address == address { Ok(network) } else { Err(BadNetwork::Longer(network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_bad_ones_are_refused() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1/128", "::1", "::2"),
        ] {
            let network: Network = text.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{text} {outside}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0/8",
            "::/129",
            "host",
            "10.0.0.0/300",
        ] {
            assert_eq!(text.parse::<Network>(), Err(BadNetwork::NoNetwork(text.to_owned())), "{text}");
        }
        let longer = "10.1.0.0/8".parse::<Network>().unwrap_err();
        assert!(longer.to_string().ends_with("10.0.0.0/8"), "{longer}");
        assert!(!"::ffff:7f00:0/104".parse::<Network>().unwrap().contains("127.0.0.1".parse().unwrap()));
    }
}
