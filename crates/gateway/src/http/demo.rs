//! The button of the live page that changes a bug, in the all-in-one only.
//!
//! Goes in: `POST /demo/touch` from the gateway's own page. Comes out: rows in the change table, as a tracker would
//! write them. Only a person at this machine may press the button. Therefore the request must come from this machine,
//! use a name that means this machine, and pass no proxy (a proxy forwards requests from anywhere). A page of another
//! site may not press it either: the request must be JSON (which browsers send to another site only after a preflight)
//! and come from the page of this gateway.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRequest as _, Request};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::{BugId, When};
use bugfeed_runtime::json_line::JsonLine;
use serde::{Deserialize, Serialize};

use bugfeed_runtime::http::Peer;
use bugfeed_runtime::http::body::declares_more_than;

/// How many bugs one press may change.
const MAX_BUGS: usize = 100;

/// The longest body that may be declared, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// How many presses a second are allowed.
const RATE: f64 = 10.0;

type Touching = Pin<Box<dyn Future<Output = Result<When, String>> + Send>>;

/// The button: writes a change of each bug with the current time, and returns the time that it wrote.
#[derive(Clone)]
pub struct Demo(Arc<Inner>);

struct Inner {
    touch: Box<dyn Fn(Vec<BugId>) -> Touching + Send + Sync>,
    bucket: Mutex<Bucket>,
}

/// A token bucket: it fills up with time, and each press takes one token.
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + since * RATE).min(RATE);
        self.at = now;
        let has = self.left >= 1.0;
        if has {
            self.left -= 1.0;
        }
        has
    }
}

impl std::fmt::Debug for Demo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Demo")
    }
}

#[derive(Debug, Deserialize)]
struct Touch {
    bugs: Vec<BugId>,
}

#[derive(Debug, Serialize)]
struct Touched {
    result: &'static str,
    bugs: Vec<BugId>,
    when: When,
}

impl Demo {
    /// A button that calls `touch` for each press.
    pub fn new<F>(touch: impl Fn(Vec<BugId>) -> F + Send + Sync + 'static) -> Demo
    where
        F: Future<Output = Result<When, String>> + Send + 'static,
    {
        let bucket = Mutex::new(Bucket { left: RATE, at: Instant::now() });
        Demo(Arc::new(Inner { touch: Box::new(move |bugs| Box::pin(touch(bugs))), bucket }))
    }

    /// Whether the button would work for the sender of this request.
    pub fn is_for(&self, request: &Request) -> bool {
        is_local(request)
    }

    /// Answers `POST /demo/touch`.
    pub async fn touch(&self, request: Request) -> Response {
        if !is_local(&request) {
            let text =
                "only a browser on the gateway's own machine may change bugs, by http://127.0.0.1, without a proxy";
            return refuse(StatusCode::FORBIDDEN, text);
        }
        if !same_origin(request.headers()) {
            return refuse(StatusCode::FORBIDDEN, "only the gateway's own page may change bugs");
        }
        if !self.0.bucket.lock().expect("nobody panics holding it").take(Instant::now()) {
            let refusal = refuse(StatusCode::TOO_MANY_REQUESTS, "not so fast: 10 times a second is enough");
            return ([(header::RETRY_AFTER, "1")], refusal).into_response();
        }
        if declares_more_than(request.body(), LONGEST_BODY) {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "name 1 to 100 bugs");
        }
        let body = tokio::time::timeout(Duration::from_secs(5), Json::<Touch>::from_request(request, &()));
        let bugs = match body.await {
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
            Ok(Err(rejection)) => {
                let hint = "send Content-Type: application/json and {\"bugs\":[1234]}";
                return refuse(rejection.status(), hint);
            }
            Ok(Ok(Json(touch))) => touch.bugs,
        };
        if bugs.is_empty() || bugs.len() > MAX_BUGS {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, "name 1 to 100 bugs");
        }
        match (self.0.touch)(bugs.clone()).await {
            Ok(when) => JsonLine(Touched { result: "ok", bugs, when }).into_response(),
            Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error),
        }
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, JsonLine(serde_json::json!({ "result": "error", "error": error }))).into_response()
}

