//! Who asks: the token of a request, and what it is good for.
//!
//! Goes in: the header `Authorization`. Comes out: the caller with its scopes. Tokens are read from the store each time, so
//! that one that was removed is refused at once, on all replicas. Hashes are compared in constant time.

use std::sync::PoisonError;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use subtle::ConstantTimeEq as _;

use super::Api;
use super::error::ApiError;
use crate::store::tokens::{Scope, Token};

/// The use of a token is noted at most this often, in microseconds.
const NOTE_EVERY_US: i64 = 60_000_000;

/// Whoever asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The part of the token that names it.
    pub(super) id: String,
    /// The token's name.
    pub(super) name: String,
    pub(super) scopes: Vec<Scope>,
}

impl Caller {
    /// As the audit log names him.
    pub(super) fn who(&self) -> String {
        format!("{} {}", self.id, self.name)
    }

    pub(super) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Refuses a caller whose token has not this scope.
    pub(super) fn needs(&self, scope: Scope) -> Result<(), ApiError> {
        if self.has(scope) {
            return Ok(());
        }
        let has: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        Err(ApiError::forbidden(
            format!("this needs a token with the scope {}; this one has: {}", scope.as_str(), has.join(", ")),
            "use another token, or make one with `bugfeed tokens create`",
        ))
    }
}

/// The scope that a method needs at least.
pub(super) fn scope_of(method: &Method) -> Scope {
    if *method == Method::GET || *method == Method::HEAD { Scope::Read } else { Scope::Write }
}

/// Finds out who asks.
pub(super) async fn authenticate(api: &Api, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or_else(|| refuse("there is no token"))?;
    if values.next().is_some() {
        return Err(refuse("there are two headers Authorization"));
    }
    let text = value.to_str().ok().and_then(bearer).ok_or_else(|| refuse("Authorization holds no bearer token"))?;
    if text.starts_with("bf_") {
        return Err(refuse("this is a key of a sender, not a token of the API"));
    }
    let token = Token::parse(text).ok_or_else(|| refuse("this has not the form of a token"))?;
    let hash = token.hash();
    let mut found = None;
    for stored in api.store().tokens().await? {
        // Each one is compared, whatever its identifier is.
        if bool::from(stored.hash.0.ct_eq(&hash.0)) {
            found = Some(stored);
        }
    }
    let stored = found.ok_or_else(|| refuse("the token is not known, or was removed"))?;
    note_use(api, &stored.id).await;
    Ok(Caller { id: stored.id, name: stored.name, scopes: stored.scopes })
}

fn bearer(text: &str) -> Option<&str> {
    let (scheme, rest) = text.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(rest.trim())
}

fn refuse(error: &str) -> ApiError {
    let fix = "send `Authorization: Bearer TOKEN`; the first token is in the file admin.token of the data directory, and \
               `bugfeed hooks token --store URL` makes another one on the machine of the store";
    ApiError::new(StatusCode::UNAUTHORIZED, error, fix)
}

/// Notes that a token was used, now and then. That it cannot be noted does not matter to whoever asks.
async fn note_use(api: &Api, id: &str) {
    let now_us = api.now_us();
    {
        let mut noted = api.0.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.get(id).is_some_and(|last| now_us.saturating_sub(*last) < NOTE_EVERY_US) {
            return;
        }
        noted.insert(id.to_owned(), now_us);
    }
    let _ = api.store().note_token_use(id, now_us).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens() {
        assert_eq!(bearer("Bearer x"), Some("x"));
        assert_eq!(bearer("  bEARER   x  "), Some("x"));
        for bad in ["", "Bearer", "Basic x", "x"] {
            assert_eq!(bearer(bad), None, "{bad}");
        }
    }
}
