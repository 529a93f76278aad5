//! `bugfeed check`: looks at a deployment part by part, and says what to mend.
//!
//! Goes in: where the parts are, by the options and variables with which they are started. Comes out: findings. It changes nothing
//! of what it looks at. Parts that are not named are said to be skipped.

mod broker;
mod gateway;
mod process;

use bugfeed_amqp::BrokerUrl;
use bugfeed_protocol::Cursor;
use bugfeed_runtime::findings::Findings;
use bugfeed_shim::ledger::{self, Prefix};
use bugfeed_shim::source::{self, TableSpec};
use bugfeed_sql::DbUrl;
use jiff::tz::TimeZone;

use crate::watch::{self, GatewayUrl};

/// Where the parts of a deployment are.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The change table, and the zone of its dates.
    pub table: Option<(DbUrl, TableSpec, TimeZone)>,
    /// The ledger.
    pub ledger: Option<(DbUrl, Prefix)>,
    /// The broker, and the feed's exchange.
    pub broker: Option<(BrokerUrl, String)>,
    /// The exchange that the gateways' options name, where another one is looked at.
    pub gateways_exchange: Option<String>,
    /// Admin ports of processes.
    pub admin: Vec<String>,
    /// The address that clients use.
    pub clients: Option<GatewayUrl>,
}

impl CheckOptions {
    /// What runs on this machine when nobody has said anything.
    pub fn usual() -> CheckOptions {
        CheckOptions {
            table: None,
            ledger: None,
            broker: None,
            gateways_exchange: None,
            admin: vec!["http://127.0.0.1:8845".to_owned()],
            clients: watch::parse_url("ws://127.0.0.1:8844/").ok(),
        }
    }
}

/// Looks at everything that is named.
pub async fn check(options: &CheckOptions) -> Findings {
    let mut found = Findings::default();
    let broker = match &options.broker {
        Some((url, exchange)) => broker::check(url, exchange).await,
        None => {
            found.skipped("broker", "not named", "--amqp URL, --exchange NAME");
            broker::Looked::default()
        }
    };
    let (mut head, mut published_to, mut recent) = (None, None, Vec::new());
    let mut of_ledger = Findings::default();
    match &options.ledger {
        Some((url, prefix)) => {
            let looked = ledger::check::check(url, prefix, &broker.history).await;
            (head, published_to, recent) = (looked.head, looked.published_to, looked.recent);
            of_ledger = looked.found;
        }
        None => of_ledger.skipped("ledger", "not named", "--ledger URL"),
    }
    match &options.table {
        Some((url, spec, zone)) => found.extend(source::check::check(url, spec, zone, &recent).await),
        None => found.skipped("change table", "not named", "--source URL"),
    }
    found.extend(of_ledger);
    found.extend(broker.found);
    for admin in &options.admin {
        found.extend(process::check(admin).await);
    }
    if options.admin.is_empty() {
        found.skipped("processes", "no admin port is named", "--admin-url http://HOST:PORT, for each process");
    }
    let mut seen = None;
    match &options.clients {
        Some(url) => {
            let (looked, head) = gateway::check(url).await;
            found.extend(looked);
            seen = head;
        }
        None => found.skipped("clients' address", "not named", "--url wss://HOST/, as clients use it"),
    }
    let said = broker.head.map(|head| head.cursor);
    together(&mut found, options, &Heads { ledger: head, shim: said, gateway: seen }, published_to.as_deref());
    found.extend(process::machine());
    found
}

/// How far the parts say that the feed is.
struct Heads {
    ledger: Option<Cursor>,
    shim: Option<Cursor>,
    gateway: Option<Cursor>,
}

/// Whether the parts belong together: one ledger, one exchange.
fn together(found: &mut Findings, options: &CheckOptions, heads: &Heads, published_to: Option<&str>) {
    const AREA: &str = "together";
    let exchange = options.broker.as_ref().map(|(_, exchange)| exchange.as_str());
    if let (Some(ours), Some(theirs)) = (exchange, options.gateways_exchange.as_deref())
        && ours != theirs
    {
        let text = format!("the shim's option names the exchange {ours}, the gateway's {theirs}: nothing can arrive");
        found.bad(AREA, text, "give both the same: --exchange of the shim, --feed NAME=EXCHANGE of the gateway");
    }
    if let (Some(place), Some(exchange)) = (published_to, exchange)
        && !place.contains(&format!("exchange {exchange} on "))
    {
        let text = format!("the ledger's changes were last published to {place}, and not to the exchange {exchange}");
        found.warning(
            AREA,
            text,
            "is this the feed's ledger? A shim that goes on with another exchange begins a new epoch",
        );
    }
    let mut same = |one: (&str, &Option<Cursor>), other: (&str, &Option<Cursor>), fix: &str| {
        let ((one, Some(a)), (other, Some(b))) = (one, other) else { return };
        if a.epoch == b.epoch {
            found.good(AREA, format!("{one} and {other} are of one ledger (epoch {})", a.epoch));
        } else {
            found.bad(AREA, format!("{one} is of epoch {}, {other} of epoch {}", a.epoch, b.epoch), fix);
        }
    };
    let (ledger, shim, gateway) = (
        ("the ledger", &heads.ledger),
        ("what the shim says at the broker", &heads.shim),
        ("what the gateway serves", &heads.gateway),
    );
    same(ledger, shim, "another shim, with another ledger, publishes to this exchange: a feed has one ledger");
    same(shim, gateway, "the gateway at --url serves another exchange or another broker");
    if shim.1.is_none() {
        same(ledger, gateway, "the gateway at --url serves another feed, exchange or broker");
    }
}

#[cfg(test)]
mod tests {
    use bugfeed_runtime::findings::Verdict;

    use super::*;

    fn options(exchange: &str, gateways: Option<&str>) -> CheckOptions {
        CheckOptions {
            table: None,
            ledger: None,
            broker: Some((bugfeed_amqp::parse_url("amqp://localhost/").unwrap(), exchange.to_owned())),
            gateways_exchange: gateways.map(str::to_owned),
            admin: Vec::new(),
            clients: None,
        }
    }

    #[test]
    fn parts_that_do_not_belong_together() {
        let at = |text: &str| Cursor::parse(text);
        let check = |gateways, ledger, shim, gateway, place, want: &[Verdict]| {
            let mut found = Findings::default();
            together(&mut found, &options("bugs", gateways), &Heads { ledger, shim, gateway }, place);
            let verdicts: Vec<_> = found.all().iter().map(|finding| finding.verdict).collect();
            assert_eq!(verdicts, want, "{found}");
        };
        use Verdict::{Bad, Good, Warning};
        check(None, None, None, None, None, &[]);
        check(Some("bugs"), at("E.1"), at("E.1"), at("E.1"), Some("exchange bugs on localhost"), &[Good, Good]);
        check(Some("y"), None, None, None, None, &[Bad]);
        check(None, at("E.1"), at("F.1"), at("F.2"), Some("exchange bugs.other on localhost"), &[Warning, Bad, Good]);
        check(None, at("E.1"), None, at("F.2"), None, &[Bad]);
        check(None, None, at("E.1"), at("F.2"), None, &[Bad]);
    }
}
