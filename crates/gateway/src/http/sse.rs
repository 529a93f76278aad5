//! `GET /sse`: server-sent events (the WHATWG HTML standard, "Server-sent events"), for clients for which WebSocket is
//! too much work or is blocked by a proxy.
//!
//! Goes in: a query. Comes out: an endless answer. Each event is one message of the modern protocol, with the cursor as
//! its id. `EventSource` sends the last id back when it reconnects, and the session resumes there.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderName, Method, Version, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::client::Command;
use futures::stream;
use serde::Deserialize;
use tokio::time::{Sleep, sleep};
use tokio_util::task::TaskTracker;

use super::access::{self, Shown};
use super::query;
use crate::feed::{Feed, Messages};
use bugfeed_runtime::http::Hijack;
use bugfeed_runtime::http::{Hijacked, Wire};

/// How often a client without heartbeats is sent a comment, in seconds: proxies cut connections that are silent for a
/// minute, some sooner.
const COMMENT_S: u64 = 15;

/// How often a comment is sent while the feed is not current yet, in seconds. In that time, nothing else shows that
/// the connection is alive.
const EARLY_COMMENT_S: u64 = 5;

/// How long a client shall wait before it reconnects, in milliseconds; drawn at random for each client (jitter).
const RETRY_MS: std::ops::RangeInclusive<u64> = 1000..=3000;

/// Events that are ready at the same time are written together, in pieces of about this many bytes.
const PIECE: usize = 4096;

/// How long a client may take to read what is left when its session has ended. Without this limit, a client that reads
/// nothing would delay a gateway that stops.
const LINGER: Duration = Duration::from_secs(2);

/// Answers a request.
pub async fn serve(feed: &Arc<Feed>, tracker: &TaskTracker, hijack: &Hijack, request: Request) -> Response {
    let head_only = request.method() == Method::HEAD;
    let shown = Shown::by(&request, !head_only);
    let peer = shown.peer();
    let pass = match shown.admit(feed).await {
        Ok(pass) => pass,
        Err(refusal) => return *refusal,
    };
    let query = match query::read(feed, request).await {
        Ok(query) => query,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = access::check_bugs(feed, pass.as_ref(), &query.bugs, peer) {
        return *refusal;
    }
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-transform"),
        // The connection is not reused, so that the next request can reach a gateway that is not about to stop.
        (header::CONNECTION, "close"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let (feed, tracker) = (Arc::clone(feed), tracker.clone());
    let events = move |hijacked: Hijacked| {
        let sessions = tracker.clone();
        tracker.spawn(async move {
            if feed.is_shut() && !open_up(&feed, &hijacked.stream).await {
                return;
            }
            let hello = Command::Hello { heartbeat_s: query.heartbeat_s.unwrap_or(COMMENT_S), token: None };
            let messages = feed.open_with(pass, [hello, query.subscribe()], &sessions);
            let writer = Writer { heartbeats: query.heartbeat_s.is_some(), resumed: query.resume.is_some() };
            pump(hijacked, messages, writer).await;
        });
    };
    if !head_only {
        hijack.when_answered(events);
    }
    // The body has no declared end, as in HTTP/1.0: it is everything until the connection closes. So hyper writes only
    // the head and is done, and frees its buffers, of which an idle connection would keep some 16 KiB.
    let mut response = (headers, Body::from_stream(stream::empty::<io::Result<Bytes>>())).into_response();
    *response.version_mut() = Version::HTTP_10;
    response
}

/// Keeps a client waiting until the feed is current for the first time; a 503 is no option, because `EventSource` then
/// gives up for good. Returns false if the client leaves or the gateway stops.
async fn open_up(feed: &Feed, stream: &Wire) -> bool {
    let mut piece = Vec::new();
    push_retry(&mut piece, rand::random_range(RETRY_MS));
    let opened = feed.opened();
    tokio::pin!(opened);
    loop {
        piece.extend_from_slice(b": not ready yet, reading history\n");
        // A few bytes now and then always fit into the socket's buffer, unless the client reads nothing.
        match stream.try_write(&piece) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return false,
            _ => piece.clear(),
        }
        tokio::select! {
            open = &mut opened => return open,
            () = gone(stream) => return false,
            () = sleep(Duration::from_secs(EARLY_COMMENT_S)) => {}
        }
    }
}

/// Waits until the client has gone.
async fn gone(stream: &Wire) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 512]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::task::consume_budget().await,
        }
    }
}

/// Writes events until the session or the connection ends.
async fn pump(hijacked: Hijacked, mut messages: Messages, writer: Writer) {
    // Bytes read after the request keep alive the whole buffer that the request was read into.
    let Hijacked { stream, rest, permit } = hijacked;
    drop(rest);
    let mut piece = Vec::new();
    push_retry(&mut piece, rand::random_range(RETRY_MS));
    let mut linger = None;
    poll_fn(|cx| step(&stream, &mut messages, &writer, &mut piece, &mut linger, cx)).await;
    // Over TLS, an end that is not announced looks like an attack. An error means that the client has left.
    let _ = stream.close_write();
    drop(permit);
}

