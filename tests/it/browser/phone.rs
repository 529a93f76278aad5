//! What a phone shows before anybody scrolls: what is watched, and the changes.

use serde_json::json;

use super::page::Page;
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

/// By how much what a selector finds reaches beyond the end of the screen.
const BELOW: &str = "((it) => it ? Math.max(0, Math.round(it.getBoundingClientRect().bottom - innerHeight)) : -1)";

#[tokio::test]
async fn a_phone_shows_the_changes_without_scrolling() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        for (width, height) in [(390, 844), (360, 640)] {
            let size = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true });
            page.driver.devtools("Emulation.setDeviceMetricsOverride", size).await;

            // A newcomer: the button, and where the changes will be.
            page.leave().await;
            page.open(&server.url("/")).await;
            page.says("#welcome", "one click").await;
            let seen = async |what: &str, css: &str| {
                page.waits_for(&format!("{BELOW}(document.querySelector('{css}'))"), "0").await;
                assert_eq!(page.js("scrollY").await, 0, "{what} at {width}x{height}");
            };
            seen("the button", "#try").await;
            seen("what to do", "#empty-title").await;
            page.driver.click("#try").await;
            page.lists_as_many_as(1).await;
            seen("the change", "#updates > li").await;
            page.driver.click("#clear").await;
            page.driver.click("#subscriptions > li button").await;

            // Many bugs, many changes: some of them, and the newest first.
            page.leave().await;
            let bugs = (100_001..=100_060).map(|bug| bug.to_string()).collect::<Vec<_>>();
            page.open(&server.url(&format!("/#{}", bugs.join(",")))).await;
            page.js("scrollTo(0, 0)").await;
            server.touch(&["100001", "100002", "100003", "--when", T]).await;
            page.lists_as_many_as(3).await;
            page.says("#verdict", ".").await;
            seen("the newest", "#updates > li:first-child").await;
            seen("the one before", "#updates > li:nth-child(2)").await;
            page.driver.click("#clear").await;
        }
    };
    page.play("phone-changes", &[], scenario).await;
}
