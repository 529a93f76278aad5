//! Paths on the admin port whose handlers work with the databases of the process.
//!
//! Goes in: a router. Comes out: the same router, whose handlers run on the runtime that has those databases, a bounded number
//! of them at a time. Connections of a database belong to the runtime that opened them; and a handler that waits for one must
//! not take the place of a probe.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// Requests at a time: half of the port's places.
const MOST: usize = super::LIMITS.connections / 2;

/// Has the handlers of these routes run on the runtime of the caller, from which this must be called. When the asker hangs
/// up, the handler is dropped, as always.
pub fn on_this_runtime(router: Router) -> Router {
    let (runtime, places) = (Handle::current(), Arc::new(Semaphore::new(MOST)));
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let (runtime, places) = (runtime.clone(), Arc::clone(&places));
        async move {
            let Ok(_place) = places.try_acquire_owned() else {
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests at a time; try again in a moment");
            };
            let answering = AbortOnDropHandle::new(runtime.spawn(next.run(request)));
            // An error is a panic, which was told, or the end of the process.
            answering.await.unwrap_or_else(|_| {
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "the request was not carried to its end; the log says more")
            })
        }
    }))
}

fn refusal(status: StatusCode, error: &str) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/json"), (header::CONNECTION, "close"), (header::RETRY_AFTER, "1")];
    (status, headers, format!("{{\"error\":\"{error}\"}}\n")).into_response()
}
