//! Looks at gateways from outside, as clients reach them: through the proxy, over TLS.
//!
//! Goes in: the address that clients use. Comes out: whether an upgrade passes, whether events arrive one by one, what the
//! gateway says of its feed. It subscribes to one bug that no tracker has, and asks nothing of the tracker.

use std::time::{Duration, Instant};

use bugfeed_client::{Event, Feed, State};
use bugfeed_hooks::client::{Address, Client, Fault, Options, Request, Response, TooLong};
use bugfeed_protocol::server::FeedState;
use bugfeed_protocol::{Cursor, When};
use bugfeed_runtime::findings::Findings;
use serde_json::Value;

use crate::watch::GatewayUrl;

const AREA: &str = "clients' address";

/// The longest wait for a connection or an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bug number that no tracker has, so that nothing is sent for it: the largest one that JavaScript can hold (2^53 − 1).
const NOBODYS: u64 = (1 << 53) - 1;

/// Clients take times from the gateway's answers; a larger difference is worth a look.
const SKEW_S: i64 = 5;

/// How long events are looked at, and how many bytes come in that time if nothing holds them back: a heartbeat each second.
const EVENTS_WITHIN: Duration = Duration::from_secs(6);
const EVENTS_BYTES: usize = 400;

/// Looks at a gateway. Returns what was found, and the head that it has.
pub(super) async fn check(url: &GatewayUrl) -> (Findings, Option<Cursor>) {
    let mut found = Findings::default();
    let web = web_address(url.expose());
    let (client, Ok(page)) = (Client::new(Options::default()), Address::parse(&web)) else {
        found.bad(AREA, format!("{url} cannot be asked by HTTP"), "");
        return (found, None);
    };
    match client.send(Request { within: PATIENCE, ..Request::get(page) }).await {
        Ok(response) => answered(&mut found, url, &response),
        Err(fault) => {
            found.bad(AREA, format!("{url}: {fault}"), reachable(&fault));
            return (found, None);
        }
    }
    upgrade(&mut found, url).await;
    events(&mut found, &client, &web).await;
    let head = poll(&mut found, &client, &web).await;
    (found, head)
}

/// The address for plain requests, with a `/` at its end.
fn web_address(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("ws", url));
    let scheme = if matches!(scheme, "wss" | "https") { "https" } else { "http" };
    let slash = if rest.ends_with('/') { "" } else { "/" };
    format!("{scheme}://{rest}{slash}")
}

fn reachable(fault: &Fault) -> &'static str {
    match fault {
        Fault::Tls { .. } => {
            "the certificate must be for this name, and by an authority that this machine trusts (SSL_CERT_FILE)"
        }
        _ => "is the gateway, or the proxy in front of it, running there, and reachable from here?",
    }
}

/// The answer of the page, through everything that is in between.
fn answered(found: &mut Findings, url: &GatewayUrl, response: &Response) {
    let Some(version) = response.header("bugfeed-version") else {
        let text =
            format!("{url} answers {}, but not from a gateway: the header Bugfeed-Version is missing", response.status);
        found.bad(
            AREA,
            text,
            "let the proxy pass this path to the gateway (deploy/proxy has files that do), and its headers back",
        );
        return;
    };
    found.good(AREA, format!("{url} is a gateway, version {version}"));
    if version != bugfeed_runtime::VERSION {
        let text = format!("it has version {version}, and this program {}", bugfeed_runtime::VERSION);
        found.warning(AREA, text, "versions of a feed's processes should be the same but during an update");
    }
    if let Some(theirs) = response.date() {
        let skew_s =
            (When::from_system_time(std::time::SystemTime::now()).as_micros() - theirs.as_micros()) / 1_000_000;
        if skew_s.abs() > SKEW_S {
            let text = format!("its clock and this machine's differ by {} s", skew_s.abs());
            found.warning(AREA, text, "let NTP set the clocks of all machines");
        }
    }
}

