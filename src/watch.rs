//! `bugfeed watch`: a client for terminals and scripts, over the classic protocol.
//!
//! Goes in: bug numbers and a gateway's address. Comes out: one line for each change, flushed at once. Reconnects by
//! itself and catches up from the newest date it has seen; [`Seen`] keeps what comes twice from being printed twice.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::{BugId, Change, When};
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::cli::WatchArgs;

/// A connection on which nothing came for this long, though we ping, is dead.
const DEAD_AFTER: Duration = Duration::from_secs(75);
/// How often we ping.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long connecting may take, TLS and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Changes remembered to recognise what comes again after a reconnect.
const REMEMBERED: usize = 10_000;

/// A checked `ws://` or `wss://` address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl(String);

/// Reads a gateway's address.
///
/// # Errors
/// Says what an address looks like.
pub fn parse_url(text: &str) -> Result<GatewayUrl, String> {
    let uri: axum::http::Uri = text.trim().parse().map_err(|error| format!("{error}; write ws://HOST:PORT/"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("ws" | "wss"), Some(_)) => Ok(GatewayUrl(text.trim().to_owned())),
        _ => Err("not a gateway's address; write ws://HOST:PORT/, or wss://HOST/ for TLS".to_owned()),
    }
}

/// Why watching ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The gateway answered, but not with a feed.
    #[error("{url} is no feed: {status} {text}")]
    NotAFeed {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The gateway refused the subscription.
    #[error("the gateway refuses the subscription: {0}")]
    Refused(String),
    /// Standard output failed.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

/// What a connection ended with.
enum Ended {
    Enough,
    Final(WatchError),
    /// Try again; was it in use before?
    Lost {
        reason: String,
        worked: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Incoming {
    command: Option<String>,
    result: Option<String>,
    error: Option<String>,
    bug: Option<BugId>,
    when: Option<When>,
}

/// The changes printed lately, with how often each came: two edits within one second are two changes with one date.
#[derive(Debug, Default)]
pub struct Seen {
    counts: HashMap<Change2, u32>,
    order: VecDeque<Change2>,
    /// What a catch-up may repeat, while one is going on.
    repeats: Option<HashMap<Change2, u32>>,
    newest: Option<When>,
}

type Change2 = (BugId, When);

impl Seen {
    /// A catch-up begins: what was printed before may come again.
    pub fn catch_up_begins(&mut self) {
        self.repeats = Some(self.counts.clone());
    }

    /// The catch-up is over.
    pub fn catch_up_ends(&mut self) {
        self.repeats = None;
    }

    /// Whether a change is to be printed; remembers it.
    pub fn is_new(&mut self, change: Change) -> bool {
        let key = (change.bug, change.when);
        if let Some(left) = self.repeats.as_mut().and_then(|repeats| repeats.get_mut(&key)).filter(|left| **left > 0) {
            *left -= 1;
            return false;
        }
        self.newest = self.newest.max(Some(change.when));
        *self.counts.entry(key).or_default() += 1;
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        true
    }

    /// From when on to catch up: the newest date seen, unless it lies in the future, where a wrong one would hide all
    /// that comes before it.
    pub fn since(&self, now: When, otherwise: When) -> When {
        let tolerance = 60_000_000;
        self.newest.filter(|newest| newest.as_micros() <= now.as_micros() + tolerance).unwrap_or(otherwise)
    }
}

/// Prints changes to `out` and what happens to the connection to `status` until enough are printed or `out` fails.
/// Drop it to stop.
///
/// # Errors
/// Only what trying again would not mend.
pub async fn run(args: &WatchArgs, out: &mut impl Write, status: &mut impl Write) -> Result<(), WatchError> {
    let mut backoff = Backoff::CLIENT;
    let mut watch = Watch { args, out, seen: Seen::default(), left: args.count, since: args.since };
    loop {
        let (reason, worked) = match watch.connection(status).await {
            Ended::Enough => return Ok(()),
            Ended::Final(error) => return Err(error),
            Ended::Lost { reason, worked } => (reason, worked),
        };
        if worked {
            backoff.reset();
        }
        let delay = backoff.next(rand::random());
        writeln!(status, "bugfeed watch: {reason}; trying again in {:.1} s", delay.as_secs_f64())?;
        tokio::time::sleep(delay).await;
    }
}

struct Watch<'a, W> {
    args: &'a WatchArgs,
    out: &'a mut W,
    seen: Seen,
    left: Option<u64>,
    /// What to catch up from as long as no change was seen.
    since: Option<When>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl<W: Write> Watch<'_, W> {
    async fn connection(&mut self, status: &mut impl Write) -> Ended {
        let url = &self.args.url.0;
        let lost = |reason: String| Ended::Lost { reason, worked: false };
        let connecting = tokio_tungstenite::connect_async(url.as_str());
        let mut socket = match tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(connecting)).await {
            Err(_) => return lost(format!("{url} does not answer")),
            Ok(Ok((socket, _))) => socket,
            Ok(Err(WsError::Http(answer))) if answer.status().is_client_error() => {
                let text = answer.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().trim().to_owned();
                let (url, status) = (url.clone(), answer.status().as_u16());
                return Ended::Final(WatchError::NotAFeed { url, status, text });
            }
            Ok(Err(error)) => return lost(format!("cannot connect to {url}: {error}")),
        };
        if let Err(error) = self.subscribe(&mut socket).await {
            return lost(format!("connection lost: {error}"));
        }
        if let Err(error) = writeln!(status, "bugfeed watch: connected to {url}") {
            return Ended::Final(error.into());
        }
        self.talk(&mut socket).await
    }

    async fn subscribe(&mut self, socket: &mut Socket) -> Result<(), WsError> {
        let now = When::from_system_time(SystemTime::now());
        let minute_ago = When::from_micros(now.as_micros() - 60_000_000).unwrap_or(When::MIN);
        let since = self.since.map(|otherwise| self.seen.since(now, otherwise));
        // Should the connection be lost before any change came, the next one catches up from here.
        self.since.get_or_insert(minute_ago);
        let mut subscribe = serde_json::json!({ "command": "subscribe", "bugs": self.args.bugs });
        if let Some(since) = since {
            subscribe["since"] = since.to_string().into();
        }
        self.seen.catch_up_begins();
        socket.feed(Message::text(subscribe.to_string())).await?;
        // Answered after the catch-up, and so the sign of its end.
        socket.feed(Message::text(r#"{"command":"subscriptions"}"#)).await?;
        socket.flush().await
    }

    async fn talk(&mut self, socket: &mut Socket) -> Ended {
        let mut worked = false;
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
        let mut heard = tokio::time::Instant::now();
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                _ = pings.tick() => {
                    let ping = socket.send(Message::Ping(Vec::new().into()));
                    if heard.elapsed() > DEAD_AFTER || tokio::time::timeout(PING_EVERY, ping).await.is_err() {
                        return Ended::Lost { reason: "the connection is dead".to_owned(), worked };
                    }
                    continue;
                }
            };
            heard = tokio::time::Instant::now();
            let reason = match message {
                Some(Ok(Message::Text(text))) => {
                    worked = true;
                    match self.text(&text) {
                        Ok(false) => continue,
                        Ok(true) => return Ended::Enough,
                        Err(error) => return Ended::Final(error),
                    }
                }
                Some(Ok(Message::Close(Some(frame)))) => format!("closed ({}): {}", frame.code, frame.reason),
                Some(Ok(Message::Close(None))) | None => "connection closed".to_owned(),
                Some(Ok(_)) => continue,
                Some(Err(error)) => format!("connection lost: {error}"),
            };
            return Ended::Lost { reason, worked };
        }
    }

    /// Deals with one message; true once enough changes were printed.
    fn text(&mut self, text: &str) -> Result<bool, WatchError> {
        // What this version does not understand is for newer ones.
        let Ok(incoming) = serde_json::from_str::<Incoming>(text) else { return Ok(false) };
        if let Some(error) = incoming.error.filter(|_| incoming.result.as_deref() == Some("error")) {
            return Err(WatchError::Refused(error));
        }
        match (incoming.command.as_deref(), incoming.bug, incoming.when) {
            (Some("update"), Some(bug), Some(when)) => {
                let change = Change { bug, when };
                if !self.seen.is_new(change) {
                    return Ok(false);
                }
                self.print(change)?;
                self.left = self.left.map(|left| left - 1);
                Ok(self.left == Some(0))
            }
            (Some("subscriptions"), ..) => {
                self.seen.catch_up_ends();
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    fn print(&mut self, change: Change) -> std::io::Result<()> {
        if self.args.json {
            serde_json::to_writer(&mut *self.out, &change)?;
            writeln!(self.out)?;
        } else {
            writeln!(self.out, "{}  bug {} changed", change.when, change.bug)?;
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(bug: u64, second: i64) -> Change {
        Change { bug: BugId::new(bug).unwrap(), when: When::from_micros(second * 1_000_000).unwrap() }
    }

    #[test]
    fn a_catch_up_prints_only_what_was_missed() {
        let mut seen = Seen::default();
        seen.catch_up_begins();
        seen.catch_up_ends();
        // Two edits in one second are both printed.
        assert!(seen.is_new(change(1, 100)) && seen.is_new(change(1, 100)) && seen.is_new(change(2, 101)));
        seen.catch_up_begins();
        // The third edit of that second was missed.
        let again = [change(1, 100), change(1, 100), change(2, 101), change(1, 100), change(3, 102)];
        assert_eq!(again.map(|change| seen.is_new(change)), [false, false, false, true, true]);
        seen.catch_up_ends();
        assert!(seen.is_new(change(3, 102)), "live, so another edit");
    }

    #[test]
    fn memory_is_bounded_and_a_future_date_is_no_since() {
        let mut seen = Seen::default();
        for second in 0..20_000 {
            seen.is_new(change(1, second));
        }
        assert_eq!((seen.counts.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
        let (now, start) = (change(1, 20_000).when, change(1, 5).when);
        assert_eq!(seen.since(now, start), change(1, 19_999).when);
        seen.is_new(change(1, 1_000_000));
        assert_eq!(seen.since(now, start), start);
    }
}
