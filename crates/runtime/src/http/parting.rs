//! How connections are ended: with an answer that the peer can read, and without a reset that overtakes it.

use std::time::Duration;

use axum::http::StatusCode;
use bugfeed_core::admission::{Reason, Refusal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::VERSION_HEADER;
use super::proxied::NoHeader;
use super::wire::Wire;

/// The longest time for which a connection is still read from while it is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Why a client is turned away: the status, and the text.
pub(super) fn words(reason: Reason) -> (StatusCode, &'static str) {
    match reason {
        Reason::Full => (StatusCode::SERVICE_UNAVAILABLE, "this gateway is full; try again later"),
        Reason::Rate => (StatusCode::SERVICE_UNAVAILABLE, "too many clients come at this moment; try again later"),
        Reason::ClientFull => (
            StatusCode::TOO_MANY_REQUESTS,
            "your address has as many connections as one may have; close some, or try again later",
        ),
        Reason::ClientRate => {
            (StatusCode::TOO_MANY_REQUESTS, "too many connections or requests from your address; try again later")
        }
    }
}

/// Answers that there is no room for this connection.
pub(super) async fn say_no(stream: TcpStream, refusal: Refusal) {
    let mut stream = Wire::from(stream);
    let (status, text) = words(refusal.reason);
    let seconds = refusal.retry_after_s;
    // Pages of any site may read this answer, because it tells them nothing secret.
    let more = format!(
        "Retry-After: {seconds}\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: {VERSION_HEADER}, \
         retry-after\r\nCache-Control: no-store\r\n"
    );
    say(&mut stream, status, &more, &format!("{{\"error\":\"{text}\"}}")).await;
    linger_close(&mut stream).await;
}

/// Writes an answer without the HTTP server: `more` are further header lines, each with its end.
async fn say(stream: &mut Wire, status: StatusCode, more: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\n{more}Content-Type: application/json\r\nConnection: close\r\n{VERSION_HEADER}: {}\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Length: {}\r\n\r\n{text}",
        crate::VERSION,
        text.len()
    );
    // An error means that the peer has left; one that takes nothing is not waited for.
    let _ = tokio::time::timeout(LINGER, stream.write_all(answer.as_bytes())).await;
}

/// Tells a proxy that its connection does not begin as it must.
pub(super) async fn refuse_header(stream: TcpStream, reason: NoHeader) {
    let mut stream = Wire::from(stream);
    let text = match reason {
        NoHeader::Bad(bad) => bad.to_string(),
        NoHeader::Late => "the PROXY header did not arrive in time".to_owned(),
        NoHeader::Gone { .. } => return,
    };
    let text = format!(
        "{{\"error\":\"{text}\",\"fix\":\"have the proxy send one (PROXY protocol), or start without --proxy-protocol\"}}"
    );
    say(&mut stream, StatusCode::BAD_REQUEST, "", &text).await;
    linger_close(&mut stream).await;
}

/// Closes a connection to which nothing can be said.
pub(super) async fn leave(stream: TcpStream) {
    linger_close(&mut Wire::from(stream)).await;
}

/// Answers 400 to a peer that speaks HTTP to a port that speaks TLS.
pub(super) async fn speak_tls(stream: TcpStream) {
    let mut stream = Wire::from(stream);
    let text = "{\"error\":\"this port speaks TLS\",\"fix\":\"use https:// or wss://\"}";
    say(&mut stream, StatusCode::BAD_REQUEST, "", text).await;
    linger_close(&mut stream).await;
}

/// Ends a connection. To a peer that has begun a request and not ended its head in time, it says so first.
pub(super) async fn part(stream: &mut Wire, is_late: bool) {
    if is_late {
        let text = "{\"error\":\"the head of the request did not arrive in time\",\"fix\":\"send it again\"}";
        say(stream, StatusCode::REQUEST_TIMEOUT, "", text).await;
    }
    linger_close(stream).await;
}

/// Closes politely: sends FIN, then reads for a moment until the peer closes. Why: bytes that arrive after a plain
/// close are answered with a reset. The reset would stop a peer that is still writing its refused request, and might
/// overtake the refusal.
async fn linger_close(stream: &mut Wire) {
    let parting = async {
        stream.shutdown().await?;
        let mut scratch = [0; 4096];
        while stream.read(&mut scratch).await? > 0 {}
        std::io::Result::Ok(())
    };
    // The peer has been answered, so errors and the timeout do not matter.
    let _ = tokio::time::timeout(LINGER, parting).await;
}