/// One step of [`pump`]; ready when the connection is over.
fn step(
    stream: &Wire,
    messages: &mut Messages,
    writer: &Writer,
    piece: &mut Vec<u8>,
    linger: &mut Option<Pin<Box<Sleep>>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // The client is expected to send nothing, but the end of its stream shows that it has left.
    while stream.poll_read_ready(cx).is_ready() {
        match stream.try_read(&mut [0; 512]) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return Poll::Ready(()),
        }
    }
    loop {
        while !piece.is_empty() {
            match stream.try_write(piece) {
                Ok(written) => drop(piece.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A socket error is noticed at the next write.
                    if stream.poll_write_ready(cx).is_pending() {
                        if !messages.is_over(cx) {
                            return Poll::Pending;
                        }
                        return poll_linger(linger, cx);
                    }
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        while piece.len() < PIECE {
            match messages.poll_next(cx) {
                Poll::Ready(Some(text)) => writer.push(piece, &text),
                Poll::Ready(None) if piece.is_empty() => match stream.poll_flush(cx) {
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return poll_linger(linger, cx),
                },
                Poll::Ready(None) => break,
                Poll::Pending if piece.is_empty() => {
                    // An idle connection keeps no buffer.
                    *piece = Vec::new();
                    return match stream.poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(()),
                        _ => Poll::Pending,
                    };
                }
                Poll::Pending => break,
            }
        }
    }
}

/// Waits for a client that is to be sent the last bytes, but only for a moment.
fn poll_linger(linger: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<()> {
    linger.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx)
}

/// The members of a message that decide how its event is written.
#[derive(Deserialize)]
struct Parts<'a> {
    command: &'a str,
    #[serde(borrow, default)]
    cursor: Option<&'a str>,
    #[serde(default)]
    retry_after_ms: Option<u64>,
}

/// Writes messages as events.
struct Writer {
    /// Whether the client asked for heartbeats. If it did not, the reply to hello is left out, and heartbeats are
    /// written as comments.
    heartbeats: bool,
    /// Whether the client gave a cursor.
    resumed: bool,
}

impl Writer {
    fn push(&self, out: &mut Vec<u8>, text: &[u8]) {
        let parts: Parts<'_> = serde_json::from_slice(text).expect("what the gateway encodes is JSON with a command");
        // Hello's cursor is the head of the feed, meant for clients that start afresh; it is not this client's
        // position, so it becomes no id.
        let mut id = parts.cursor.filter(|_| parts.command != "hello");
        if parts.command == "subscribe" && !self.resumed {
            // A client that has no cursor to resume from gets "unknown", so that it does not start afresh silently when
            // it reconnects.
            id = id.or(Some("unknown"));
        }
        if let Some(delay) = parts.retry_after_ms {
            push_retry(out, delay);
        }
        let data = match parts.command {
            "hello" if !self.heartbeats => return,
            "heartbeat" if !self.heartbeats => {
                out.extend_from_slice(b": heartbeat\n");
                if id.is_none() {
                    return;
                }
                None
            }
            _ => Some(text),
        };
        for (field, value) in [("id: ", id.map(str::as_bytes)), ("data: ", data)] {
            if let Some(value) = value {
                out.extend_from_slice(field.as_bytes());
                out.extend_from_slice(value);
                out.push(b'\n');
            }
        }
        out.push(b'\n');
    }
}

/// Appends the hint as a line of the next event. A line of its own, with an empty line after it, would be an empty event
/// for some libraries, although the standard says that there is none without data.
fn push_retry(out: &mut Vec<u8>, ms: u64) {
    out.extend_from_slice(format!("retry: {ms}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(heartbeats: bool, resumed: bool, text: &str) -> String {
        let mut out = Vec::new();
        Writer { heartbeats, resumed }.push(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn messages_as_events() {
        let hello = r#"{"command":"hello","result":"ok","cursor":"E.88"}"#;
        let reply = r#"{"command":"subscribe","result":"ok","count":1,"cursor":null}"#;
        let heartbeat = r#"{"command":"heartbeat","cursor":"E.91"}"#;
        let nothing_yet = r#"{"command":"heartbeat","cursor":null}"#;
        let update = r#"{"command":"update","bug":1,"when":"2014-04-03T21:13:45","cursor":"E.57"}"#;
        let paused = r#"{"command":"feed","state":"paused","since":"2014-04-03T21:13:45"}"#;
        let goaway = r#"{"command":"goaway","retry_after_ms":2300,"cursor":"E.130"}"#;
        for (heartbeats, resumed, text, want) in [
            (false, false, hello, String::new()),
            (true, false, hello, format!("data: {hello}\n\n")),
            (false, false, reply, format!("id: unknown\ndata: {reply}\n\n")),
            (false, true, reply, format!("data: {reply}\n\n")),
            (false, false, heartbeat, ": heartbeat\nid: E.91\n\n".to_owned()),
            (false, false, nothing_yet, ": heartbeat\n".to_owned()),
            (true, false, heartbeat, format!("id: E.91\ndata: {heartbeat}\n\n")),
            (false, false, update, format!("id: E.57\ndata: {update}\n\n")),
            (false, false, paused, format!("data: {paused}\n\n")),
            (false, false, goaway, format!("retry: 2300\nid: E.130\ndata: {goaway}\n\n")),
        ] {
            assert_eq!(event(heartbeats, resumed, text), want);
        }
    }
}
