//! What every request must keep to, whatever its path (RFC 9112 and 9110): its `Host`, and how its body is framed.
//!
//! Goes in: a request's head, as hyper has read it. Comes out: the refusal, if there is one. Why hyper does not do it: it
//! reads a request that a proxy in front may have read in another way, which lets somebody smuggle a second request past
//! that proxy.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use bugfeed_core::admission;

use super::hosts::{self, Hosts};
use super::parting::words;

/// Why a request is refused, before anybody looks at its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// How it is counted.
    pub(super) kind: &'static str,
    error: &'static str,
    fix: &'static str,
    /// When to come back, in seconds.
    retry_after_s: Option<u32>,
}

impl From<admission::Refusal> for Refusal {
    fn from(admission::Refusal { reason, retry_after_s }: admission::Refusal) -> Refusal {
        let (status, error) = words(reason);
        let fix = "come back after the time in Retry-After";
        Refusal { status, kind: reason.kind(), error, fix, retry_after_s: Some(retry_after_s) }
    }
}

const fn bad(error: &'static str, fix: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, kind: "bad_request", error, fix, retry_after_s: None }
}

const ONE_HOST: &str = "send one header Host, as RFC 9112 asks";

/// Looks at the head of a request. `has_both` says that it has `Content-Length` and `Transfer-Encoding`, of which hyper
/// shows only the latter.
pub(super) fn look_at<B>(request: &Request<B>, has_both: bool, hosts: &Hosts) -> Result<(), Refusal> {
    framing(request.headers(), has_both)?;
    let named = host(request.headers(), request.version())?;
    let asked = match request.uri().authority() {
        // RFC 9112 §3.2.2: the whole address in the first line counts more than the header.
        Some(authority) => {
            let (host, _) =
                hosts::split(authority.as_str()).ok_or(bad("the host in the first line is none", ONE_HOST))?;
            Some(host)
        }
        None => named,
    };
    if hosts.serve(asked) {
        return Ok(());
    }
    Err(Refusal {
        status: StatusCode::MISDIRECTED_REQUEST,
        kind: "host",
        error: "this host is not served here",
        fix: "ask by one of the names that the operator gave with --host, or have this one added",
        retry_after_s: None,
    })
}

/// The host that the header names, without the port.
fn host(headers: &HeaderMap, version: Version) -> Result<Option<&str>, Refusal> {
    let mut lines = headers.get_all(header::HOST).iter();
    match (lines.next(), lines.next()) {
        (None, _) if version < Version::HTTP_11 => Ok(None),
        (None, _) => Err(bad("there is no header Host", ONE_HOST)),
        (Some(_), Some(_)) => Err(bad("there are two headers Host", ONE_HOST)),
        (Some(value), None) => match value.to_str().ok().and_then(hosts::split) {
            Some((host, _)) => Ok(Some(host)),
            None => Err(bad("the header Host names no host", ONE_HOST)),
        },
    }
}

fn framing(headers: &HeaderMap, has_both: bool) -> Result<(), Refusal> {
    const CHUNKED: &str = "send the body with Content-Length, or with Transfer-Encoding: chunked and nothing else";
    if has_both {
        return Err(bad("there are both Content-Length and Transfer-Encoding", CHUNKED));
    }
    let mut codings = 0;
    for line in headers.get_all(header::TRANSFER_ENCODING) {
        let line = line.to_str().map_err(|_| bad("Transfer-Encoding cannot be read", CHUNKED))?;
        for coding in line.split(',').map(str::trim).filter(|coding| !coding.is_empty()) {
            if !coding.eq_ignore_ascii_case("chunked") {
                let status = StatusCode::NOT_IMPLEMENTED;
                return Err(Refusal { status, ..bad("this transfer coding is not known here", CHUNKED) });
            }
            codings += 1;
        }
    }
    if codings > 1 { Err(bad("the body is chunked twice", CHUNKED)) } else { Ok(()) }
}

impl Refusal {
    /// The answer. It ends the connection, because nobody can tell where the next request begins.
    pub(super) fn respond(self) -> Response<Body> {
        let body = format!("{{\"error\":\"{}\",\"fix\":\"{}\"}}", self.error, self.fix);
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        for (name, value) in [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
            (header::CONNECTION, "close"),
            // Pages of any site may read this answer, because it tells them nothing secret.
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, "bugfeed-version, retry-after"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &[(&str, &str)], uri: &str, version: Version, has_both: bool, hosts: &Hosts) -> u16 {
        let mut builder = Request::get(uri).version(version);
        for (name, value) in request {
            builder = builder.header(*name, *value);
        }
        let looked = look_at(&builder.body(()).unwrap(), has_both, hosts);
        looked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn a_request_names_one_host() {
        let hosts = Hosts::new(&["x".parse().unwrap()]);
        for (headers, version, anybody, named) in [
            (&[("host", "x")][..], Version::HTTP_11, 200, 200),
            (&[("host", "X.:8844")], Version::HTTP_11, 200, 200),
            (&[("host", "")], Version::HTTP_11, 200, 421),
            (&[("host", "y")], Version::HTTP_11, 200, 421),
            (&[], Version::HTTP_11, 400, 400),
            (&[], Version::HTTP_10, 200, 421),
            (&[("host", "x"), ("host", "x")], Version::HTTP_11, 400, 400),
            (&[("host", "x"), ("host", "y")], Version::HTTP_10, 400, 400),
            (&[("host", "x y")], Version::HTTP_11, 400, 400),
            (&[("host", "a@x")], Version::HTTP_11, 400, 400),
            (&[("host", "x:port")], Version::HTTP_11, 400, 400),
        ] {
            assert_eq!(status(headers, "/", version, false, &Hosts::default()), anybody, "{headers:?}");
            assert_eq!(status(headers, "/", version, false, &hosts), named, "{headers:?}");
        }
        // The first line counts more.
        let host = [("host", "x")];
        assert_eq!(status(&host, "http://y/", Version::HTTP_11, false, &hosts), 421);
        assert_eq!(status(&[("host", "y")], "http://x:80/", Version::HTTP_11, false, &hosts), 200);
        assert_eq!(status(&host, "http://a@x/", Version::HTTP_11, false, &hosts), 400);
        assert_eq!(status(&[], "http://x/", Version::HTTP_11, false, &hosts), 400);
    }

    #[test]
    fn a_body_is_framed_in_one_way() {
        for (lines, want) in [
            (&["chunked"][..], 200),
            (&["Chunked"], 200),
            (&["gzip, chunked"], 501),
            (&["gzip", "chunked"], 501),
            (&["chunked, identity"], 501),
            (&["xchunked"], 501),
            (&["chunked, chunked"], 400),
            (&["chunked", "chunked"], 400),
            (&["chunked;q=1"], 501),
        ] {
            let headers: Vec<_> =
                lines.iter().map(|line| ("transfer-encoding", *line)).chain([("host", "x")]).collect();
            assert_eq!(status(&headers, "/", Version::HTTP_11, false, &Hosts::default()), want, "{lines:?}");
        }
        assert_eq!(status(&[("host", "x")], "/", Version::HTTP_11, true, &Hosts::default()), 400);
    }
}
