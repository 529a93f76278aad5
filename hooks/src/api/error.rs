//! Refusals: a status, what is wrong, and how to mend it.

use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bugfeed_runtime::json_line::JsonLine;
use serde_json::json;

use crate::receive::received::Failure;
use crate::store::StoreError;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) fix: String,
}

/// What a handler answers.
pub(super) type Answer = Result<Response, ApiError>;

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, fix: impl Into<String>) -> ApiError {
        ApiError { status, error: error.into(), fix: fix.into() }
    }

    /// The request is wrong.
    pub(super) fn bad(error: impl Into<String>, fix: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, error, fix)
    }

    /// The token is not good for this.
    pub(super) fn forbidden(error: impl Into<String>, fix: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, error, fix)
    }

    /// There is no such thing.
    pub(super) fn missing(error: impl Into<String>, fix: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, error, fix)
    }

    /// Both parts in one sentence.
    pub(super) fn in_words(&self) -> String {
        format!("{}; {}", self.error, self.fix)
    }

    /// It cannot be done, as things are.
    pub(super) fn conflict(error: impl Into<String>, fix: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, error, fix)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        if error.may_heal() {
            return ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the store cannot be used now: {error}"),
                "try again in a moment; /readyz says what is wrong",
            );
        }
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the store refuses: {error}"),
            "the log of bugfeed says more",
        )
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> ApiError {
        ApiError::conflict(failure.error, failure.fix)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = JsonLine(json!({ "error": self.error, "fix": self.fix }));
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        let extra = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "5")),
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        response
    }
}

/// The answer to a method that a path does not have.
pub(super) async fn wrong_method(method: Method) -> Response {
    // HEAD is answered as GET is.
    let method = if method == Method::HEAD { Method::GET } else { method };
    let error = format!("this path does not take {method}");
    let fix = "the header Allow says what it takes; openapi.yaml has all paths";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error, fix).into_response()
}

/// The answer to a path that does not exist.
pub(super) async fn no_path(uri: Uri) -> Response {
    // Inside the nested router the prefix is cut off.
    let error = format!("there is no path /api{}", uri.path());
    ApiError::missing(error, "openapi.yaml has all paths").into_response()
}
