//! A small client of the API, for the commands.
//!
//! Goes in: a method, a path, parameters, a body. Comes out: the JSON of the answer, or why there is none: nobody listens,
//! something else listens, or the API refuses. It never sends a request twice, and never shows the token.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;

use crate::client::{Address, BadAddress, Client, Fault, Options, Request, TooLong};
use crate::store::tokens::Token;

/// The longest answer that is read, in bytes. (A body of a request, as Base64, is in one.)
const LONGEST_ANSWER: usize = 128 << 20;
/// How long an answer may take. Pruning and bulk orders work for up to 20 s.
const WITHIN: Duration = Duration::from_secs(60);

/// The address of an admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminUrl(String);

impl std::str::FromStr for AdminUrl {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<AdminUrl, BadAddress> {
        let text = text.trim().trim_end_matches('/');
        Address::parse(text)?;
        Ok(AdminUrl(text.to_owned()))
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AdminUrl {
    /// Whether the token would go over a network without encryption.
    pub fn is_open(&self) -> bool {
        let Ok(address) = Address::parse(&self.0) else { return false };
        let origin = address.origin();
        let is_here = match origin.host.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => origin.host == "localhost",
        };
        !origin.is_https && !is_here
    }
}

/// Why there is no answer of the API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nobody answers.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// Something answers that is not this API.
    #[error(
        "{server} answers, but not as the API of hooks ({what}); it is on the admin port of `bugfeed` or `bugfeed hooks`"
    )]
    NotTheApi {
        /// Which server.
        server: String,
        /// What it seems to be.
        what: String,
    },
    /// The API refuses.
    #[error("{error}; {fix}")]
    Refused {
        /// The status.
        status: u16,
        /// What is wrong.
        error: String,
        /// How to mend it.
        fix: String,
    },
    /// The URL is none.
    #[error("the URL is wrong: {0}")]
    BadUrl(#[from] BadAddress),
}

impl CallError {
    /// Whether another port may have what this one has not.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self, CallError::Fault(Fault::Connect { .. }) | CallError::NotTheApi { .. })
    }
}

/// A client of one admin listener.
#[derive(Clone, Debug)]
pub struct ApiClient {
    client: Client,
    url: AdminUrl,
    token: Token,
}

impl ApiClient {
    /// A client of this listener, with this token.
    pub fn new(url: AdminUrl, token: Token) -> ApiClient {
        // No connection is kept, so that no request is sent again because a kept one was closed.
        let options = Options { idle: Duration::ZERO, ..Options::default() };
        ApiClient { client: Client::new(options), url, token }
    }

    /// The listener's address.
    pub fn url(&self) -> &AdminUrl {
        &self.url
    }

    /// Asks: `path` begins behind `/api/`, and its parts are percent-encoded ([`part`]).
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CallError> {
        let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let query = if query.is_empty() { query } else { format!("?{query}") };
        self.send(Method::GET, &format!("{path}{query}"), None).await
    }

    /// Orders something.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal. Without an answer it is unknown whether the order was carried out.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// Changes something.
    ///
    /// # Errors
    /// As of [`ApiClient::post`].
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.send(Method::PATCH, path, Some(body)).await
    }

    /// Removes something.
    ///
    /// # Errors
    /// As of [`ApiClient::post`].
    pub async fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.send(Method::DELETE, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let to = Address::parse(&format!("{}/api/{path}", self.url))?;
        let server = to.origin().to_string();
        let mut token =
            HeaderValue::try_from(format!("Bearer {}", self.token.expose())).map_err(|_| Fault::BadRequest)?;
        token.set_sensitive(true);
        let mut request = Request::get(to).with(AUTHORIZATION, token);
        request.method = method;
        request.body = body.map(|body| body.to_string().into()).unwrap_or_default();
        request.within = WITHIN;
        request.longest_body = LONGEST_ANSWER;
        request.too_long = TooLong::Fail;
        let response = self.client.send(request).await?;
        let status = response.status.as_u16();
        let json: Option<Value> = serde_json::from_slice(&response.body).ok().filter(Value::is_object);
        let is_ours = response.header("bugfeed-version").is_some();
        let what = if is_ours { "another port of bugfeed".to_owned() } else { format!("status {status}") };
        let Some(json) = json else { return Err(CallError::NotTheApi { server, what }) };
        if response.status.is_success() {
            return Ok(json);
        }
        match (json["error"].as_str(), json["fix"].as_str()) {
            (Some(error), Some(fix)) => {
                Err(CallError::Refused { status, error: error.to_owned(), fix: fix.to_owned() })
            }
            _ => Err(CallError::NotTheApi { server, what }),
        }
    }
}

/// A part of a path, percent-encoded.
pub fn part(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The body of a request that was asked for with `body=true`; `None`: it was not kept.
pub fn body_of(request: &Value) -> Option<Vec<u8>> {
    match (request["body"].as_str(), request["body_base64"].as_str()) {
        (Some(text), _) => Some(text.as_bytes().to_vec()),
        (None, Some(base64)) => STANDARD.decode(base64).ok(),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_parts_of_paths() {
        let url: AdminUrl = "http://127.0.0.1:8845/".parse().unwrap();
        assert_eq!((url.to_string().as_str(), url.is_open()), ("http://127.0.0.1:8845", false));
        for (text, is_open) in
            [("http://localhost:1", false), ("http://[::1]:1", false), ("https://h", false), ("http://h:1/x", true)]
        {
            assert_eq!(text.parse::<AdminUrl>().unwrap().is_open(), is_open, "{text}");
        }
        assert!("8845".parse::<AdminUrl>().is_err());
        assert_eq!(part("a/b é?"), "a%2Fb%20%C3%A9%3F");
    }
}
