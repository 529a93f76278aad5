//! The one HTTP client of hooks: it asks trackers, tells people, and can deliver to endpoints.
//!
//! Goes in: a [`Request`]. Comes out: a [`Response`] of any status, or a [`Fault`] that says what prevented one. Everything
//! is bounded: the search for the host, connecting, the whole request, the head and the body of the response, and the
//! connections that are kept. It never follows a redirect unless the request allows it, and then only to the same server;
//! never uses a proxy, whatever the environment says; never retries, except at once where a kept connection turns out to
//! be closed; and never shows a URL's path or query in an error, because they may hold secrets.
//!
//! It speaks HTTP/1.1, and HTTP/2 to servers that choose it in the handshake of TLS. Which addresses it may connect to is the
//! decision of an [`AddressRule`], which is asked about every address of a name after the name was looked up by a
//! [`Resolver`], and about addresses that stand in the URL. Clients with different rules share no connections.
//!
//! hyper speaks the protocol; the pool is ours (`pool.rs`), because one retry on a kept connection, a rule for
//! addresses and bounds for each request are all that is needed, and hyper-util's client would be two more packages.

mod address;
mod dial;
mod fault;
mod pool;
mod resolve;
mod response;
#[cfg(test)]
mod tests;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};

pub use self::address::{Address, BadAddress, Origin};
pub use self::fault::Fault;
use self::pool::{Pool, Sender};
pub use self::resolve::{AddressRule, Anywhere, Resolver, System};
pub use self::response::Response;
use self::tls::Tls;
pub use self::tls::Trust;
pub(crate) use self::{dial::Dialer, dial::Stream};

/// The `User-Agent` of all requests.
pub const USER_AGENT: &str = concat!("bugfeed-hooks/", env!("CARGO_PKG_VERSION"));

/// The longest head of a response, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;

/// The bounds of a client.
#[derive(Clone, Debug)]
pub struct Options {
    /// Looking up the host, connecting and TLS take at most this long.
    pub connect: Duration,
    /// A kept connection is closed after so long without a request.
    pub idle: Duration,
    /// So many idle connections are kept in all.
    pub idle_in_all: usize,
    /// So many idle connections are kept to one server.
    pub idle_per_server: usize,
    /// HTTP/2 is offered to servers that are asked by `https`.
    pub http2: bool,
    /// Which certificates are trusted.
    pub trust: Trust,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            idle_in_all: 256,
            idle_per_server: 4,
            http2: true,
            trust: Trust::Machine,
        }
    }
}

/// What is done with a body that is longer than the request's bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// The request fails.
    Fail,
    /// The beginning is returned, and the connection closed.
    Cut,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where it goes.
    pub to: Address,
    /// Headers besides `Host`, `User-Agent` and `Content-Length`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
    /// The whole request, redirects included, takes at most this long.
    pub within: Duration,
    /// At most so many bytes of the response's body are read.
    pub longest_body: usize,
    /// What happens beyond that.
    pub too_long: TooLong,
    /// So many redirects to the same server are followed, by `GET` and `HEAD` only.
    pub redirects: u8,
}

impl Request {
    /// A `GET` of at most 15 s and 1 MiB, without redirects.
    pub fn get(to: Address) -> Request {
        Request {
            method: Method::GET,
            to,
            headers: Vec::new(),
            body: Bytes::new(),
            within: Duration::from_secs(15),
            longest_body: 1024 * 1024,
            too_long: TooLong::Fail,
            redirects: 0,
        }
    }

    /// A `POST` of a JSON text; of the response at most 16 KiB are read, and the rest thrown away.
    pub fn post_json(to: Address, body: impl Into<Bytes>) -> Request {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Request {
            method: Method::POST,
            headers: vec![json],
            body: body.into(),
            longest_body: 16 * 1024,
            too_long: TooLong::Cut,
            ..Request::get(to)
        }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Request {
        self.headers.push((name, value));
        self
    }
}

/// The client. Cheap to clone; the clones share connections. It must be used within a tokio runtime.
#[derive(Clone, Debug)]
pub struct Client {
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
}

impl Client {
    /// A client that may connect anywhere: for addresses that are the operator's word.
    pub fn new(options: Options) -> Client {
        Client::with_rule(options, Arc::new(Anywhere))
    }

    /// A client that connects only where the rule permits.
    pub fn with_rule(options: Options, rule: Arc<dyn AddressRule>) -> Client {
        Client::with_resolver(options, rule, Arc::new(System::default()))
    }

