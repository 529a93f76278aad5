//! An HTTP answer in JSON, as everything here that answers people or programs gives it.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer of type `application/json`. It ends with a line feed, for people who read it in a terminal.
///
/// What is answered must become JSON without fail: structs, texts, numbers, and maps with texts as keys do.
#[derive(Clone, Copy, Debug)]
pub struct JsonLine<T>(pub T);

impl<T: Serialize> IntoResponse for JsonLine<T> {
    fn into_response(self) -> Response {
        let mut body = serde_json::to_vec(&self.0).expect("what is answered always becomes JSON");
        body.push(b'\n');
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_ends_with_a_line_feed() {
        let answer = JsonLine(serde_json::json!({ "error": "no such bug" })).into_response();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
        let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
        assert_eq!(body, "{\"error\":\"no such bug\"}\n");
    }
}
