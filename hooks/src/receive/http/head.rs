//! What is known of a request before its body: where it goes, who sent it, and what of its headers may be shown.

use std::fmt;
use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bugfeed_protocol::When;
use bugfeed_runtime::http::{ClientAddress, Peer};

use super::places::Declared;
use crate::config::Source;
use crate::config::auth::{KeyPlace, Signature};
use crate::receive::key::{path_end, redact_path};
use crate::receive::lookup::{Headers, Place};
use crate::receive::received::{Envelope, RequestId};

/// So many headers are kept of a request.
const MOST_HEADERS: usize = 40;
/// So many bytes of each.
const LONGEST_HEADER: usize = 300;
/// Headers whose name has one of these in it are not kept: they may hold a secret.
const SECRET: [&str; 10] =
    ["auth", "cookie", "credential", "key", "pass", "secret", "session", "signature", "token", "jwt"];

/// The headers of a request. Their `Debug` shows none, because there are secrets among them.
#[derive(Clone, Default)]
pub(super) struct HeaderView(pub(super) HeaderMap);

impl fmt::Debug for HeaderView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} headers", self.0.len())
    }
}

impl Headers for HeaderView {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }
}

/// The head of a request. It has no `Debug`, because of what may be in the path.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) id: RequestId,
    pub(super) received_us: i64,
    pub(super) address: IpAddr,
    /// The source's name, as the path says it.
    pub(super) name: String,
    /// What follows it: a key, where the source takes keys there.
    pub(super) path_end: Option<String>,
    /// The query seems to hold a key, where none counts.
    pub(super) has_query_key: bool,
    /// The path, redacted.
    pub(super) path: String,
    pub(super) headers: HeaderView,
    /// What it says of the body.
    pub(super) declared: Declared,
}

impl Head {
    pub(super) fn read(parts: Parts, received_us: i64) -> Head {
        let path = parts.uri.path();
        let after = ["/public/webhook/", "/hooks/", "/h/"].iter().find_map(|start| path.strip_prefix(start));
        let name = after.unwrap_or_default().split('/').next().unwrap_or_default();
        let bytes = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let declared = Declared { bytes, asks_first: parts.headers.contains_key(header::EXPECT) };
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip().to_canonical());
        let query = parts.uri.query().unwrap_or_default();
        let has_query_key = query.split('&').any(|pair| {
            let name = pair.split('=').next().unwrap_or_default().to_ascii_lowercase();
            pair.contains("bf_") || ["key", "token", "secret"].iter().any(|word| name.ends_with(word))
        });
        Head {
            id: RequestId::new(received_us, rand::random()),
            received_us,
            address: ClientAddress::of(&parts.extensions).or(peer).unwrap_or(unknown),
            name: name.to_owned(),
            path_end: path_end(path).map(str::to_owned),
            path: redact_path(path),
            has_query_key,
            declared,
            headers: HeaderView(parts.headers),
        }
    }

    /// When it was received.
    pub(super) fn arrived(&self) -> When {
        When::from_micros(self.received_us).unwrap_or_else(|| When::from_system_time(std::time::SystemTime::now()))
    }

    /// What is stored of the request. The body is added by the caller.
    pub(super) fn envelope(&self, source: Option<&Source>, status: u16) -> Envelope {
        let has_plain_name = self.name.len() <= 64
            && self.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let shown_name = if has_plain_name && !self.name.contains("bf_") { self.name.as_str() } else { "" };
        Envelope {
            id: self.id,
            source: source.map_or(shown_name, |source| &source.name).to_owned(),
            received_us: self.received_us,
            address: self.address,
            key_id: None,
            path: if shown_name.is_empty() { "/…".to_owned() } else { self.path.clone() },
            headers: shown_headers(&self.headers.0, source),
            size: self.declared.bytes.unwrap_or_default(),
            body_hash: None,
            body: None,
            status,
        }
    }
}