    /// A client that connects only where the rule permits, and asks this resolver for addresses.
    pub fn with_resolver(options: Options, rule: Arc<dyn AddressRule>, resolver: Arc<dyn Resolver>) -> Client {
        let pool = Pool::new(options.idle, options.idle_in_all, options.idle_per_server);
        let tls = Tls::new(options.trust, options.http2);
        Client { dialer: Arc::new(Dialer::new(options.connect, tls, rule, resolver)), pool: Arc::new(pool) }
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends a request and reads the response.
    ///
    /// # Errors
    /// If there is no response, or none within the bounds. A response of any status is no error.
    pub async fn send(&self, request: Request) -> Result<Response, Fault> {
        let within = request.within;
        let has_head = AtomicBool::new(false);
        match tokio::time::timeout(within, self.send_and_follow(request, &has_head)).await {
            Ok(result) => result,
            Err(_) => Err(Fault::TooSlow { within, after_head: has_head.load(Ordering::Relaxed) }),
        }
    }

    async fn send_and_follow(&self, mut request: Request, has_head: &AtomicBool) -> Result<Response, Fault> {
        let mut redirects = 0;
        loop {
            has_head.store(false, Ordering::Relaxed);
            let mut response = self.send_once(&request, has_head).await?;
            response.redirects = redirects;
            let may_follow = redirects < request.redirects && [Method::GET, Method::HEAD].contains(&request.method);
            let location = may_follow.then(|| redirect_of(&request.to, &response)).flatten();
            let Some(location) = location else { return Ok(response) };
            request.to = location;
            redirects += 1;
        }
    }

    /// Sends it over a kept connection, if there is one, otherwise over a new one.
    async fn send_once(&self, request: &Request, has_head: &AtomicBool) -> Result<Response, Fault> {
        let origin = request.to.origin();
        if let Some(kept) = self.pool.take(origin) {
            let mut kept = InUse { client: self, origin, sender: Some(kept) };
            // The task that drives a kept connection may still be at the end of the last response: that is waited for.
            if kept.sender().ready().await.is_ok() {
                let built = build(request, kept.is_http2());
                match kept.sender().send(built).await {
                    Ok(response) => return kept.read(request, response, has_head).await,
                    // The server has closed it meanwhile, and this request found out.
                    Err(error) if fault::is_closed(&error) => {}
                    Err(error) => return Err(Fault::of_hyper(&error)),
                }
            }
        }
        let (stream, is_http2) = self.dialer.connect(origin).await?;
        let sender = Sender::begin(stream, is_http2, LONGEST_HEAD).await?;
        let mut new = InUse { client: self, origin, sender: Some(sender) };
        let sent = new.sender().send(build(request, is_http2)).await;
        new.read(request, sent.map_err(|error| Fault::of_hyper(&error))?, has_head).await
    }
}

/// A connection with a request under way. If that is given up before there is a response, nobody gets the connection again.
struct InUse<'a> {
    client: &'a Client,
    origin: &'a Origin,
    sender: Option<Sender>,
}

impl InUse<'_> {
    fn sender(&mut self) -> &mut Sender {
        self.sender.as_mut().expect("it is taken only by `read`, which consumes this")
    }

    fn is_http2(&self) -> bool {
        self.sender.as_ref().is_some_and(Sender::is_http2)
    }

    async fn read(
        mut self,
        request: &Request,
        response: hyper::Response<hyper::body::Incoming>,
        has_head: &AtomicBool,
    ) -> Result<Response, Fault> {
        has_head.store(true, Ordering::Relaxed);
        let sender = self.sender.take();
        let (head, mut incoming) = response.into_parts();
        let mut body = BytesMut::new();
        let mut is_cut = false;
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Fault::of_hyper(&error))?;
            let Ok(data) = frame.into_data() else { continue };
            let room = request.longest_body - body.len();
            if data.len() <= room {
                body.extend_from_slice(&data);
                continue;
            }
            if request.too_long == TooLong::Fail {
                return Err(Fault::TooLong { longest: request.longest_body });
            }
            body.extend_from_slice(&data[..room]);
            is_cut = true;
            break;
        }
        // Of HTTP/2, only the stream ends where a body is cut; others may be using the connection.
        if let Some(sender) = sender.filter(|sender| !is_cut || sender.is_http2()) {
            self.client.pool.put(self.origin, sender);
        }
        let body = body.freeze();
        Ok(Response { status: head.status, headers: head.headers, body, is_cut, redirects: 0 })
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.client.pool.forget(self.origin, &sender);
        }
    }
}

/// Where a redirect leads, if that is the same server.
fn redirect_of(from: &Address, response: &Response) -> Option<Address> {
    let is_redirect = matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let to = response.header("location").filter(|_| is_redirect)?;
    from.join(to).filter(|to| to.origin() == from.origin())
}

fn build(request: &Request, is_http2: bool) -> hyper::Request<Full<Bytes>> {
    let mut built = hyper::Request::new(Full::new(request.body.clone()));
    *built.method_mut() = request.method.clone();
    let headers = built.headers_mut();
    headers.reserve(request.headers.len() + 3);
    headers.extend(request.headers.iter().cloned());
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if is_http2 {
        // The URL says the host.
        *built.uri_mut() = request.to.whole().clone();
    } else {
        headers.insert(header::HOST, request.to.host().clone());
        *built.uri_mut() = request.to.target().clone();
    }
    built
}
