//! Options about who reaches a port: through which proxies, how often, and whether it may be bound where strangers are.

use std::net::SocketAddr;

use bugfeed_core::admission::{AdmissionLimits, Rate};
use bugfeed_core::client_address::forwarded::Trusted;
use bugfeed_core::network::Network;
use bugfeed_runtime::exposure::{self, Cover};
use bugfeed_runtime::http::ClientRules;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::compose::serving::ListenerOptions;

/// Connections of one address, unless the option says otherwise. An office or a campus behind one address fits, and fifteen
/// such addresses are needed to take all places that there are by default.
const PER_ADDRESS: u32 = 1_000;

/// One address gets at most this part of all places, unless the option says otherwise.
const PART: u32 = 5;

/// Who may come, how often, and through which proxies.
#[derive(Clone, Debug, Args)]
pub struct ListenerArgs {
    /// The proxies in front of this process, as addresses or networks such as 10.0.0.1 or 10.0.0.0/28; repeat for more. Who
    /// is behind them is believed from them alone, so name no network that clients are in
    #[arg(long, env = "BUGFEED_BEHIND_PROXY", value_name = "CIDR", value_delimiter = ',')]
    pub behind_proxy: Vec<Network>,
    /// These proxies begin each connection with a PROXY header (HAProxy's send-proxy or send-proxy-v2), and must
    #[arg(long, env = "BUGFEED_PROXY_PROTOCOL", value_parser = BoolishValueParser::new(), hide_short_help = true)]
    pub proxy_protocol: bool,
    /// The header in which these proxies write whose request it is. 'either': where both are there they must say the same,
    /// because a client can forge the one that the proxy does not write
    #[arg(
        long,
        env = "BUGFEED_FORWARDED_HEADER",
        value_enum,
        default_value_t = ForwardedHeader::Either,
        hide_short_help = true
    )]
    pub forwarded_header: ForwardedHeader,
    /// Ports may listen beyond this machine without TLS and without a proxy that is named: whoever reaches them may be there
    #[arg(long, env = "BUGFEED_OPEN", value_parser = BoolishValueParser::new())]
    pub open: bool,
    /// Connections at a time of one address (of IPv6, of one /64); further ones are told to try later (429). 0: no limit.
    /// Needs to know whose connections they are: see --behind-proxy [default: 1000, or a fifth of --max-connections if that
    /// is less]
    #[arg(long, env = "BUGFEED_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(0..=1_000_000), hide_short_help = true)]
    pub max_connections_per_address: Option<u32>,
    /// New connections a second, of all clients; more are told to try later (503). 0: no limit
    #[arg(long, env = "BUGFEED_HANDSHAKES_PER_SECOND", value_name = "COUNT", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000), hide_short_help = true)]
    pub handshakes_per_second: u32,
    /// How many of them may come at once after a pause, such as after a restart [default: as many as --max-connections, or as
    /// --handshakes-per-second if that is more]
    #[arg(long, env = "BUGFEED_HANDSHAKES_BURST", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub handshakes_burst: Option<u32>,
    /// New connections a second of one address, and its further requests on them; more are told to try later (429). 0: no
    /// limit
    #[arg(long, env = "BUGFEED_HANDSHAKES_PER_SECOND_PER_ADDRESS", value_name = "COUNT", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=1_000_000), hide_short_help = true)]
    pub handshakes_per_second_per_address: u32,
    /// How many of them may come at once after a pause [default: as many as --max-connections-per-address, or as
    /// --handshakes-per-second-per-address if that is more]
    #[arg(long, env = "BUGFEED_HANDSHAKES_BURST_PER_ADDRESS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), hide_short_help = true)]
    pub handshakes_burst_per_address: Option<u32>,
}

/// The values of `--forwarded-header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ForwardedHeader {
    /// Whichever is there
    Either,
    /// Only X-Forwarded-For
    XForwardedFor,
    /// Only Forwarded (RFC 7239)
    Forwarded,
}

