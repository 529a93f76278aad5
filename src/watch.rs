//! `bugfeed watch`: a client for terminals and scripts, over the modern protocol.
//!
//! Goes in: bug numbers and a gateway's address. Comes out: one line for each change, flushed at once, and one where
//! changes may have been missed. Reconnects by itself and resumes with the last cursor it received.

use std::io::Write;
use std::time::{Duration, SystemTime};

use bugfeed_protocol::backoff::Backoff;
use bugfeed_protocol::close::Close;
use bugfeed_protocol::{BugId, Change, When};
use futures::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::cli::WatchArgs;

/// How often the gateway is asked for a heartbeat, in seconds.
const HEARTBEAT_S: u64 = 20;
/// A connection on which nothing came for this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(50);
/// How long connecting may take, TLS and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

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
    /// The gateway closed the connection for a reason that trying again would not mend.
    #[error("the gateway closed the connection ({code}): {text}")]
    Closed {
        /// The close code.
        code: u16,
        /// What it said.
        text: String,
    },
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
    cursor: Option<String>,
    replay: Option<String>,
    retry_after_ms: Option<u64>,
}

/// Prints changes to `out` and what happens to the connection to `status` until enough are printed or `out` fails.
/// Drop it to stop.
///
/// # Errors
/// Only what trying again would not mend.
pub async fn run(args: &WatchArgs, out: &mut impl Write, status: &mut impl Write) -> Result<(), WatchError> {
    let mut backoff = Backoff::CLIENT;
    let mut watch = Watch { args, out, status, cursor: None, since: args.since, left: args.count, retry_after: None };
    loop {
        let (reason, worked) = match watch.connection().await {
            Ended::Enough => return Ok(()),
            Ended::Final(error) => return Err(error),
            Ended::Lost { reason, worked } => (reason, worked),
        };
        if worked {
            backoff.reset();
        }
        // A gateway that goes away says when to come back, another time to each client.
        let delay = watch.retry_after.take().unwrap_or_else(|| backoff.next(rand::random()));
        watch.say(&format!("{reason}; trying again in {:.1} s", delay.as_secs_f64()))?;
        tokio::time::sleep(delay).await;
    }
}

struct Watch<'a, W, S> {
    args: &'a WatchArgs,
    out: &'a mut W,
    status: &'a mut S,
    /// The last one received: everything up to there has been printed.
    cursor: Option<String>,
    /// What to catch up from as long as there is no cursor.
    since: Option<When>,
    left: Option<u64>,
    retry_after: Option<Duration>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl<W: Write, S: Write> Watch<'_, W, S> {
    fn say(&mut self, text: &str) -> std::io::Result<()> {
        writeln!(self.status, "bugfeed watch: {text}")
    }

    async fn connection(&mut self) -> Ended {
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
        if let Err(error) = self.say(&format!("connected to {url}")) {
            return Ended::Final(error.into());
        }
        self.talk(&mut socket).await
    }

    async fn subscribe(&mut self, socket: &mut Socket) -> Result<(), WsError> {
        let mut subscribe = serde_json::json!({ "command": "subscribe", "bugs": self.args.bugs });
        match (&self.cursor, self.since) {
            (Some(cursor), _) => subscribe["cursor"] = cursor.as_str().into(),
            (None, Some(since)) => subscribe["since"] = since.to_string().into(),
            (None, None) => {
                // Should the connection be lost before there is a cursor, the next one catches up from here.
                let now = When::from_system_time(SystemTime::now());
                self.since = When::from_micros(now.as_micros() - 60_000_000);
            }
        }
        let hello = serde_json::json!({ "command": "hello", "heartbeat": HEARTBEAT_S });
        socket.feed(Message::text(hello.to_string())).await?;
        socket.feed(Message::text(subscribe.to_string())).await?;
        socket.flush().await
    }

    async fn talk(&mut self, socket: &mut Socket) -> Ended {
        let mut worked = false;
        loop {
            let reason = match tokio::time::timeout(DEAD_AFTER, socket.next()).await {
                Err(_) => "the connection is dead".to_owned(),
                Ok(Some(Ok(Message::Text(text)))) => {
                    worked = true;
                    match self.text(&text) {
                        Ok(false) => continue,
                        Ok(true) => return Ended::Enough,
                        Err(error) => return Ended::Final(error),
                    }
                }
                Ok(Some(Ok(Message::Close(Some(frame))))) => {
                    let (code, text) = (u16::from(frame.code), frame.reason.to_string());
                    if Close::ALL.iter().any(|close| close.code() == code && !close.reconnect()) {
                        return Ended::Final(WatchError::Closed { code, text });
                    }
                    format!("closed ({code}): {text}")
                }
                Ok(Some(Ok(Message::Close(None))) | None) => "connection closed".to_owned(),
                Ok(Some(Ok(_))) => continue,
                Ok(Some(Err(error))) => format!("connection lost: {error}"),
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
        let command = incoming.command.as_deref();
        let mut enough = false;
        match (command, incoming.bug, incoming.when) {
            (Some("update"), Some(bug), Some(when)) => {
                self.print(Change { bug, when })?;
                self.left = self.left.map(|left| left - 1);
                enough = self.left == Some(0);
            }
            (Some("gap"), ..) => self.gap()?,
            (Some("subscribe"), ..) if incoming.replay.as_deref() == Some("gap") => self.gap()?,
            (Some("goaway"), ..) => self.retry_after = incoming.retry_after_ms.map(Duration::from_millis),
            _ => {}
        }
        // The head that hello tells is not yet what was subscribed to.
        if command != Some("hello") && incoming.cursor.is_some() {
            self.cursor = incoming.cursor;
        }
        Ok(enough)
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

    /// What happened in between is not known: whoever acts on changes must look at all of these bugs.
    fn gap(&mut self) -> std::io::Result<()> {
        if self.args.json {
            writeln!(self.out, "{}", serde_json::json!({ "gap": true, "bugs": self.args.bugs }))?;
        } else {
            writeln!(self.out, "gap: changes may have been missed; look at all of these bugs")?;
        }
        self.out.flush()
    }
}
