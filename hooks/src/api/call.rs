//! A request to the API: its caller, its parameters, its body, within bounds.
//!
//! Goes in: an HTTP request. Comes out: a [`Call`], or a refusal. Unknown parameters and members are refused by name, so
//! that a misspelt filter does not select everything.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::log_event::LogEvent;
use bugfeed_runtime::http::body::{self, BodyFault};
use bugfeed_runtime::json_line::JsonLine;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Api;
use super::access::{Caller, authenticate, scope_of};
use super::error::{Answer, ApiError};
use super::params::Params;
use crate::store::Store;
use crate::store::audit::Deed;

/// The longest body of a request to the API, in bytes. (A captured request that is to be tried out is in it.)
pub(super) const LONGEST_BODY: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// A request of somebody who may make it.
pub(super) struct Call {
    pub(super) api: Api,
    pub(super) caller: Caller,
    /// Microseconds since 1970.
    pub(super) now_us: i64,
    query: Option<String>,
    body: Bytes,
}

impl FromRequest<Api> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Call, ApiError> {
        let (parts, body) = request.into_parts();
        let caller = authenticate(api, &parts.headers).await?;
        caller.needs(scope_of(&parts.method))?;
        let body = match body::read(body, LONGEST_BODY, BODY_TIME).await {
            Ok(body) => body,
            Err(BodyFault::TooLarge) => {
                let error = format!("the body is longer than {LONGEST_BODY} bytes");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, error, "send less"));
            }
            Err(BodyFault::Broken) => {
                let error = "the body broke off, or its chunks cannot be read";
                return Err(ApiError::bad(error, "send it again"));
            }
            Err(BodyFault::Slow) => {
                let error = format!("the body took longer than {} s", BODY_TIME.as_secs());
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, error, "send it again"));
            }
        };
        let now_us = api.now_us();
        Ok(Call { api: api.clone(), caller, now_us, query: parts.uri.query().map(str::to_owned), body })
    }
}

/// The part of the path that names something.
pub(super) struct Name(pub(super) String);

impl FromRequestParts<Api> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Name, ApiError> {
        match Path::<String>::from_request_parts(parts, api).await {
            Ok(Path(name)) => Ok(Name(name)),
            Err(_) => Err(ApiError::bad("the path is no text", "write the name as UTF-8, percent-encoded")),
        }
    }
}

impl Call {
    pub(super) fn store(&self) -> &Store {
        self.api.store()
    }

    /// The parameters, which must be some of these.
    pub(super) fn params(&self, known: &[&str]) -> Result<Params, ApiError> {
        Params::read(self.query.as_deref().unwrap_or_default(), known)
    }

    /// The parameters of a request that has a body, which are none, and the body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        self.params(&[])?;
        let body: &[u8] = if self.body.trim_ascii().is_empty() { b"{}" } else { &self.body };
        // A list would be taken for the members in their order.
        if body
            .trim_ascii()
            .first()
            .is_some_and(|first| *first != b'{' && serde_json::from_slice::<Value>(body).is_ok())
        {
            return Err(ApiError::bad("the body is no JSON object", "send {\"member\": value, …}, or nothing"));
        }
        serde_json::from_slice(body).map_err(|error| wrong_body(&error))
    }

    /// Makes sure that there are no parameters, and nothing in the body.
    pub(super) fn nothing(&self) -> Result<(), ApiError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        self.json::<Nothing>().map(|Nothing {}| ())
    }

    /// Writes a deed into the audit log. It is done afterwards.
    pub(super) async fn audit(&self, deed: &str, subject: &str, detail: &Value) -> Result<(), ApiError> {
        self.store().audit(&self.deed(deed, subject, detail)).await?;
        self.log(deed, subject);
        Ok(())
    }

    /// A line of the audit log, to be written together with what is done.
    pub(super) fn deed(&self, deed: &str, subject: &str, detail: &Value) -> Deed {
        let detail = if detail.is_null() { String::new() } else { detail.to_string() };
        Deed::new(self.api.now_us(), &self.caller.who(), deed, subject, detail)
    }

    /// Says in the log that somebody does something.
    pub(super) fn log(&self, deed: &str, subject: &str) {
        let who = self.caller.who();
        tracing::info!(who, deed, subject, event = %LogEvent::HookDeed, "somebody changes something through the API");
    }
}

fn wrong_body(error: &serde_json::Error) -> ApiError {
    let text = error.to_string().replace("unknown field", "unknown member").replace("missing field", "missing member");
    if error.is_data() {
        let text = text.split(" at line ").next().unwrap_or_default().to_owned();
        return ApiError::bad(format!("the body: {text}"), "openapi.yaml has the members of each body");
    }
    ApiError::bad(format!("the body is no JSON: {text}"), "send one JSON object, or nothing")
}

/// An answer.
pub(super) fn answer(body: Value) -> Answer {
    Ok(respond(StatusCode::OK, body))
}

/// The answer to what has made something.
pub(super) fn created(body: Value) -> Answer {
    Ok(respond(StatusCode::CREATED, body))
}

/// The answer to what has been begun.
pub(super) fn begun(body: Value) -> Answer {
    Ok(respond(StatusCode::ACCEPTED, body))
}

fn respond(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], JsonLine(body)).into_response()
}
