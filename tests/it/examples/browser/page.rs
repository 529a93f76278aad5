//! The page to copy and paste.

use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::get;

use crate::browser::page::Page;
use crate::browser::servers::Server;
use crate::examples::site::Site;
use crate::examples::tools::example;

#[tokio::test]
async fn lists_changes_also_those_that_it_missed() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let written = std::fs::read_to_string(example("browser-page.html")).unwrap();
    assert!(written.matches("http://127.0.0.1:8844/").count() >= 2);
    let html = Html(written.replace("http://127.0.0.1:8844/", &server.url("/")));
    let site = Site::start(Router::new().route("/page", get(async move || html))).await;
    let scenario = async || {
        page.driver.goto(&site.url("/page?bugs=1234,5678")).await;
        page.says("#state", "1234, 5678: open").await;
        server.touch(&["1234", "--when", "2014-04-03T21:13:45"]).await;
        page.says("#changes li", "Bug 1234 changed at 2014-04-03T21:13:45 UTC").await;
        server.kill9();
        page.says("#state", "waiting").await;
        server.touch(&["9", "5678", "--when", "2014-04-03T21:13:46"]).await;
        server.start_again().await;
        page.says_within(Duration::from_secs(60), "#changes li", "Bug 5678 changed at 2014-04-03T21:13:46 UTC").await;
        assert_eq!(page.js("document.querySelectorAll('#changes li').length").await, 2);
    };
    page.play("page", &["WebSocket connection", "net::ERR_CONNECTION_REFUSED"], scenario).await;
}
