//! An endpoint as people see it: its shape, with what this process knows besides.
//!
//! Goes in: a stored endpoint. Comes out: JSON whose `says` tells why its last attempt failed, and which of its feeds are not
//! served here. What is shown of an answer is masked as everywhere: see [`cause`](crate::endpoints::cause).

use std::net::IpAddr;
use std::time::Duration;

use bugfeed_core::endpoints::policy::State;
use serde_json::Value;

use super::shapes;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::client::Address;
use crate::deliver::address::Rules;
use crate::endpoints::cause::{Hidden, cause};
use crate::store::endpoints::Stored;
use crate::store::tokens::Scope;

/// Of so many endpoints of a list it is told why they fail: each costs a question to the store.
const MOST_CAUSES: usize = 100;
/// Of an endpoint's attempts so many are looked through for one that failed.
const NEWEST: usize = 20;
/// How long a name is looked up when an endpoint is made.
const LOOK_UP: Duration = Duration::from_secs(2);

/// An endpoint.
pub(super) async fn shown(call: &Call, stored: &Stored) -> Result<Value, ApiError> {
    let mut shape = shapes::endpoint(stored, call.caller.has(Scope::Raw), call.now_us);
    add(call, stored, &mut shape, true).await?;
    Ok(shape)
}

/// Endpoints, as they are in lists.
pub(super) async fn listed(call: &Call, page: &[Stored]) -> Result<Vec<Value>, ApiError> {
    let (mut shapes, mut causes) = (Vec::with_capacity(page.len()), 0);
    for stored in page {
        let mut shape = shapes::listed(stored, call.caller.has(Scope::Raw), call.now_us);
        causes += usize::from(!stored.row.health.is_clean());
        add(call, stored, &mut shape, causes <= MOST_CAUSES).await?;
        shapes.push(shape);
    }
    Ok(shapes)
}

/// Adds to what the shape says.
async fn add(call: &Call, stored: &Stored, shape: &mut Value, with_cause: bool) -> Result<(), ApiError> {
    let mut says = shape["says"].as_str().unwrap_or_default().to_owned();
    let tells = stored.row.state(call.now_us) != State::Paused && !stored.row.health.is_clean();
    if with_cause
        && tells
        && let Some(cause) = last_cause(call, stored).await?
    {
        says.push_str(&format!("; the last failure: {cause}"));
    }
    let unserved = unserved(call, stored);
    if !unserved.is_empty() {
        let note = not_served(&unserved);
        says = if says == shapes::WELL { note } else { format!("{says}; {note}") };
    }
    shape["says"] = says.into();
    Ok(())
}

/// The feeds of an endpoint that are not served here.
pub(super) fn unserved(call: &Call, stored: &Stored) -> Vec<String> {
    let served = call.api.service().feeds();
    let lines = stored.row.lines.iter().filter(|line| !served.iter().any(|served| **served == *line.feed));
    // While this process begins, it has no feed at all.
    if served.is_empty() { Vec::new() } else { lines.map(|line| line.feed.to_string()).collect() }
}

/// What follows from that.
pub(super) fn not_served(feeds: &[String]) -> String {
    match feeds {
        [feed] => format!("the feed {feed} is not served here, so nothing of it is sent from here"),
        feeds => format!("the feeds {} are not served here, so nothing of them is sent from here", feeds.join(", ")),
    }
}

/// Why the newest attempt that counts has failed, if it is kept.
async fn last_cause(call: &Call, stored: &Stored) -> Result<Option<String>, ApiError> {
    let attempts = call.store().attempts(&stored.id, None, NEWEST).await?;
    let last = attempts.iter().find(|row| row.counts && !shapes::is_success(row));
    Ok(last.and_then(|row| cause(row, &Hidden::of(&stored.settings))))
}

/// What is to be said of the name in a URL. It is looked up once, and only briefly: it may lead elsewhere tomorrow.
pub(super) async fn warnings(call: &Call, url: &str) -> Vec<String> {
    let Ok(address) = Address::parse(url) else { return Vec::new() };
    let (service, host) = (call.api.service(), address.origin().host.clone());
    if host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    match tokio::time::timeout(LOOK_UP, service.addresses(&host)).await {
        Ok(Ok(addresses)) => of_addresses(&host, &addresses, &service.rules()).into_iter().collect(),
        Ok(Err(why)) => vec![format!("the name {host} cannot be looked up just now: {why}")],
        Err(_) => Vec::new(),
    }
}

fn of_addresses(host: &str, addresses: &[IpAddr], rules: &Rules) -> Option<String> {
    if addresses.iter().any(|address| rules.judge(*address).is_ok()) {
        return None;
    }
    let forbidden = rules.judge(*addresses.first()?).err()?;
    Some(format!(
        "{host} leads to {}, which is {}, where endpoints may not be: nothing will be sent there unless bugfeed is started \
         with --allow-network {}",
        forbidden.address, forbidden.what, forbidden.allow
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_to_forbidden_addresses_only_is_told() {
        let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let told = |texts| of_addresses("h.example", &all(texts), &Rules::default());
        assert!(told(&["127.0.0.1", "::1"]).unwrap().contains("--allow-network 127.0.0.0/8"));
        assert_eq!(told(&["10.0.0.1", "9.9.9.9"]), None);
        assert_eq!(told(&[]), None);
    }
}
