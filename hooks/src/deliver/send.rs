//! One request to an endpoint.
//!
//! Goes in: where it goes, an id, a body, the secrets and headers of the endpoint. Comes out: what came of it, in the classes
//! that the planner tells apart. Bounded: 5 s to connect, 15 s in all, 16 KiB of the response; what comes after these is
//! neither read nor waited for. It never follows a redirect, never connects to an address that the rules forbid, and never
//! tries again, except at once where a kept connection turns out to be closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bugfeed_protocol::When;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{self, HeaderValue};

use super::address::Rules;
use super::headers::UserHeaders;
use super::sign::Secrets;
use crate::client::{Address, Client, Fault, Options, Request, Resolver, Response, TooLong};

/// The whole request takes at most so long.
pub const WITHIN: Duration = Duration::from_secs(15);
/// So many bytes of a response are read; then its connection is closed.
pub const LONGEST_READ: usize = 16 * 1024;
/// So many bytes of a response are kept, as text that can be shown.
pub const LONGEST_KEPT: usize = 2_048;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Where it goes.
    pub to: &'a Address,
    /// The headers that the endpoint's owner added.
    pub headers: &'a UserHeaders,
    /// The id, `webhook-id`.
    pub id: &'a str,
    /// The body, a JSON text.
    pub body: &'a Bytes,
    /// What it is signed with.
    pub secrets: &'a Secrets,
    /// The time.
    pub now: When,
}

/// What kind of fault there was, if no response came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// The name cannot be looked up, or has no address.
    Dns,
    /// Nobody listens there, or there is no way there.
    Refused,
    /// No head of a response came in time; connecting counts, too.
    TimeoutBeforeHead,
    /// A head came, the body did not end in time.
    TimeoutAfterHead,
    /// The server cannot prove that it is the host of the URL.
    Tls,
    /// What came is no HTTP.
    Protocol,
    /// The connection was closed before the response was complete.
    Closed,
    /// All addresses of the host are forbidden.
    Forbidden,
    /// Something on this machine; it says nothing about the endpoint.
    Ours,
}

impl FaultClass {
    /// The word for it in the API and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            FaultClass::Dns => "dns",
            FaultClass::Refused => "refused",
            FaultClass::TimeoutBeforeHead => "timeout",
            FaultClass::TimeoutAfterHead => "timeout-body",
            FaultClass::Tls => "tls",
            FaultClass::Protocol => "protocol",
            FaultClass::Closed => "closed",
            FaultClass::Forbidden => "forbidden",
            FaultClass::Ours => "ours",
        }
    }
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response.
    Answered {
        /// Its status.
        status: u16,
        /// What it says in `Retry-After`, in microseconds from the request's time on.
        retry_after_us: Option<i64>,
    },
    /// No response.
    Failed {
        /// What kind of fault.
        class: FaultClass,
        /// What happened, in a sentence, without path or query.
        why: String,
        /// It will be the same each time: the URL has a forbidden address in it.
        is_final: bool,
    },
}

impl Outcome {
    /// Whether the receiver took it.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Answered { status: 200..=299, .. })
    }
}

/// A request that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// The beginning of the response's body; control characters are written as escapes.
    pub response: String,
}

/// Sends requests. Cheap to clone; the clones share connections.
#[derive(Clone, Debug)]
pub struct Sender {
    client: Client,
    within: Duration,
}

impl Sender {
    /// Sends only where the rules permit. `client`: the bounds of connecting and of kept connections.
    pub fn new(client: Options, rules: Rules) -> Sender {
        Sender { client: Client::with_rule(client, Arc::new(rules)), within: WITHIN }
    }

    /// The same, with another way to look up names.
    pub fn with_resolver(client: Options, rules: Rules, resolver: Arc<dyn Resolver>) -> Sender {
        Sender { client: Client::with_resolver(client, Arc::new(rules), resolver), within: WITHIN }
    }

    /// The same, with another bound of the whole request than [`WITHIN`].
    #[must_use]
    pub fn within(self, within: Duration) -> Sender {
        Sender { within, ..self }
    }

    /// Sends it, and waits for what comes of it.
    pub async fn deliver(&self, delivery: &Delivery<'_>) -> Attempt {
        let begin = Instant::now();
        let result = match self.request(delivery) {
            Some(request) => self.client.send(request).await,
            None => Err(Fault::BadRequest),
        };
        let took = begin.elapsed();
        match result {
            Ok(response) => {
                let outcome = Outcome::Answered {
                    status: response.status.as_u16(),
                    retry_after_us: response.retry_after_us(delivery.now.as_micros()),
                };
                Attempt { outcome, took, response: shown(&response) }
            }
            Err(fault) => Attempt { outcome: failed(&fault), took, response: String::new() },
        }
    }

    fn request(&self, delivery: &Delivery<'_>) -> Option<Request> {
        let signed = delivery.secrets.headers(delivery.id, delivery.body, delivery.now)?;
        let mut headers = Vec::with_capacity(delivery.headers.len() + signed.len() + 1);
        headers.extend(delivery.headers.iter().cloned());
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        headers.extend(signed);
        Some(Request {
            method: Method::POST,
            to: delivery.to.clone(),
            headers,
            body: delivery.body.clone(),
            within: self.within,
            longest_body: LONGEST_READ,
            too_long: TooLong::Cut,
            redirects: 0,
        })
    }
}

fn failed(fault: &Fault) -> Outcome {
    let (class, is_final) = match fault {
        Fault::Name { .. } => (FaultClass::Dns, false),
        Fault::Forbidden { is_final, .. } => (FaultClass::Forbidden, *is_final),
        Fault::Connect { .. } => (FaultClass::Refused, false),
        Fault::Tls { .. } => (FaultClass::Tls, false),
        Fault::ConnectTooSlow { .. } | Fault::TooSlow { after_head: false, .. } => {
            (FaultClass::TimeoutBeforeHead, false)
        }
        Fault::TooSlow { after_head: true, .. } => (FaultClass::TimeoutAfterHead, false),
        Fault::Closed => (FaultClass::Closed, false),
        Fault::TooLong { .. } | Fault::NoHttp(_) => (FaultClass::Protocol, false),
        Fault::NoTrust | Fault::BadRequest => (FaultClass::Ours, false),
    };
    Outcome::Failed { class, why: fault.to_string(), is_final }
}

/// The beginning of the body, as text in which nothing hides.
fn shown(response: &Response) -> String {
    let begin = response.body.get(..LONGEST_KEPT).unwrap_or(&response.body);
    let mut text = String::with_capacity(begin.len());
    let is_whole = begin.len() == response.body.len() && !response.is_cut;
    for c in String::from_utf8_lossy(begin).chars() {
        let before = text.len();
        match c {
            '\n' | '\r' | '\t' => text.extend(c.escape_default()),
            c if hides(c) => text.extend(c.escape_unicode()),
            c => text.push(c),
        }
        if text.len() > LONGEST_KEPT {
            text.truncate(before);
            return text + "…";
        }
    }
    if is_whole { text } else { text + "…" }
}

/// Control characters, and others that change how the text around them looks.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests;
