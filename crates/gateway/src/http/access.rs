//! What a request shows in order to be let in, and the answers to what is not enough.
//!
//! Goes in: the head of a request. Comes out: the [`Pass`] of its session, or an answer: 401 where a token is missing or bad, 403
//! where it is good for something else, 400 where it stands in a URL (RFC 6750). No answer repeats a token.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_core::access::{Pass, Refused};
use bugfeed_protocol::client::WhichBugs;
use bugfeed_protocol::token::{SUBPROTOCOL, SUBPROTOCOL_PREFIX, Token};
use bugfeed_runtime::http::ClientAddress;
use bugfeed_runtime::json_line::JsonLine;
use serde_json::json;

use super::query;
use crate::access::TICKET_LIFE_S;
use crate::feed::Feed;

/// The subprotocols that a handshake offers, as far as they are ours.
#[derive(Debug, Default)]
pub(super) struct Offered {
    /// `bugfeed` is among them, and is selected.
    pub(super) ours: bool,
    token: Option<Token>,
}

impl Offered {
    /// Reads the header, in one line or several.
    ///
    /// # Errors
    /// What is wrong, for the client.
    pub(super) fn read(headers: &HeaderMap) -> Result<Offered, &'static str> {
        let mut offered = Offered::default();
        let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
        for name in lines.flat_map(|line| line.split(',')).map(str::trim) {
            if name == SUBPROTOCOL {
                offered.ours = true;
            } else if let Some(token) = name.strip_prefix(SUBPROTOCOL_PREFIX)
                && offered.token.replace(Token::new(token)).is_some()
            {
                return Err("it offers two tokens as subprotocols; one is enough");
            }
        }
        if offered.token.is_some() && !offered.ours {
            return Err("it offers a token as a subprotocol, and must offer the subprotocol 'bugfeed' beside it");
        }
        Ok(offered)
    }
}

/// What a request shows.
#[derive(Debug)]
pub(super) struct Shown {
    /// Whether there is a header `Authorization: Bearer`, well-formed or not.
    token: Option<Token>,
    ticket: Option<String>,
    /// The URL has a parameter in which a token could be meant.
    in_url: bool,
    peer: Option<IpAddr>,
}

impl Shown {
    /// Reads a request. `has_tickets`: its path takes tickets.
    pub(super) fn by(request: &Request, has_tickets: bool) -> Shown {
        let parameters = || form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
        let is_token = |name: &str| matches!(name.to_ascii_lowercase().as_str(), "token" | "access_token");
        let may_have_ticket = has_tickets && request.method() != Method::POST;
        Shown {
            token: bearer(request.headers()),
            ticket: parameters()
                .find(|(name, _)| may_have_ticket && name == "ticket")
                .map(|(_, text)| text.into_owned()),
            in_url: parameters().any(|(name, _)| is_token(&name)),
            peer: ClientAddress::of(request.extensions()),
        }
    }

    /// With the token of a subprotocol, if there is no other one.
    pub(super) fn or_offered(mut self, offered: Offered) -> Shown {
        self.token = self.token.or(offered.token);
        self
    }

    /// Lets a request in that must show a token, or a ticket. `None`: nobody is asked for one here.
    ///
    /// # Errors
    /// The answer to whoever is not let in.
    pub(super) async fn admit(self, feed: &Feed) -> Result<Option<Pass>, Box<Response>> {
        let Some(keeper) = feed.gatekeeper() else { return Ok(None) };
        let peer = self.peer;
        let refuse = |refused| self::refuse(feed, refused, peer);
        if self.in_url {
            return Err(refuse_url(feed, peer));
        }
        let grant = match (&self.token, &self.ticket) {
            (Some(token), _) => keeper.check(token).await.map_err(&refuse)?,
            (None, Some(ticket)) => keeper.take_ticket(ticket, &feed.name).map_err(&refuse)?,
            (None, None) => return Err(refuse(Refused::Missing)),
        };
        grant.check_feed(&feed.name).map_err(refuse)?;
        Ok(Some(feed.pass(grant)))
    }

    /// Lets a WebSocket in. One that shows nothing may still do so in `hello`.
    ///
    /// # Errors
    /// The answer to whoever shows what is not good.
    pub(super) async fn admit_socket(self, feed: &Feed) -> Result<Option<Pass>, Box<Response>> {
        if self.token.is_none() && !self.in_url {
            return Ok(feed.awaited_pass());
        }
        self.admit(feed).await
    }

    /// The client's address, as far as it is known.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
}