/// Whether a request comes from this machine, directly, and by a name that can only mean this machine. The name is
/// checked because of DNS rebinding: a page whose name was made to resolve to this machine still sends its own name in
/// `Host`.
fn is_local(request: &Request) -> bool {
    let headers = request.headers();
    let peer = request.extensions().get::<Peer>();
    let peer = peer.is_some_and(|Peer(address)| address.ip().to_canonical().is_loopback());
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let host = host.as_ref().is_some_and(means_this_machine) && hosts.next().is_none();
    let asked = request.uri().authority().is_none_or(means_this_machine);
    // Proxies speak HTTP/1.0 unless they are configured otherwise, and then often send no header that gives them away.
    let straight = request.version() >= Version::HTTP_11 && !headers.keys().any(is_of_a_proxy);
    peer && host && asked && straight
}

fn means_this_machine(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let loopback = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    !authority.as_str().contains('@') && (loopback || host.eq_ignore_ascii_case("localhost"))
}

/// Whether this is a header that proxies add to the requests that they forward.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    let begins = ["x-forwarded", "x-original", "x-envoy", "x-amzn", "cf-", "fly-", "x-proxy"];
    let is = ["forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "x-request-id"];
    is.contains(&name) || begins.iter().any(|begin| name.starts_with(begin))
}

/// Whether the gateway's own page sent this. Browsers always send the origin with a POST.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let fetch_site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let host = text(header::HOST.as_str()).unwrap_or("");
    let origin = text(header::ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"));
    fetch_site && origin == Some(host)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(peer: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::post("/demo/touch");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.extension(Peer(peer.parse().unwrap())).body(Body::empty()).unwrap()
    }

    #[test]
    fn only_this_machine_may_press_it() {
        let here = "127.0.0.1:5";
        let host = ("host", "127.0.0.1:8844");
        for (peer, headers, want) in [
            (here, &[host][..], true),
            ("[::1]:5", &[("host", "[::1]:8844")], true),
            ("[::ffff:127.0.0.1]:5", &[("host", "LOCALHOST:1")], true),
            (here, &[("host", "127.8.9.10")], true),
            ("192.0.2.1:5", &[host], false),
            ("172.17.0.1:5", &[host], false),
            (here, &[], false),
            (here, &[host, host], false),
            // A name that was made to resolve to this machine, and names that only look like it.
            (here, &[("host", "rebind.example:8844")], false),
            (here, &[("host", "127.0.0.1.rebind.example")], false),
            (here, &[("host", "localhost.rebind.example")], false),
            (here, &[("host", "localhost@rebind.example")], false),
            (here, &[("host", "0.0.0.0:8844")], false),
            (here, &[("host", "2130706433")], false),
            (here, &[host, ("x-forwarded-for", "192.0.2.1")], false),
            (here, &[host, ("x-forwarded-proto", "https")], false),
            (here, &[host, ("forwarded", "for=192.0.2.1")], false),
            (here, &[host, ("via", "1.1 proxy")], false),
            (here, &[host, ("x-real-ip", "192.0.2.1")], false),
        ] {
            assert_eq!(is_local(&request(peer, headers)), want, "{peer} {headers:?}");
        }
        let mut old = request(here, &[host]);
        *old.version_mut() = Version::HTTP_10;
        assert!(!is_local(&old), "as nginx asks where it is not told otherwise");
        let mut elsewhere = request(here, &[host]);
        *elsewhere.uri_mut() = "http://rebind.example/demo/touch".parse().unwrap();
        assert!(!is_local(&elsewhere));
    }

    #[test]
    fn other_sites_are_refused() {
        let host = ("host", "127.0.0.1:1");
        for (headers, want) in [
            (&[host, ("origin", "http://127.0.0.1:1")][..], true),
            (&[host, ("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-origin")], true),
            (&[host], false),
            (&[host, ("origin", "http://127.0.0.1:2")], false),
            (&[host, ("origin", "https://127.0.0.1:1")], false),
            (&[host, ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")], false),
            (&[host, ("origin", "http://evil.example")], false),
            (&[host, ("origin", "null")], false),
            (&[host, ("origin", "http://127.0.0.1:1"), ("sec-fetch-site", "same-site")], false),
        ] {
            assert_eq!(same_origin(request("127.0.0.1:5", headers).headers()), want, "{headers:?}");
        }
    }

    #[test]
    fn ten_presses_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket { left: RATE, at: start };
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 10);
        let later = |ms| start + Duration::from_millis(ms);
        assert!(bucket.take(later(101)) && !bucket.take(later(101)));
        assert_eq!((0..100).filter(|_| bucket.take(later(60_000))).count(), 10);
    }
}
