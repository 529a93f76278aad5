//! Receivers that call: `POST /endpoints/ID/ready` and `GET /endpoints/ID/changes`, signed with the endpoint's secret.
//!
//! Goes in: a request. Comes out: an order in the endpoint's row, or what a feed answers. Any replica takes them, also one
//! that does not serve the endpoint: whoever does finds the order. An unknown endpoint and a wrong signature get the same
//! answer, after the same time. Bodies, calls that wait, and questions to the store are bounded. The stored cursor is never
//! moved.

mod changes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body as RequestBody, Bytes};
use axum::extract::{self, FromRequest, FromRequestParts as _, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bugfeed_core::endpoints::orders::{self, Order, carry_out};
use bugfeed_core::endpoints::question::{Answer, Ask, Bound, Since};
use bugfeed_core::endpoints::row::Row;
use bugfeed_core::input::AHEAD_MS;
use bugfeed_runtime::http::body::{self, BodyFault};
use bugfeed_runtime::json_line::JsonLine;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use self::changes::{Body, Query};
use super::{FeedTap, Taps, target};
use crate::deliver::callers::{Call, Callers, Moment, Refused};
use crate::receive::lookup::Headers;
use crate::store::Store;
use crate::store::endpoints::{ChangeError, EndpointId, Stored};
use crate::tracker::Clock;

/// The longest body of a call.
const LONGEST_BODY: usize = 4096;
/// It may take so long to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// So many questions to the store are under way at a time.
const QUESTIONS: usize = 16;
/// A call waits for its turn and for the store so long.
const PATIENCE: Duration = Duration::from_secs(2);
/// A refusal is answered after this time, whatever it was that was looked at.
const REFUSED_AFTER: Duration = Duration::from_millis(20);
/// So many calls wait for changes at a time; more are answered at once.
const WAITING: usize = 256;
/// An answer has so many changes at most.
const FULL: usize = 1000;
/// A waiting call looks at most so often.
const LOOK: Duration = Duration::from_millis(50);
/// A cursor that is ahead of this feed is a gap after this time.
const AHEAD: Duration = Duration::from_millis(AHEAD_MS);

/// What calls are answered with.
pub(super) struct Calls {
    store: watch::Receiver<Option<Store>>,
    taps: Taps,
    nudged: Arc<Notify>,
    clock: Clock,
    begun: std::time::Instant,
    callers: Callers,
    questions: Semaphore,
    waiting: Semaphore,
}

impl Calls {
    pub(super) fn new(
        store: watch::Receiver<Option<Store>>,
        taps: Taps,
        nudged: Arc<Notify>,
        clock: Clock,
    ) -> Arc<Calls> {
        Arc::new(Calls {
            store,
            taps,
            nudged,
            clock,
            begun: std::time::Instant::now(),
            callers: Callers::new(&rand::random()),
            questions: Semaphore::new(QUESTIONS),
            waiting: Semaphore::new(WAITING),
        })
    }
}

/// The routes.
pub(super) fn routes(calls: Arc<Calls>) -> Router {
    Router::new()
        .route("/endpoints/{id}/ready", post(ready))
        .route("/endpoints/{id}/changes", get(changes))
        .with_state(calls)
}

/// A refusal or a failure.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl Refusal {
    fn away() -> Refusal {
        Refusal(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer just now; try again".to_owned())
    }

    fn of(status: StatusCode, text: &str) -> Refusal {
        Refusal(status, text.to_owned())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.0, JsonLine(json!({ "error": self.1 }))).into_response();
        if matches!(self.0, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The parts of a request that are signed.
struct Request {
    id: String,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl FromRequest<Arc<Calls>> for Request {
    type Rejection = Refusal;

    async fn from_request(request: extract::Request, calls: &Arc<Calls>) -> Result<Request, Refusal> {
        let (mut parts, body) = request.into_parts();
        let Path(id) = Path::from_request_parts(&mut parts, calls)
            .await
            .map_err(|rejection| Refusal(rejection.status(), rejection.body_text()))?;
        let Parts { method, uri, headers, .. } = parts;
        Ok(Request { id, method, uri, headers, body: whole(body).await? })
    }
}

/// All of a body.
async fn whole(body: RequestBody) -> Result<Bytes, Refusal> {
    body::read(body, LONGEST_BODY, BODY_TIME).await.map_err(|fault| match fault {
        BodyFault::TooLarge => {
            Refusal(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {LONGEST_BODY} bytes"))
        }
        BodyFault::Slow => Refusal::of(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
        BodyFault::Broken => Refusal::of(StatusCode::BAD_REQUEST, "the body broke off, or its chunks cannot be read"),
    })
}

struct HeadersOf<'a>(&'a HeaderMap);

impl Headers for HeadersOf<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str().ok())
    }
}

async fn ready(State(calls): State<Arc<Calls>>, request: Request) -> Result<Response, Refusal> {
    let (store, stored) = calls.admit(&request).await?;
    let order = |row: &mut Row| carry_out(row, &Order::Ready);
    let ordering = store.change_endpoint(&stored.id, None, |_, row| order(row));
    let (stored, ()) = match tokio::time::timeout(PATIENCE, ordering).await {
        Ok(Ok(changed)) => changed,
        Ok(Err(ChangeError::Missing | ChangeError::Refused(orders::Refused::Deleted))) => {
            return Err(Refusal::of(StatusCode::UNAUTHORIZED, &Refused::Unauthorized.to_string()));
        }
        Ok(Err(ChangeError::Refused(refused))) => {
            return Err(Refusal::of(StatusCode::TOO_MANY_REQUESTS, &refused.to_string()));
        }
        Ok(Err(ChangeError::TooManyBugs | ChangeError::Store(_))) | Err(_) => return Err(Refusal::away()),
    };
    calls.nudged.notify_one();
    Ok(respond(&json!({ "state": stored.row.state((calls.clock)()).as_str() })))
}

async fn changes(State(calls): State<Arc<Calls>>, request: Request) -> Result<Response, Refusal> {
    let (_, stored) = calls.admit(&request).await?;
    let mut query = Query::read(request.uri.query().unwrap_or_default())?;
    if request.method == Method::HEAD {
        // Nobody waits for a change whose text is not sent.
        query.wait = Duration::ZERO;
    }
    let feed = query.feed_of(&stored.row)?;
    let answer = calls.answer(&stored.row, &feed, &query).await?;
    Ok(respond(&Body::of(&feed, &query, answer)))
}

fn respond(answer: &impl Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], JsonLine(answer)).into_response()
}

