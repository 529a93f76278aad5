//! Texts for people about a failed attempt. In: statuses, bodies, errors, addresses. Out: one line of text each,
//! without passwords, tokens, and characters that would move a terminal's cursor.

use std::ffi::OsString;
use std::io;

use serde_json::Value;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::{StatusCode, Uri};

use crate::connection_end::ConnectionEnd;

/// How much of a server's answer is shown, in characters.
const MAX_SHOWN: usize = 200;
/// The variables that name a proxy for other programs.
const PROXIES: [&str; 6] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];

/// An address without its secrets, whatever its form: the part before an `@` and the query are left out.
pub fn shown(url: &str) -> String {
    let (scheme, mark, rest) = match url.trim().rsplit_once("://") {
        Some((scheme, rest)) => (scheme, "://", rest),
        None => ("", "", url.trim()),
    };
    let (before, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", rest),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?…"),
        None => (rest, ""),
    };
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    plain(&format!("{scheme}{mark}{before}{rest}{query}"))
}

/// A foreign text as one line, without characters that would move a terminal's cursor, and cut to a limit.
pub fn plain(text: &str) -> String {
    let invisible = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let text: String = text.chars().map(|char| if invisible(char) { ' ' } else { char }).collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The text of an answer that is no feed: the error in the gateway's JSON, a page's title, its first line, or the name
/// of its status; and the address that it redirects to.
pub(crate) fn said(status: StatusCode, body: &[u8], location: Option<&str>) -> String {
    let mut text = first_line(&String::from_utf8_lossy(body));
    if let Some(rest) = text.strip_prefix(status.as_str()).and_then(|rest| rest.strip_prefix(' ')) {
        text = rest.to_owned(); // As nginx has it in its pages.
    }
    if text.is_empty() {
        status.canonical_reason().unwrap_or_default().clone_into(&mut text);
    }
    match location.filter(|_| status.is_redirection()) {
        Some(location) => format!("{text}, which leads to {}", shown(location)),
        None => text,
    }
}

fn first_line(text: &str) -> String {
    if let Ok(Value::Object(message)) = serde_json::from_str(text)
        && let Some(error) = message.get("error").and_then(Value::as_str)
    {
        return plain(error);
    }
    // ASCII lower case keeps the length, so a position found in it is also valid in the original.
    let title = text.to_ascii_lowercase().find("<title").and_then(|begin| {
        let (_, rest) = text[begin..].split_once('>')?;
        rest.split('<').next()
    });
    if let Some(title) = title.map(plain).filter(|title| !title.is_empty()) {
        return title;
    }
    let mut bare = String::new();
    let mut is_tag = false;
    for char in text.chars() {
        match char {
            '<' => is_tag = true,
            '>' if is_tag => is_tag = false,
            _ if !is_tag => bare.push(char),
            _ => {}
        }
    }
    bare.lines().map(plain).find(|line| !line.is_empty()).unwrap_or_default()
}

/// What a proxy's answer may mean, and what to do; `None` for other statuses.
pub(crate) fn advice(status: u16) -> Option<&'static str> {
    Some(match status {
        407 => "a proxy wants a login",
        401 | 403 => "what stands in front of the gateway lets nobody in without a login, or not from here",
        400 | 426 => "does the proxy in front of the gateway pass WebSocket on (Upgrade, Connection)?",
        404 => "is the address right, and does the proxy in front of the gateway pass its path on?",
        300..=399 => "write the address that it leads to",
        200..=299 => "that is a page, and no feed: is the address right?",
        _ => "the proxy in front does not reach the gateway, or the gateway is not ready",
    })
}

/// Why there was no answer.
pub(crate) fn unreachable(url: &str, error: &WsError) -> ConnectionEnd {
    let (mut reason, fault) = why(url, error);
    if let Some(name) = proxy_variable(url, |name| std::env::var_os(name)) {
        reason = format!("{reason} ({name} is set; not used here)");
    }
    match fault {
        Some(fault) => ConnectionEnd::Unreachable { reason, fault },
        None => ConnectionEnd::Broken(reason),
    }
}