/// The token in `Authorization: Bearer`. What is there twice, or is no text, is a token that nobody knows. Other schemes are
/// for a proxy in front, and count as none.
fn bearer(headers: &HeaderMap) -> Option<Token> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let line = lines.next()?;
    if lines.next().is_some() {
        return Some(Token::new(""));
    }
    let Ok(line) = line.to_str() else { return Some(Token::new("")) };
    let (scheme, token) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    scheme.eq_ignore_ascii_case("bearer").then(|| Token::new(token))
}

/// Whether a session with this pass may watch these bugs.
///
/// # Errors
/// The answer to whoever may not.
pub(super) fn check_bugs(
    feed: &Feed,
    pass: Option<&Pass>,
    bugs: &WhichBugs,
    peer: Option<IpAddr>,
) -> Result<(), Box<Response>> {
    let Some(grant) = pass.and_then(|pass| pass.grant.as_ref()) else { return Ok(()) };
    grant.check_bugs(bugs, &[], false).map_err(|text| {
        feed.refused(Refused::Bugs, peer);
        answer(StatusCode::FORBIDDEN, Some("insufficient_scope"), &text, "ask for a token that allows it")
    })
}

fn refuse(feed: &Feed, refused: Refused, peer: Option<IpAddr>) -> Box<Response> {
    feed.refused(refused, peer);
    match refused {
        Refused::Missing => answer(
            StatusCode::UNAUTHORIZED,
            None,
            refused.text(),
            "send the header Authorization: Bearer TOKEN; an EventSource, which can send none, takes a ticket (POST /ticket)",
        ),
        Refused::KeysAway => {
            let refusal = *query::refuse(StatusCode::SERVICE_UNAVAILABLE, refused.text());
            Box::new(([(header::RETRY_AFTER, "5")], refusal).into_response())
        }
        Refused::Feed | Refused::Bugs => {
            let fix = "ask for a token that allows it";
            answer(StatusCode::FORBIDDEN, Some("insufficient_scope"), refused.text(), fix)
        }
        Refused::Ticket => {
            answer(StatusCode::UNAUTHORIZED, Some("invalid_token"), refused.text(), "get another one with POST /ticket")
        }
        _ => {
            let text = format!("invalid token: {}", refused.text());
            answer(StatusCode::UNAUTHORIZED, Some("invalid_token"), &text, "get a new token, and send that")
        }
    }
}

fn refuse_url(feed: &Feed, peer: Option<IpAddr>) -> Box<Response> {
    feed.refused_url(peer);
    let fix = "send the header Authorization: Bearer TOKEN, or from a page the subprotocol bugfeed.bearer.TOKEN, or get a ticket \
               with POST /ticket; and take back this token, which may stand in logs now";
    let body = json!({ "error": "a token must not stand in a URL, because URLs are logged and passed on", "fix": fix });
    Box::new((StatusCode::BAD_REQUEST, [(header::CACHE_CONTROL, "no-store")], JsonLine(body)).into_response())
}

/// An answer of RFC 6750 §3.
fn answer(status: StatusCode, error: Option<&str>, text: &str, fix: &str) -> Box<Response> {
    let mut challenge = "Bearer realm=\"bugfeed\"".to_owned();
    if let Some(error) = error {
        // A description must not hold a quotation mark.
        let description = text.replace(['"', '\\'], "'");
        challenge.push_str(&format!(", error=\"{error}\", error_description=\"{description}\""));
    }
    let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Bearer realm=\"bugfeed\""));
    let headers: [(HeaderName, HeaderValue); 2] =
        [(header::WWW_AUTHENTICATE, challenge), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Box::new((status, headers, JsonLine(json!({ "error": text, "fix": fix }))).into_response())
}

/// `POST /ticket`: a ticket for whoever shows a token. Where nobody is asked for one, the ticket says so, and is not looked at.
pub(super) async fn ticket(feed: &Feed, request: Request) -> Response {
    let shown = Shown::by(&request, false);
    drop(request);
    let pass = match shown.admit(feed).await {
        Ok(pass) => pass,
        Err(refusal) => return *refusal,
    };
    let grant = pass.and_then(|pass| pass.grant);
    let ticket = match (feed.gatekeeper(), grant) {
        (Some(keeper), Some(grant)) => keeper.give_ticket(&grant, &feed.name),
        _ => Ok("open".to_owned()),
    };
    match ticket {
        Ok(ticket) => {
            let body = JsonLine(json!({ "ticket": ticket, "expires_in": TICKET_LIFE_S }));
            (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], body).into_response()
        }
        Err(error) => *query::refuse(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

#[cfg(test)]
mod tests;