/// Whether a WebSocket passes, and what the gateway says of its feed.
async fn upgrade(found: &mut Findings, url: &GatewayUrl) {
    let begun = Instant::now();
    let connecting = async {
        let mut feed = Feed::builder(url.expose())?.bugs([NOBODYS]).connect();
        let mut paused = None;
        while let Some(event) = feed.next().await {
            match event? {
                Event::Feed { state: FeedState::Paused, since } => paused = Some(since),
                Event::State(State::Waiting { reason, .. }) => return Ok(Err(reason)),
                Event::Trouble { text, .. } => return Ok(Err(text)),
                Event::Subscribed { .. } => return Ok(Ok(paused)),
                _ => {}
            }
        }
        Ok::<_, bugfeed_client::Error>(Err("the feed has ended".to_owned()))
    };
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(Ok(paused))) => {
            found.good(AREA, format!("WebSocket: open after {} ms", begun.elapsed().as_millis()));
            if let Some(since) = paused {
                let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
                found.bad(
                    AREA,
                    format!("the feed is paused{since}: nothing can arrive"),
                    "/readyz of the gateways says why",
                );
            }
        }
        Ok(Ok(Err(reason))) => found.bad(AREA, format!("WebSocket: {reason}"), UPGRADE),
        Ok(Err(error)) => found.bad(AREA, format!("WebSocket: {error}"), UPGRADE),
        Err(_) => found.bad(AREA, format!("WebSocket: no answer within {} s", PATIENCE.as_secs()), UPGRADE),
    }
}

const UPGRADE: &str = "the proxy must speak HTTP/1.1 to the gateway and pass Upgrade and Connection on: files for nginx, HAProxy, \
                       Caddy, Traefik are in deploy/proxy; Apache: ProxyPass … upgrade=websocket";

/// Whether events arrive one by one.
async fn events(found: &mut Findings, client: &Client, web: &str) {
    let Ok(to) = Address::parse(&format!("{web}sse?bugs={NOBODYS}&heartbeat=1")) else { return };
    let asked =
        Request { within: EVENTS_WITHIN, longest_body: EVENTS_BYTES, too_long: TooLong::Cut, ..Request::get(to) };
    match client.send(asked).await {
        Ok(response) if response.status == 200 && response.is_cut => found.good(AREA, "SSE: events arrive one by one"),
        Ok(response) if response.status == 200 => {
            found.bad(AREA, "SSE: the stream ends at once", "does the proxy cut answers without a length?");
        }
        Ok(response) => {
            found.bad(AREA, format!("SSE: answered {}", response.status), "let the proxy pass the path /sse on")
        }
        Err(Fault::TooSlow { after_head: true, .. } | Fault::TooSlow { after_head: false, .. }) => {
            let fix = "let the proxy not buffer it (nginx: proxy_buffering off; the gateway also sends X-Accel-Buffering: no), and not \
                       compress it";
            found.bad(AREA, "SSE: events are held back on the way", fix);
        }
        Err(fault) => found.bad(AREA, format!("SSE: {fault}"), ""),
    }
}

/// Whether a long-poll is answered; the head that the answer names.
async fn poll(found: &mut Findings, client: &Client, web: &str) -> Option<Cursor> {
    let to = Address::parse(&format!("{web}changes?bugs={NOBODYS}&wait=1")).ok()?;
    match client.send(Request { within: PATIENCE, ..Request::get(to) }).await {
        Ok(response) if response.status == 200 => {
            found.good(AREA, "long-poll: answered");
            let answer: Value = serde_json::from_slice(&response.body).ok()?;
            Cursor::parse(answer["cursor"].as_str()?)
        }
        Ok(response) => {
            let fix = "a 503 means that the gateway is not ready: its /readyz says why";
            found.bad(AREA, format!("long-poll: answered {}", response.status), fix);
            None
        }
        Err(fault) => {
            found.bad(AREA, format!("long-poll: {fault}"), "does the proxy cut answers that take a while?");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_for_plain_requests() {
        for (url, want) in [
            ("ws://h:1/", "http://h:1/"),
            ("wss://h/kde", "https://h/kde/"),
            ("https://h/kde/", "https://h/kde/"),
            ("http://h", "http://h/"),
        ] {
            assert_eq!(web_address(url), want);
        }
    }
}