fn why(url: &str, error: &WsError) -> (String, Option<&'static str>) {
    let (place, is_secure) = (shown(url), url.starts_with("wss:"));
    let tls = |error: &io::Error| error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()).cloned();
    match error {
        WsError::Io(error) => match tls(error) {
            Some(error @ rustls::Error::InvalidCertificate(_)) => {
                (format!("{place} has a certificate that is not trusted here: {error}"), Some("certificate"))
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                (format!("{place} answers without TLS; for a gateway without TLS write ws://"), Some("tls"))
            }
            Some(error) => (format!("no TLS connection to {place}: {error}"), Some("tls")),
            None if is_secure && error.kind() == io::ErrorKind::UnexpectedEof => {
                (format!("{place} ends the connection when TLS is to begin; does it speak TLS?"), Some("tls"))
            }
            None if error.to_string().contains("failed to lookup address") => {
                let uri: Option<Uri> = url.parse().ok();
                let host = uri.as_ref().and_then(Uri::host).map_or_else(|| place.clone(), plain);
                let error = error.to_string();
                let error = error.rsplit_once(": ").map_or(&*error, |(_, error)| error);
                (format!("the name {host} cannot be resolved: {error}"), Some("dns"))
            }
            None => (format!("cannot connect to {place}: {error}"), None),
        },
        WsError::Protocol(ProtocolError::HttparseError(_) | ProtocolError::HandshakeIncomplete) => {
            let tls = if is_secure { "" } else { "; if it wants TLS, write wss://" };
            (format!("{place} does not answer as a web server does{tls}"), Some("http"))
        }
        error => (format!("cannot connect to {place}: {}", plain(&error.to_string())), None),
    }
}

/// The variable, if there is one, by which other programs would use a proxy for this address.
fn proxy_variable(url: &str, get: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    PROXIES.into_iter().find(|name| get(name).is_some_and(|value| !value.is_empty())).filter(|_| !is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (url, want) in [
            ("ws://127.0.0.1:8844/kde/", "ws://127.0.0.1:8844/kde/"),
            ("wss://user:pw@host/feed/?token=t#f", "wss://…@host/feed/?…"),
            ("wss://user:p@w@host/", "wss://…@host/"),
            ("ws://u:p/w?x@host:1/", "ws://…@host:1/"),
            ("guest:pw@host", "…@host"),
            ("mysql:/u:pw@h/db", "…@h/db"),
            ("host/?token=t", "host/?…"),
            ("ws://host/#1234", "ws://host/"),
            (" ws://ho\x1bst\n/", "ws://ho st /"),
            ("://u:p@h", "://…@h"),
            ("", ""),
        ] {
            assert_eq!(shown(url), want, "{url}");
        }
    }

    #[test]
    fn what_an_answer_says() {
        let nginx = "<html>\r\n<head><TITLE>404 Not Found</TITLE></head>\r\n<body>";
        for (status, body, location, want) in [
            (404, nginx, None, "Not Found"),
            (404, "404 page not found\n\nmore\n", None, "page not found"),
            (404, "{\"error\":\"There is no feed here.\"}", None, "There is no feed here."),
            (404, "{\"error\":7}", None, "{\"error\":7}"),
            (401, "\n<p>Who are you?</p>\nmore", None, "Who are you?"),
            (502, "", None, "Bad Gateway"),
            (599, "", None, ""),
            (426, "\x1b[2J\u{202e}boo", None, "[2J boo"),
            (200, "<title>\n Our wiki </title>", None, "Our wiki"),
            (404, "<title></title><h1>Größe", None, "Größe"),
            (
                301,
                "",
                Some("https://u:secret@example.org/?key=secret"),
                "Moved Permanently, which leads to https://…@example.org/?…",
            ),
            (404, "", Some("https://example.org/"), "Not Found"),
        ] {
            assert_eq!(said(StatusCode::from_u16(status).unwrap(), body.as_bytes(), location), want, "{body}");
        }
        assert_eq!(plain(&"ä".repeat(9999)).chars().count(), MAX_SHOWN + 1);
    }

    #[test]
    fn a_proxy_of_the_environment_is_named_not_shown() {
        let set = |name: &str| (name == "HTTPS_PROXY").then(|| OsString::from("http://u:secret@proxy/"));
        for (url, want) in [
            ("wss://gateway.example/", Some("HTTPS_PROXY")),
            ("ws://u@10.0.0.1:8844/", Some("HTTPS_PROXY")),
            ("ws://127.0.0.1:8844/", None),
            ("ws://[::1]:8844/", None),
            ("ws://localhost/", None),
        ] {
            assert_eq!(proxy_variable(url, set), want, "{url}");
        }
        assert_eq!(proxy_variable("ws://gateway.example/", |_| Some(OsString::new())), None);
    }
}