/// The headers without those that may hold a secret.
fn shown_headers(headers: &HeaderMap, source: Option<&Source>) -> Vec<(String, String)> {
    let is_secret = |name: &str| {
        let sounds_so = SECRET.iter().any(|word| name.contains(word));
        source.map_or(sounds_so, |source| takes_secret(source, name) || sounds_so && !maps(source, name))
    };
    let shown = headers.iter().filter(|(name, _)| !is_secret(name.as_str())).filter_map(|(name, value)| {
        let value = value.to_str().ok().filter(|value| !value.contains("bf_"))?;
        let end = (0..=LONGEST_HEADER.min(value.len())).rev().find(|end| value.is_char_boundary(*end));
        Some((name.as_str().to_owned(), value[..end.unwrap_or(0)].to_owned()))
    });
    shown.take(MOST_HEADERS).collect()
}

/// Whether the source's mapping looks at this header, such as `Idempotency-Key`.
fn maps(source: &Source, header: &str) -> bool {
    let mut places = source.mapping.places_outside();
    places.any(|lookup| matches!(&lookup.place, Place::Header(name) if name.eq_ignore_ascii_case(header)))
}

/// Whether the source takes a key, a secret or a signature from this header.
fn takes_secret(source: &Source, header: &str) -> bool {
    let of_keys = source.keys.iter().any(|place| match place {
        KeyPlace::Header(name) => name.eq_ignore_ascii_case(header),
        KeyPlace::Bearer | KeyPlace::Basic | KeyPlace::Path => false,
    });
    of_keys || source.signatures.iter().any(|form| signature_header(form).eq_ignore_ascii_case(header))
}

/// The header in which a signature of this form stands.
pub(super) fn signature_header(form: &Signature) -> &str {
    match form {
        Signature::Hmac { header, .. } | Signature::Token { header } => header,
        Signature::StandardWebhooks => "webhook-signature",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HooksConfig;
    use axum::http::Request;

    fn head(path: &str, headers: &[(&str, &str)]) -> Head {
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Head::read(request.body(()).unwrap().into_parts().0, 5)
    }

    #[test]
    fn nothing_that_may_be_a_secret_is_kept() {
        let given = [
            ("content-type", "application/json"),
            ("authorization", "Bearer bf_aaaaaa_secret"),
            ("cookie", "a=b"),
            ("x-api-key", "k"),
            ("x-gitlab-token", "t"),
            ("x-hub-signature-256", "sha256=00"),
            ("x-odd", "see bf_aaaaaa_secret"),
            ("x-github-event", "issues"),
        ];
        let head = head("/hooks/kde/bf_aaaaaa_secret?key=bf_x", &given);
        let envelope = head.envelope(None, 200);
        let names: Vec<&str> = envelope.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "x-github-event"]);
        assert_eq!((envelope.path.as_str(), envelope.source.as_str()), ("/hooks/kde/…", "kde"));
        assert_eq!(head.path_end.as_deref(), Some("bf_aaaaaa_secret"));
    }

    #[test]
    fn what_the_mapping_looks_at_is_kept_unless_it_is_a_secret() {
        let text = r#"
            [[source]]
            name = "x"
            auth = { header = "X-Token" }
            id = ["header:Idempotency-Key", "header:X-Token"]
            bug = "/bug"
        "#;
        let config = HooksConfig::read("test", text, &|_| Err(String::new())).unwrap();
        let given = [("idempotency-key", "d1"), ("x-token", "t"), ("x-other-key", "k")];
        let envelope = head("/hooks/x", &given).envelope(config.source("x"), 200);
        assert_eq!(envelope.headers, [("idempotency-key".to_owned(), "d1".to_owned())]);
    }

    #[test]
    fn a_key_in_place_of_the_name_is_not_kept() {
        for path in ["/hooks/bf_aaaaaa_secret", "/h/x%20y/z", "/public/webhook/"] {
            let envelope = head(path, &[]).envelope(None, 200);
            assert_eq!((envelope.path.as_str(), envelope.source.as_str()), ("/…", ""), "{path}");
        }
    }
}
