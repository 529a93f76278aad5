//! One WebSocket connection, TLS included. In: the address, texts to send. Out: [`Heard`]. Never reconnects, never
//! interprets the texts that it carries.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bugfeed_protocol::token::Token;
use futures::{Sink as _, Stream as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes, protocol::CloseFrame};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};

use crate::Error;
use crate::connection_end::ConnectionEnd;
use crate::token::Tokens;
use crate::words;

/// The largest message that is accepted from a gateway, in bytes: enough for a list of a million bugs, as in a reply of
/// the classic protocol.
const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// How much is read at once; most messages are about 100 bytes.
const READ_BYTES: usize = 4 << 10;
/// How long a gateway may take to answer a close frame.
const CLOSE: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Socket, ConnectionEnd>> + Send>>;

/// What a connection reports.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The connection is open.
    Opened,
    /// A text message was received.
    Text(Utf8Bytes),
    /// The connection has ended, or could not be opened.
    Ended(ConnectionEnd),
}

/// The connection, if there is one.
#[derive(Default)]
pub(crate) enum Link {
    #[default]
    None,
    Connecting(Connecting),
    Open {
        socket: Box<Socket>,
        outbox: VecDeque<Message>,
    },
}

impl Link {
    /// Begins a connection; an earlier one is dropped.
    pub(crate) fn connect(&mut self, url: &str, tokens: &Tokens) {
        let (url, tokens) = (url.to_owned(), tokens.clone());
        *self = Link::Connecting(Box::pin(async move { connect(&url, tokens.next().await?).await }));
    }

    /// Queues a text to be sent. Without an open connection the text is dropped.
    pub(crate) fn send(&mut self, text: String) {
        if let Link::Open { outbox, .. } = self {
            outbox.push_back(Message::text(text));
        }
    }

    /// Whether all queued texts have been handed to the socket.
    pub(crate) fn is_idle(&self) -> bool {
        !matches!(self, Link::Open { outbox, .. } if !outbox.is_empty())
    }

    /// Waits for the next report of the connection, and sends meanwhile; waits for ever if there is no connection. The
    /// future may be dropped and the function called again.
    pub(crate) async fn next(&mut self) -> Heard {
        match self {
            Link::None => std::future::pending().await,
            Link::Connecting(connecting) => match connecting.as_mut().await {
                Ok(socket) => {
                    *self = Link::Open { socket: Box::new(socket), outbox: VecDeque::new() };
                    Heard::Opened
                }
                Err(end) => {
                    *self = Link::None;
                    Heard::Ended(end)
                }
            },
            Link::Open { socket, outbox } => {
                let heard = poll_fn(|cx| poll_open(socket, outbox, cx)).await;
                if matches!(heard, Heard::Ended(_)) {
                    *self = Link::None;
                }
                heard
            }
        }
    }

    /// Closes the connection as RFC 6455 asks, but waits at most one second for the answer.
    pub(crate) async fn close(&mut self) {
        if let Link::Open { mut socket, .. } = std::mem::take(self) {
            let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            let closing = async {
                socket.close(Some(frame)).await?;
                // Read to the end: with unread bytes, the system would reset the connection.
                while let Some(Ok(_)) = socket.next().await {}
                Ok::<(), WsError>(())
            };
            // A connection that cannot be closed in order is dropped.
            let _ = tokio::time::timeout(CLOSE, closing).await;
        }
    }
}

fn poll_open(socket: &mut Socket, outbox: &mut VecDeque<Message>, cx: &mut Context<'_>) -> Poll<Heard> {
    // Reading goes on while writing waits, because a gateway may accept nothing more before the client has read what it
    // sent.
    let written = poll_write(socket, outbox, cx);
    loop {
        return Poll::Ready(match Pin::new(&mut *socket).poll_next(cx) {
            Poll::Ready(Some(Ok(Message::Text(text)))) => Heard::Text(text),
            Poll::Ready(Some(Ok(Message::Close(frame)))) => Heard::Ended(match frame {
                Some(frame) => ConnectionEnd::Closed { code: frame.code.into(), text: words::plain(&frame.reason) },
                None => ConnectionEnd::Broken("closed by the gateway".to_owned()),
            }),
            // Pings are answered by the library; a pong goes out with the next flush, which this loop's next round does.
            Poll::Ready(Some(Ok(_))) => {
                let _ = Pin::new(&mut *socket).poll_flush(cx);
                continue;
            }
            Poll::Ready(Some(Err(error))) => Heard::Ended(ConnectionEnd::Broken(format!("connection lost: {error}"))),
            Poll::Ready(None) => Heard::Ended(ConnectionEnd::Broken("connection closed".to_owned())),
            // The write error is reported only now, when everything that the gateway sent before the end is read,
            // because that may tell the reason.
            Poll::Pending => match written {
                Err(error) => Heard::Ended(ConnectionEnd::Broken(format!("connection lost: {error}"))),
                Ok(()) => return Poll::Pending,
            },
        });
    }
}