impl Calls {
    /// The endpoint, if it was the endpoint that called.
    async fn admit(&self, request: &Request) -> Result<(Store, Stored), Refusal> {
        let begun = Instant::now();
        let admitted = self.check(request).await;
        if let Err(Refusal(StatusCode::UNAUTHORIZED, _)) = &admitted {
            tokio::time::sleep_until(begun + REFUSED_AFTER).await;
        }
        admitted
    }

    async fn check(&self, request: &Request) -> Result<(Store, Stored), Refusal> {
        let store = self.store.borrow().clone().ok_or_else(Refusal::away)?;
        let stored = match EndpointId::parse(&request.id) {
            Some(id) => {
                tokio::time::timeout(PATIENCE, self.look_up(&store, &id)).await.map_err(|_| Refusal::away())??
            }
            None => None,
        };
        let secrets = stored.as_ref().map(|stored| target::secrets(&stored.settings));
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let call = Call {
            headers: &HeadersOf(&request.headers),
            method: request.method.as_str(),
            target,
            body: &request.body,
        };
        let clock = super::when((self.clock)());
        let now = Moment { clock, uptime: self.begun.elapsed() };
        let checked = self.callers.check(&request.id, secrets.as_ref(), &call, now);
        checked.map_err(|refused| {
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::UNAUTHORIZED);
            Refusal(status, refused.to_string())
        })?;
        // What was checked with a secret is there.
        stored.map(|stored| (store, stored)).ok_or_else(Refusal::away)
    }

    async fn look_up(&self, store: &Store, id: &EndpointId) -> Result<Option<Stored>, Refusal> {
        let _turn = self.questions.acquire().await.map_err(|_| Refusal::away())?;
        store.endpoint(id).await.map_err(|_| Refusal::away())
    }

    /// What a feed answers, at once or as soon as it has something.
    async fn answer(&self, row: &Row, feed: &str, query: &Query) -> Result<Answer, Refusal> {
        let tap = self.taps.borrow().iter().find(|tap| &**tap.name() == feed).cloned();
        let Some(tap) = tap else {
            return Err(Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "this process does not have the feed just now"));
        };
        let (begun, mut seen) = (Instant::now(), tap.seen());
        let place = self.waiting.try_acquire().ok();
        let until = begun + place.as_ref().map_or(Duration::ZERO, |_| query.wait);
        loop {
            seen.borrow_and_update();
            let since = query.since.as_ref().unwrap_or(&Since::Head);
            let answer = ask(&*tap, row, since);
            let is_ahead = matches!(answer, Answer::Ahead(_));
            let until = if is_ahead && place.is_some() { until.max(begun + AHEAD) } else { until };
            let now = Instant::now();
            if says_something(&answer) || now >= until {
                // A number that has not come until now may never come.
                let is_gap = is_ahead && now >= begun + AHEAD;
                return Ok(if is_gap { ask(&*tap, row, &Since::Unknown) } else { answer });
            }
            let moved = async { seen.changed().await.is_ok() };
            if !tokio::time::timeout_at(until, moved).await.unwrap_or(true) {
                return Err(Refusal::of(StatusCode::SERVICE_UNAVAILABLE, "this process is about to end; try again"));
            }
            tokio::time::sleep_until((Instant::now() + LOOK).min(until)).await;
        }
    }
}

fn ask(tap: &dyn FeedTap, row: &Row, since: &Since) -> Answer {
    let bound = Bound { entries: FULL, bytes: usize::MAX };
    tap.ask(&Ask { watch: &row.watch, since, place: None, bound })
}

fn says_something(answer: &Answer) -> bool {
    match answer {
        Answer::Changes(batch) => !batch.changes.is_empty(),
        Answer::Gap(..) => true,
        Answer::NotYet(_) | Answer::Ahead(_) => false,
    }
}
