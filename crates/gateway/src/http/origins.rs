//! Which sites' pages may use the feed.
//!
//! Goes in: `--allow-origin`. Comes out: the CORS headers of answers to pages, and whether a WebSocket handshake comes
//! from a page that may connect (CORS does not apply to handshakes). Clients that are not browsers send no origin and
//! are always let in.

use std::str::FromStr;

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use bugfeed_runtime::http::VERSION_HEADER;

/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_S: u64 = 3600;

/// One value of `--allow-origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `*`: pages of any site.
    Any,
    /// `none`: pages of the gateway's own address only.
    Own,
    /// Pages of this site, as browsers write it: `https://bugs.example.org`.
    Site(HeaderValue),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Origin, String> {
        match text.trim() {
            "*" => Ok(Origin::Any),
            "none" => Ok(Origin::Own),
            text => {
                let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
                if text.contains('*') {
                    let instead = "name each site in full, as in https://bugs.example.org, and repeat the option";
                    return Err(format!("'*' stands for all sites, alone, and for no part of a name: {instead}"));
                }
                let site = text.parse::<Uri>().ok().is_some_and(|uri| {
                    let web = matches!(uri.scheme_str(), Some("http" | "https"));
                    web && uri.path() == "/" && uri.query().is_none() && !text.contains('@')
                });
                let value = HeaderValue::from_str(&text).ok().filter(|_| site);
                value.map(Origin::Site).ok_or_else(|| "write https://HOST, '*' for any site, or 'none'".to_owned())
            }
        }
    }
}

/// The sites whose pages may use the feed.
#[derive(Clone, Debug)]
pub struct Origins {
    any: bool,
    sites: Vec<HeaderValue>,
}

impl Origins {
    /// The sites that the command line allows.
    pub fn new(allowed: &[Origin]) -> Origins {
        let site = |origin: &Origin| match origin {
            Origin::Site(site) => Some(site.clone()),
            Origin::Any | Origin::Own => None,
        };
        Origins { any: allowed.contains(&Origin::Any), sites: allowed.iter().filter_map(site).collect() }
    }

    /// The CORS layer: it adds the headers that let pages of these sites read the answers.
    pub fn cors(&self) -> CorsLayer {
        let origins = if self.any { AllowOrigin::any() } else { AllowOrigin::list(self.sites.iter().cloned()) };
        CorsLayer::new()
            .allow_origin(origins)
            // Credentials are for pages that share a login with the gateway, so that their requests carry a cookie
            // (`withCredentials`). Browsers allow that only to sites that are named.
            .allow_credentials(!self.any)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers([VERSION_HEADER, header::RETRY_AFTER])
            .max_age(std::time::Duration::from_secs(PREFLIGHT_S))
    }

    /// Whether a handshake with these headers may go on.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| !self.any) else { return true };
        // The gateway's own page: the address in the origin is the one that was asked.
        let own = || {
            let address = origin.to_str().ok()?.split_once("://")?.1;
            Some(headers.get(header::HOST)?.to_str().ok()?.eq_ignore_ascii_case(address))
        };
        self.sites.contains(origin) || own().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(texts: &[&str]) -> Origins {
        Origins::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn who_may_shake_hands() {
        let tracker = "https://bugs.example.org";
        for (allowed, origin, want) in [
            (&["*"][..], Some("https://anywhere.example"), true),
            (&["*"], Some("null"), true),
            (&[tracker], Some(tracker), true),
            (&["HTTPS://Bugs.Example.org/"], Some(tracker), true),
            (&[tracker, "http://127.0.0.1:8080"], Some("http://127.0.0.1:8080"), true),
            (&[tracker], Some("https://bugs.example.org.evil.example"), false),
            (&[tracker], Some("http://bugs.example.org"), false),
            (&[tracker], Some("null"), false),
            (&[tracker], None, true),
            (&["none"], None, true),
            (&["none"], Some("http://feed.example:8844"), true),
            (&["none"], Some(tracker), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("feed.example:8844"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            assert_eq!(origins(allowed).allow(&headers), want, "{allowed:?} {origin:?}");
        }
    }

    #[test]
    fn what_is_no_site_is_refused() {
        for text in [
            "",
            "bugs.example.org",
            "https://bugs.example.org/path",
            "ws://bugs.example.org",
            "https://a@b",
            "https://",
            "https://*.example.org",
            "*.example.org",
            "https://bugs.example.org:*",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
