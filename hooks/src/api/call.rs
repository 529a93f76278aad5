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
        let mut reader = serde_json::Deserializer::from_slice(body);
        let read = serde_path_to_error::deserialize(&mut reader);
        let read = read.map_err(|error| wrong_body(&error.path().to_string(), error.inner()))?;
        reader.end().map_err(|error| wrong_body(".", &error))?;
        Ok(read)
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

/// `path`: which member cannot be read; `.` for the whole.
fn wrong_body(path: &str, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    if !error.is_data() {
        return ApiError::bad(format!("the body is no JSON: {error}"), "send one JSON object, or nothing");
    }
    if let Some((name, known)) = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let known = known.trim_start_matches(", expected").trim_start_matches(" one of").trim().replace('`', "");
        let name: String = name.chars().take(60).collect();
        let fix = if known.is_empty() || known.starts_with("there are no") {
            "send no members".to_owned()
        } else {
            format!("the members are: {known}")
        };
        return ApiError::bad(format!("the body: unknown member `{name}`"), fix);
    }
    if let Some(name) = text.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return ApiError::bad(format!("the body: missing member `{name}`"), format!("add \"{name}\""));
    }
    let member = if path == "." { "the body" } else { path };
    let wrong = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    match wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, wanted)) => {
            let wanted = wanted_in_words(wanted);
            ApiError::bad(
                format!("{member}: {} stands where {wanted} is wanted", found_in_words(found)),
                format!("write {wanted}"),
            )
        }
        None => ApiError::bad(
            format!("{member}: {text}"),
            "openapi.yaml, beside bugfeed's source, has the members of each body",
        ),
    }
}

/// What kind of value was found. The value itself may be a secret.
fn found_in_words(found: &str) -> &'static str {
    match found.split(' ').next().unwrap_or_default() {
        "string" => "a text",
        "integer" => "a number",
        "floating" => "a number with decimals",
        "boolean" => "true or false",
        "null" => "null",
        "sequence" => "a list",
        "map" => "an object",
        _ => "something else",
    }
}

/// What kind of value is wanted.
fn wanted_in_words(wanted: &str) -> &str {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "a string" => "a text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors are looked at")]
    struct Body {
        rate: Option<u64>,
        names: Option<Vec<String>>,
        url: String,
    }

    #[test]
    fn what_is_wrong_names_the_member_and_what_is_wanted() {
        let told = |text: &str| {
            let mut reader = serde_json::Deserializer::from_str(text);
            let error = serde_path_to_error::deserialize::<_, Body>(&mut reader).unwrap_err();
            wrong_body(&error.path().to_string(), error.inner()).in_words()
        };
        for (text, want) in [
            (
                r#"{"rate":"s3cret","url":""}"#,
                "rate: a text stands where a whole number from 0 on is wanted; write a whole number from 0 on",
            ),
            (
                r#"{"rate":-1,"url":""}"#,
                "rate: a number stands where a whole number from 0 on is wanted; write a whole number from 0 on",
            ),
            (r#"{"names":["a",1],"url":""}"#, "names[1]: a number stands where a text is wanted; write a text"),
            (r#"{"names":true,"url":""}"#, "names: true or false stands where a list is wanted; write a list"),
            (r#"{"bug":1}"#, "the body: unknown member `bug`; the members are: rate, names, url"),
            (r#"{"rate":1}"#, "the body: missing member `url`; add \"url\""),
        ] {
            assert_eq!(told(text), want);
        }
        assert!(told("{").starts_with("the body is no JSON"));
    }
}
