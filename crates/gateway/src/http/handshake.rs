//! The WebSocket handshake (RFC 6455 §4.2).
//!
//! Goes in: the head of a request. Comes out: the answer that switches the connection to WebSocket, or the one that says
//! what is wrong. It does not look at the feed, nor at who asks.

use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::query;

/// The version of RFC 6455.
const VERSION: &str = "13";

/// Versions of drafts with the frames of RFC 6455 (hybi-07 to 10), which the original server took too.
const DRAFTS: [&str; 2] = ["8", "7"];

/// Whether a request asks for WebSocket, in whatever way.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

/// Whether one of the tokens of a header is this one. Several lines are one list (RFC 9110 §5.3).
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// The text of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) => line.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// Whether this text is base64 of 16 bytes.
fn is_nonce(key: &str) -> bool {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    key.len() == 24 && key.strip_suffix("==").is_some_and(|digits| digits.bytes().all(alphabet))
}

/// Answers a handshake.
///
/// # Errors
/// The answer to what is no handshake, or is one of a version that is not spoken.
pub(super) fn accept(request: &Request) -> Result<Response, Box<Response>> {
    let headers = request.headers();
    if request.method() != Method::GET || request.version() < Version::HTTP_11 {
        return Err(bad("it needs GET and HTTP/1.1"));
    }
    if !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("it needs Connection: Upgrade"));
    }
    let version = only(headers, &header::SEC_WEBSOCKET_VERSION);
    let version = version.map_err(|()| bad("it needs one Sec-WebSocket-Version"))?;
    let Some(version) = version.filter(|version| *version == VERSION || DRAFTS.contains(version)) else {
        return Err(other_version());
    };
    // The libraries of the drafts made keys of other lengths.
    let is_key = |key: &&str| if version == VERSION { is_nonce(key) } else { !key.is_empty() };
    let Some(key) = only(headers, &header::SEC_WEBSOCKET_KEY).ok().flatten().filter(is_key) else {
        return Err(bad("it needs one Sec-WebSocket-Key, which is 16 bytes in base64"));
    };
    // A body would have to be read before the connection can be taken from the HTTP server, and might never arrive.
    if !request.body().is_end_stream() {
        return Err(bad("it has no body"));
    }
    let answer = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes())),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, answer).into_response())
}

/// What was offered beside the handshake.
///
/// # Errors
/// The answer to what is wrong with it.
pub(super) fn with<T>(offered: Result<T, &'static str>) -> Result<T, Box<Response>> {
    offered.map_err(bad)
}

fn bad(what: &str) -> Box<Response> {
    let text = format!("not a WebSocket handshake: {what} (RFC 6455)");
    let refusal = *query::refuse(StatusCode::BAD_REQUEST, &text);
    Box::new(([(header::SEC_WEBSOCKET_VERSION, VERSION)], refusal).into_response())
}

/// RFC 6455 §4.4: the client may try again with the version that is named, on the same connection.
fn other_version() -> Box<Response> {
    let text = "this WebSocket version is not spoken here; use Sec-WebSocket-Version: 13 (RFC 6455)";
    let refusal = *query::refuse(StatusCode::UPGRADE_REQUIRED, text);
    let named = [
        (header::SEC_WEBSOCKET_VERSION, VERSION),
        // RFC 9110 §15.5.22 wants the protocol to be named.
        (header::UPGRADE, "websocket"),
        (header::CONNECTION, "Upgrade"),
    ];
    Box::new((named, refusal).into_response())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    /// The status of a handshake of which these headers are replaced: name and lines.
    fn status(changes: &[(&'static str, &[&str])]) -> u16 {
        let mut headers = vec![
            ("connection", vec!["Upgrade"]),
            ("upgrade", vec!["websocket"]),
            ("sec-websocket-version", vec![VERSION]),
            ("sec-websocket-key", vec![KEY]),
        ];
        for (name, lines) in changes {
            headers.retain(|(known, _)| known != name);
            headers.push((*name, lines.to_vec()));
        }
        let mut request = Request::get("/");
        for (name, lines) in headers {
            for line in lines {
                request = request.header(name, line);
            }
        }
        let request = request.body(Body::empty()).unwrap();
        if !is_wanted(request.headers()) {
            return 0;
        }
        accept(&request).map_or_else(|refusal| refusal.status().as_u16(), |answer| answer.status().as_u16())
    }

    #[test]
    fn lists_may_be_in_one_line_or_in_several() {
        for lines in [&["keep-alive, Upgrade"][..], &["keep-alive", "Upgrade"], &["x,,upgrade ,y"], &["x", "UPGRADE"]] {
            assert_eq!(status(&[("connection", lines)]), 101, "{lines:?}");
        }
        for lines in [&["h2c, websocket"][..], &["h2c", "WebSocket"], &["websocket", "h2c"]] {
            assert_eq!(status(&[("upgrade", lines)]), 101, "{lines:?}");
        }
        assert_eq!(status(&[("upgrade", &["h2c"])]), 0);
        for lines in [&[][..], &["keep-alive"], &["keep-alive", "close"], &["xupgrade"]] {
            assert_eq!(status(&[("connection", lines)]), 400, "{lines:?}");
        }
    }

    #[test]
    fn keys_are_16_bytes_and_stand_there_once() {
        for key in ["AAAAAAAAAAAAAAAAAAAAAA==", "+/+/+/+/+/+/+/+/+/+/+A==", "MTMtMTc5NTM3MzExOTgwNw=="] {
            assert_eq!(status(&[("sec-websocket-key", &[key])]), 101, "{key}");
        }
        for lines in [
            &[][..],
            &[""],
            &["x"],
            &["OC0xNzk1MzczMTE5ODA3"],
            &["dGhlIHNhbXBsZSBub25jZQ"],
            &["dGhlIHNhbXBsZSBub25jZQ=="; 2],
            &["dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA=="],
            &["dGhlIHNhbXBsZSBub25jZQ==, x"],
            &["dGhlIHNhbXBsZSBub25j!Q=="],
            &["dGhlIHNhbXBsZSBub25jZSE="],
            &["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="],
        ] {
            assert_eq!(status(&[("sec-websocket-key", lines)]), 400, "{lines:?}");
        }
    }

    /// ws 0.8 made a key of 15 bytes for version 8.
    #[test]
    fn other_versions_are_told_which_one_is_spoken() {
        for (lines, want) in [
            (&["8"][..], 101),
            (&["7"], 101),
            (&["13", "13"], 400),
            (&["13", "8"], 400),
            (&["13, 8"], 426),
            (&["14"], 426),
            (&["6"], 426),
            (&["0"], 426),
            (&["x"], 426),
            (&[], 426),
        ] {
            assert_eq!(status(&[("sec-websocket-version", lines)]), want, "{lines:?}");
        }
        let short: (&str, &[&str]) = ("sec-websocket-key", &["OC0xNzk1MzczMTE5ODA3"]);
        assert_eq!(status(&[("sec-websocket-version", &["8"]), short]), 101);
        assert_eq!(status(&[("sec-websocket-version", &["8"]), ("sec-websocket-key", &[""])]), 400);
    }
}
