//! How the page looks and reads: on a phone, in the dark, to a screen reader, without motion.

use serde_json::json;

use super::bugzilla::{Answers, Bugzilla};
use super::page::Page;
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

/// Controls that a screen reader would call "button" or "edit", and nothing else.
const NAMED: [&str; 8] =
    ["button", "link", "textbox", "searchbox", "spinbutton", "tab", "tabpanel", "DisclosureTriangle"];

#[tokio::test]
async fn a_phone_shows_everything_without_scrolling_sideways() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let bugzilla = Bugzilla::start(Answers::Well).await;
    let wide =
        "[...document.querySelectorAll('main *, header *, footer *')].filter((it) => it.checkVisibility() && !it.closest('.unseen, .log'))
        .filter((it) => it.getBoundingClientRect().right > 305).map((it) => it.id || it.className).join()";
    let scenario = async || {
        let size = json!({ "width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": true });
        page.driver.devtools("Emulation.setDeviceMetricsOverride", size).await;
        page.open(&server.url("/")).await;
        page.says("#welcome", "one click").await;
        page.waits_for(wide, "").await;
        let long = (1..=60).map(|bug| (9_007_199_254_740_000_u64 + bug).to_string()).collect::<Vec<_>>().join(",");
        page.leave().await;
        page.open(&server.url(&format!("/?tracker={}#{long}", bugzilla.template()))).await;
        page.driver.click("#tracker-accept").await;
        server.touch(&["9007199254740001", "9007199254740002", "--when", T]).await;
        page.says("#updates .summary", "Crash").await;
        page.js("document.querySelectorAll('details').forEach((it) => { it.open = true; })").await;
        page.waits_for(wide, "").await;
        page.waits_for("document.documentElement.scrollWidth", "320").await;
        page.driver.click("#tab-console").await;
        page.driver.click("[data-sample='resume']").await;
        page.driver.click("#console-send").await;
        page.says("#console-log", "subscribe").await;
        page.waits_for(wide, "").await;
        page.waits_for("document.documentElement.scrollWidth", "320").await;

        // Where there is a keyboard or a finger, there is room for it.
        let small = "[...document.querySelectorAll('button, input, summary')].filter((it) => it.checkVisibility())
            .filter((it) => it.getBoundingClientRect().height < 24).map((it) => it.id || it.textContent).join()";
        page.waits_for(small, "").await;
        page.driver.click("#tab-live").await;
        page.waits_for(small, "").await;
    };
    page.play("phone", &[], scenario).await;
}

#[tokio::test]
async fn every_control_has_a_name_and_what_happens_is_announced() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let bugzilla = Bugzilla::start(Answers::Well).await;
    let scenario = async || {
        page.open(&server.url(&format!("/?tracker={}#1,2", bugzilla.template()))).await;
        page.watches(&[1, 2]).await;
        page.says("#tracker-question", "would hear which bugs").await;
        check_names(&page, &["Stop watching bug 1", "Link bugs", "Bug numbers"]).await;
        page.driver.click("#tracker-accept").await;
        page.js("document.querySelectorAll('details').forEach((it) => { it.open = true; })").await;
        server.touch(&["1", "--when", T]).await;
        page.says("#updates .summary", "Crash").await;
        page.says("#announce", "Bug 1 changed").await;
        assert_eq!(page.js("document.querySelector('#updates time').dateTime").await, format!("{T}Z"));
        assert_eq!(page.js("document.querySelector('#updates time').title").await, "2014-04-03 21:13:45 UTC");
        let names = [
            "Bug 1",
            "Filter the changes by bug number or text",
            "Address of a bug",
            "Changes since UTC; empty: only new ones",
        ];
        check_names(&page, &names).await;
        page.driver.click("#tab-console").await;
        check_names(&page, &["Command", "Protocol console", "send binary"]).await;
        for role in ["log", "status", "alert"] {
            assert_eq!(page.js(&format!("document.querySelector('[role={role}]') !== null")).await, true, "{role}");
        }

        let calm = json!({ "features": [{ "name": "prefers-reduced-motion", "value": "reduce" }] });
        page.driver.devtools("Emulation.setEmulatedMedia", calm).await;
        page.driver.click("#tab-live").await;
        server.touch(&["2", "--when", T]).await;
        page.lists_as_many_as(2).await;
        let moves = "getComputedStyle(document.querySelector('#updates > li.arrived')).animationName";
        assert_eq!(page.js(moves).await, "none");
    };
    page.play("names", &[], scenario).await;
}

/// Reads the page as a screen reader does.
async fn check_names(page: &Page, wanted: &[&str]) {
    let tree = page.driver.devtools("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
    let named: Vec<(&str, &str)> = nodes
        .map(|node| (node["role"]["value"].as_str().unwrap_or(""), node["name"]["value"].as_str().unwrap_or("")))
        .filter(|(role, _)| NAMED.contains(role))
        .collect();
    assert!(named.len() > 10, "{named:?}");
    assert!(named.iter().all(|(_, name)| !name.trim().is_empty()), "without a name: {named:#?}");
    let missing: Vec<_> = wanted.iter().filter(|wanted| named.iter().all(|(_, name)| name != *wanted)).collect();
    assert!(missing.is_empty(), "{missing:?} is not among {named:#?}");
}
