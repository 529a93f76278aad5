//! The button of the live page that changes a bug, in the all-in-one only.
//!
//! Goes in: `POST /demo/touch` from the gateway's own page. Comes out: rows in the change table, as a tracker would
//! write them. Another site's page may not press it: the request must be JSON (which browsers do not send across sites
//! without asking first) and, where the browser says where it comes from, come from here.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest as _, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bugfeed_protocol::{BugId, When};
use serde::{Deserialize, Serialize};

/// Bugs that one press may change.
const MAX_BUGS: usize = 100;

type Touching = Pin<Box<dyn Future<Output = Result<When, String>> + Send>>;

/// What the button does: writes a change of each bug, now, and says the time it wrote.
#[derive(Clone)]
pub struct Demo(Arc<dyn Fn(Vec<BugId>) -> Touching + Send + Sync>);

impl std::fmt::Debug for Demo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Demo")
    }
}

#[derive(Debug, Deserialize)]
struct Touch {
    bugs: Vec<BugId>,
}

#[derive(Debug, Serialize)]
struct Touched {
    result: &'static str,
    bugs: Vec<BugId>,
    when: When,
}

impl Demo {
    /// A button that does `touch`.
    pub fn new<F>(touch: impl Fn(Vec<BugId>) -> F + Send + Sync + 'static) -> Demo
    where
        F: Future<Output = Result<When, String>> + Send + 'static,
    {
        Demo(Arc::new(move |bugs| Box::pin(touch(bugs))))
    }

    /// Answers `POST /demo/touch`.
    pub async fn touch(&self, request: Request) -> Response {
        if !same_origin(request.headers()) {
            return refuse(StatusCode::FORBIDDEN, "only the gateway's own page may change bugs");
        }
        let body = tokio::time::timeout(Duration::from_secs(5), Json::<Touch>::from_request(request, &()));
        let bugs = match body.await {
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
            Ok(Err(rejection)) => {
                let hint = "send Content-Type: application/json and {\"bugs\":[1234]}";
                return refuse(rejection.status(), hint);
            }
            Ok(Ok(Json(touch))) => touch.bugs,
        };
        if bugs.is_empty() || bugs.len() > MAX_BUGS {
            return refuse(StatusCode::UNPROCESSABLE_ENTITY, "name 1 to 100 bugs");
        }
        match (self.0)(bugs.clone()).await {
            Ok(when) => Json(Touched { result: "ok", bugs, when }).into_response(),
            Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error),
        }
    }
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(serde_json::json!({ "result": "error", "error": error }))).into_response()
}

fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let fetch_site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let host = text(header::HOST.as_str()).unwrap_or("");
    let origin = text(header::ORIGIN.as_str())
        .is_none_or(|origin| origin.split_once("://").is_some_and(|(_, authority)| authority == host));
    fetch_site && origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sites_are_refused() {
        for (headers, want) in [
            (&[("host", "127.0.0.1:8844")][..], true),
            (&[("host", "h:1"), ("origin", "http://h:1"), ("sec-fetch-site", "same-origin")], true),
            (&[("host", "h:1"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")], false),
            (&[("host", "h:1"), ("origin", "http://evil.example")], false),
            (&[("host", "h:1"), ("origin", "null")], false),
            (&[("host", "h:1"), ("sec-fetch-site", "same-site")], false),
        ] {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            assert_eq!(same_origin(&map), want, "{headers:?}");
        }
    }
}
