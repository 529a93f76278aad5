//! A gateway that can hear nothing of its tracker says so, and the page shows it: in amber, in plain words, without a promise.
//! Here the test itself gives the page that message; `split` tests that a gateway sends it when its broker is away.

use serde_json::json;

use super::page::{Page, live};
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

/// Keeps the page's last socket, so that something can be said through it.
const EAR: &str = "window.WebSocket = class extends WebSocket {
    constructor(url) { super(url); window.ear = this; }
};";

#[tokio::test]
async fn while_nothing_can_arrive_the_page_says_so_and_since_when() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let says = async |message: serde_json::Value| {
        page.driver.script("ear.onmessage({ data: arguments[0] })", json!([message.to_string()])).await;
    };
    let colour = "getComputedStyle(document.querySelector('#state')).backgroundColor";
    let promise = "/by itself|from now on|Waiting for bug/.test(document.querySelector('#live').innerText)";
    let scenario = async || {
        page.driver.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": EAR })).await;
        page.open(&server.url("/#1")).await;
        page.watches(&[1]).await;
        let green = page.js(colour).await;
        assert_eq!(page.js(promise).await, true);
        says(json!({ "command": "feed", "state": "paused", "since": T })).await;
        page.is_in_state(&["paused"]).await;
        page.says("#state", "Paused").await;
        page.says("#paused", "No changes can arrive just now, since Apr 3, 2014, ").await;
        assert!(page.shows("#paused").await);
        assert_ne!(page.js(colour).await, green);
        assert_eq!(page.js(promise).await, false);
        page.waits_for("document.title", "Paused · bugfeed").await;
        says(json!({ "command": "heartbeat", "cursor": null, "state": "paused" })).await;
        page.is_in_state(&["paused"]).await;

        says(json!({ "command": "feed", "state": "live", "since": T })).await;
        page.is_in_state(&["open"]).await;
        assert!(!page.shows("#paused").await);
        assert_eq!(page.js(promise).await, true);
        // The notice may be lost; heartbeats tell it too.
        says(json!({ "command": "heartbeat", "cursor": null, "state": "paused" })).await;
        page.says("#paused", "No changes can arrive just now: ").await;
        says(json!({ "command": "heartbeat", "cursor": null })).await;
        page.is_in_state(&["open"]).await;
        server.touch(&["1", "--when", T]).await;
        page.lists(&[live(1, T)]).await;
    };
    page.play("paused", &[], scenario).await;
}