impl ListenerArgs {
    /// Bounds, and how addresses are known; `most` connections may there be in all.
    ///
    /// # Errors
    /// If options contradict each other; the error names them.
    pub fn options(&self, most: u32) -> Result<ListenerOptions, String> {
        if self.proxy_protocol && self.behind_proxy.is_empty() {
            return Err("--proxy-protocol needs --behind-proxy: the header is believed only of proxies that are named"
                .to_owned());
        }
        let per_address = self.max_connections_per_address.unwrap_or_else(|| PER_ADDRESS.min((most / PART).max(1)));
        let rate = |per_second: u32, burst: Option<u32>, most: u32| {
            (per_second > 0).then(|| Rate { per_second, burst: burst.unwrap_or(most.max(per_second)) })
        };
        let address_rate = self.handshakes_per_second_per_address;
        let admission = AdmissionLimits {
            connections: most as usize,
            connections_per_client: (per_address > 0).then_some(per_address),
            rate: rate(self.handshakes_per_second, self.handshakes_burst, most),
            rate_per_client: rate(address_rate, self.handshakes_burst_per_address, per_address),
        };
        Ok(ListenerOptions {
            admission,
            clients: ClientRules {
                proxies: self.behind_proxy.clone(),
                proxy_protocol: self.proxy_protocol,
                trusted: match self.forwarded_header {
                    ForwardedHeader::Either => Trusted::Either,
                    ForwardedHeader::XForwardedFor => Trusted::XForwardedFor,
                    ForwardedHeader::Forwarded => Trusted::Forwarded,
                },
                warns: admission.has_bounds_per_client(),
            },
        })
    }

    /// Whether the ports may be bound there; `has_tls` says whether the one for clients speaks TLS.
    ///
    /// # Errors
    /// Explains what to do if not.
    pub fn check_ports(&self, listen: SocketAddr, admin_listen: SocketAddr, has_tls: bool) -> Result<(), String> {
        // The admin port has no TLS of its own.
        let cover = Cover { has_tls: false, behind_proxy: !self.behind_proxy.is_empty(), open: self.open };
        let ways = " with a proxy in front; name the proxy with --behind-proxy; give the port a certificate (--tls-cert, --tls-key)";
        exposure::check("listen", listen, Cover { has_tls, ..cover }, ways)?;
        exposure::check("admin-listen", admin_listen, cover, "")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ListenerArgs,
    }

    fn args(words: &[&str]) -> ListenerArgs {
        Line::try_parse_from(["x"].iter().chain(words)).unwrap().args
    }

    #[test]
    fn bounds_fit_each_other() {
        let bounds = |words: &[&str], most| {
            let limits = args(words).options(most).unwrap().admission;
            let pair = |rate: Option<Rate>| rate.map(|rate| (rate.per_second, rate.burst));
            (limits.connections_per_client, pair(limits.rate), pair(limits.rate_per_client))
        };
        assert_eq!(bounds(&[], 15_000), (Some(1_000), Some((5_000, 15_000)), Some((500, 1_000))));
        assert_eq!(bounds(&[], 2_000), (Some(400), Some((5_000, 5_000)), Some((500, 500))));
        assert_eq!(bounds(&[], 1).0, Some(1));
        let off =
            ["--max-connections-per-address=0", "--handshakes-per-second=0", "--handshakes-per-second-per-address=0"];
        assert_eq!(bounds(&off, 15_000), (None, None, None));
        let own = ["--handshakes-burst=7", "--handshakes-burst-per-address=3", "--max-connections-per-address=9"];
        assert_eq!(bounds(&own, 15_000), (Some(9), Some((5_000, 7)), Some((500, 3))));
    }

    #[test]
    fn proxies_are_named_by_address_or_network() {
        let named = args(&["--behind-proxy", "10.0.0.1,fd00::/8", "--behind-proxy", "192.0.2.0/24"]).behind_proxy;
        assert_eq!(
            named.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1/32", "fd00::/8", "192.0.2.0/24"]
        );
        assert!(
            Line::try_parse_from(["x", "--behind-proxy", "10.0.0.1/8"])
                .is_err_and(|e| e.to_string().contains("10.0.0.0/8"))
        );
        assert!(args(&["--proxy-protocol"]).options(1).unwrap_err().contains("--behind-proxy"));
        assert!(args(&["--proxy-protocol", "--behind-proxy", "::1"]).options(1).unwrap().clients.proxy_protocol);
    }

    #[test]
    fn beyond_loopback_something_must_be_said() {
        let (here, there) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
        let none = args(&[]);
        assert_eq!(none.check_ports(here, here, false), Ok(()));
        assert!(none.check_ports(there, here, false).unwrap_err().contains("--behind-proxy"));
        assert_eq!(none.check_ports(there, here, true), Ok(()));
        assert!(none.check_ports(here, there, true).unwrap_err().starts_with("--admin-listen"));
        for words in [&["--open"][..], &["--behind-proxy", "10.0.0.1"]] {
            assert_eq!(args(words).check_ports(there, there, false), Ok(()), "{words:?}");
        }
    }
}