fn poll_write(socket: &mut Socket, outbox: &mut VecDeque<Message>, cx: &mut Context<'_>) -> Result<(), WsError> {
    let mut socket = Pin::new(socket);
    while !outbox.is_empty() {
        match socket.as_mut().poll_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => return Ok(()),
        }
        if let Some(message) = outbox.pop_front() {
            socket.as_mut().start_send(message)?;
        }
    }
    match socket.poll_flush(cx) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    }
}

async fn connect(url: &str, token: Option<Token>) -> Result<Socket, ConnectionEnd> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let connector = if url.starts_with("wss:") { Some(Connector::Rustls(tls().await?)) } else { None };
    let request = request(url, token).map_err(|error| words::unreachable(url, &error))?;
    let connecting = pin!(connect_async_tls_with_config(request, Some(config), true, connector));
    match connecting.await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(answer)) => {
            let location = answer.headers().get("location").and_then(|location| location.to_str().ok());
            Err(ConnectionEnd::Refused {
                status: answer.status().as_u16(),
                text: words::said(answer.status(), answer.body().as_deref().unwrap_or_default(), location),
                retry_after: retry_after(answer.headers(), SystemTime::now()),
                by_gateway: answer.headers().contains_key("bugfeed-version"),
            })
        }
        Err(error) => Err(words::unreachable(url, &error)),
    }
}

/// The request for the handshake, with the token, if there is one.
fn request(url: &str, token: Option<Token>) -> Result<Request, WsError> {
    let mut request = url.into_client_request()?;
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// Trusts the certificates that this machine trusts. The crypto provider is chosen here, because the application may
/// have installed none, or linked two.
async fn tls() -> Result<Arc<rustls::ClientConfig>, ConnectionEnd> {
    let loaded = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let loaded = loaded
        .map_err(|error| ConnectionEnd::Broken(format!("cannot read the certificates of this machine: {error}")))?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let errors = loaded.errors;
        return Err(ConnectionEnd::Broken(format!(
            "this machine trusts no certificate authority; install ca-certificates, or set SSL_CERT_FILE: {errors:?}"
        )));
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The delay that `Retry-After` asks for; it may be seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    SystemTime::from(at).duration_since(now).ok()
}

/// Reads a gateway's address, and returns it in the form that a WebSocket client needs. `http` and `https`, as in the
/// address of the live page, are accepted for `ws` and `wss`.
///
/// # Errors
/// [`Error::Address`], which says what an address looks like.
pub fn address(text: &str) -> Result<String, Error> {
    let bad = || Error::Address(words::shown(text));
    let uri: Uri = text.trim().parse().map_err(|_| bad())?;
    let scheme = match uri.scheme_str() {
        Some("ws" | "http") => "ws",
        Some("wss" | "https") => "wss",
        _ => return Err(bad()),
    };
    let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(bad)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(format!("{scheme}://{authority}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, want) in [
            ("ws://127.0.0.1:8844/", Some("ws://127.0.0.1:8844/")),
            ("http://127.0.0.1:8844", Some("ws://127.0.0.1:8844/")),
            (" https://bugfeed.example.org/kde/#1234 ", Some("wss://bugfeed.example.org/kde/")),
            ("wss://[::1]:1/?a=b", Some("wss://[::1]:1/?a=b")),
            ("HTTP://x/", Some("ws://x/")),
            ("ftp://x/", None),
            ("127.0.0.1:8844", None),
            ("localhost", None),
            ("ws://", None),
            ("", None),
        ] {
            assert_eq!(address(text).ok().as_deref(), want, "{text}");
        }
        assert!(address("ftp://x").unwrap_err().to_string().contains("ws://HOST:PORT/"));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        for (text, want) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Wed, 21 Oct 2015 07:29:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", None),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([("retry-after".parse().unwrap(), text.parse().unwrap())]);
            let headers: HeaderMap = headers;
            assert_eq!(retry_after(&headers, now), want.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
