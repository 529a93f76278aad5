//! An open bug in Bugzilla, with the extension and with the userscript: the banner, the form, one's own change.

use std::time::Duration;

use bugfeed_testbed::{Nginx, eventually};
use serde_json::json;

use super::bugzilla::{Bugzilla, hears_of, listens, reader_or_skip};
use crate::browser::page::Page;
use crate::browser::prefix::location;
use crate::browser::servers::Server;
use crate::examples::tools::example;
use crate::support::SOON;

const CHANGED: &str = "This bug has changed since this page was loaded.";
const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";
const T3: &str = "2014-04-03T21:13:47";

async fn is_quiet(page: &Page) {
    assert_eq!(page.text("#bugfeed").await, "");
}

/// Where everything is, in one number.
async fn layout(page: &Page) -> serde_json::Value {
    page.js("document.getElementById('commit').getBoundingClientRect().top + document.body.scrollHeight").await
}

#[tokio::test]
async fn the_banner_comes_for_what_the_page_does_not_show() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        server.touch(&["1234", "--when", T1]).await;
        page.driver.goto(&site.url("/show_bug.cgi?id=1234")).await;
        hears_of(&page, 1234, T1).await;
        is_quiet(&page).await;
        assert_eq!(page.js("document.getElementById('bugfeed').role").await, "status");

        let before = layout(&page).await;
        server.touch(&["1234", "--when", T2]).await;
        page.says("#bugfeed", CHANGED).await;
        assert_eq!(layout(&page).await, before, "nothing moves");
        for (scheme, dark) in [("light", false), ("dark", true)] {
            let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            page.driver.devtools("Emulation.setEmulatedMedia", feature).await;
            let ground = "getComputedStyle(document.querySelector('#bugfeed > div')).backgroundColor
                .match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) < 384";
            assert_eq!(page.js(ground).await, dark, "{scheme}");
        }
        assert_eq!(page.text("#bugfeed button").await, "Schließen");
        page.driver.click("#bugfeed button").await;
        is_quiet(&page).await;
        server.touch(&["1234", "--when", T3]).await;
        page.says("#bugfeed", CHANGED).await;

        // The page as it is now shows it all.
        bugzilla.set(1234, "2014-04-03 21:13:47", "NEW", "crash, mended");
        page.driver.click("#bugfeed a").await;
        page.says("#short_desc", "mended").await;
        hears_of(&page, 1234, T3).await;
        is_quiet(&page).await;
    };
    page.play("banner", &[], scenario).await;
}

#[tokio::test]
async fn dates_are_those_of_bugzillas_server() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let scenario = async || {
        for (bug, (zone, shown, same, later)) in [
            ("America/Los_Angeles", "2014-04-03 14:13:45", T1, T2),
            ("Asia/Kolkata", "2014-04-04 02:43:45", T1, T2),
            // Clocks are set back: the first pass, as the shim takes it. Set forward: as if they had not been.
            ("America/Los_Angeles", "2014-11-02 01:30:00", "2014-11-02T08:30:00", "2014-11-02T08:30:01"),
            ("America/Los_Angeles", "2014-11-02 02:00:00", "2014-11-02T10:00:00", "2014-11-02T10:00:01"),
            ("America/Los_Angeles", "2014-03-09 02:30:00", "2014-03-09T10:30:00", "2014-03-09T10:30:01"),
            ("America/Los_Angeles", "2014-03-09 03:00:00", "2014-03-09T10:00:00", "2014-03-09T10:00:01"),
        ]
        .into_iter()
        .enumerate()
        {
            let bug = bug as u64 + 1;
            bugzilla.knows(|knows| knows.zone = zone.to_owned());
            bugzilla.set(bug, shown, "NEW", "crash");
            page.driver.goto(&site.url(&format!("/show_bug.cgi?id={bug}"))).await;
            listens(&page).await;
            server.touch(&[&bug.to_string(), "--when", same]).await;
            hears_of(&page, bug, same).await;
            is_quiet(&page).await;
            server.touch(&[&bug.to_string(), "--when", later]).await;
            page.says("#bugfeed", CHANGED).await;
        }
    };
    page.play("zones", &[], scenario).await;
}

#[tokio::test]
async fn a_form_that_is_out_of_date_is_not_sent_unasked() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let sent = || bugzilla.knows(|knows| knows.sent);
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        page.driver.goto(&site.url("/show_bug.cgi?id=1234")).await;
        listens(&page).await;
        server.touch(&["1234", "--when", T2]).await;
        page.says("#bugfeed", CHANGED).await;
        page.driver.type_into("#comment", "me too").await;
        page.driver.click("#commit").await;
        // Fails if no question is there.
        page.driver.post("/alert/dismiss", json!({})).await.unwrap();
        assert_eq!(page.js("document.getElementById('comment').value").await, "me too");
        assert_eq!(sent(), 0);

        // One's own change is T3, which the page that answers shows.
        bugzilla.knows(|knows| knows.saved = "2014-04-03 21:13:47".to_owned());
        page.driver.click("#commit").await;
        page.driver.post("/alert/accept", json!({})).await.unwrap();
        eventually(SOON, "the form is sent", async || page.js("location.pathname").await == "/process_bug.cgi")
            .await
            .unwrap();
        assert_eq!(sent(), 1);
        server.touch(&["1234", "--when", T3]).await;
        hears_of(&page, 1234, T3).await;
        is_quiet(&page).await;

        // Up to date: no question.
        page.driver.click("#commit").await;
        eventually(SOON, "the form is sent", async || sent() == 2).await.unwrap();
    };
    page.play("form", &[], scenario).await;
}

#[tokio::test]
async fn ones_own_change_raises_no_banner_while_the_page_saves_it() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        bugzilla.knows(|knows| {
            (knows.saves_in_place, knows.holds, knows.saved) = (true, true, "2014-04-03 21:13:46".to_owned());
        });
        page.driver.goto(&site.url("/show_bug.cgi?id=1234")).await;
        listens(&page).await;
        page.driver.click("#commit").await;
        eventually(SOON, "the form is sent", async || bugzilla.knows(|knows| knows.sent) == 1).await.unwrap();
        server.touch(&["1234", "--when", T2]).await;
        hears_of(&page, 1234, T2).await;
        is_quiet(&page).await;
        bugzilla.release.notify_one();
        eventually(SOON, "the page has saved", async || {
            page.js("document.querySelector('input[name=delta_ts]').value").await == "2014-04-03 21:13:46"
        })
        .await
        .unwrap();
        is_quiet(&page).await;
        // And now it listens as before, and does not wait for what was saved already.
        server.touch(&["1234", "--when", T3]).await;
        page.says_within(Duration::from_secs(8), "#bugfeed", CHANGED).await;
    };
    page.play("own change", &[], scenario).await;
}

#[tokio::test]
async fn after_a_gap_it_may_have_changed() {
    let Some(page) = reader_or_skip().await else { return };
    let data = tempfile::tempdir().unwrap();
    let ledger = data.path().join("data");
    let mut server = Server::start(&["--data-dir", ledger.to_str().unwrap()]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        page.driver.goto(&site.url("/show_bug.cgi?id=1234")).await;
        listens(&page).await;
        server.kill9();
        std::fs::remove_dir_all(&ledger).unwrap();
        server.start_again().await;
        page.says("#bugfeed", "This bug may have changed").await;
        page.driver.click("#commit").await;
        page.driver.post("/alert/dismiss", json!({})).await.unwrap();
    };
    page.play("gap", &["WebSocket connection"], scenario).await;
}

/// As the README has it: the gateway below a path of the tracker, whose policy allows nothing but itself.
#[tokio::test]
async fn the_gateway_is_below_a_path_of_the_tracker() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start("/bugfeed/").await;
    let tracker = format!("location / {{ proxy_pass {}; }}\n", site.url("/"));
    let locations = tracker + &location("/bugfeed/", &server.url("/"));
    let Some(nginx) = Nginx::start_or_skip(&locations).await else { return };
    let name = format!("http://127.0.0.1:{}", nginx.port());
    let script = std::fs::read_to_string(example("userscript/bugfeed.user.js")).unwrap();
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        page.driver.goto(&format!("{name}/show_bug.cgi?id=1234")).await;
        listens(&page).await;
        server.touch(&["1234", "--when", T2]).await;
        page.says("#bugfeed", CHANGED).await;

        // As a userscript, by somebody who forgot the slash at the end.
        bugzilla.knows(|knows| knows.plain = true);
        page.driver.goto(&format!("{name}/show_bug.cgi?id=1234")).await;
        let written = script.replace("http://127.0.0.1:8844/", &format!("{name}/bugfeed"));
        page.driver.script(&written, json!([])).await;
        listens(&page).await;
        server.touch(&["1234", "--when", T3]).await;
        page.says("#bugfeed", CHANGED).await;
    };
    page.play("bugzilla-path", &[], scenario).await;
}

#[tokio::test]
async fn the_same_as_a_userscript() {
    let Some(page) = reader_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let (bugzilla, site) = Bugzilla::start(&server.url("/")).await;
    let script = std::fs::read_to_string(example("userscript/bugfeed.user.js")).unwrap();
    let header: Vec<&str> = script.lines().take_while(|line| *line != "// ==/UserScript==").collect();
    assert_eq!(header[0], "// ==UserScript==");
    assert!(header.iter().all(|line| line.starts_with("// ")), "{header:?}");
    assert!(script.contains("http://127.0.0.1:8844/"));
    let scenario = async || {
        bugzilla.set(1234, "2014-04-03 21:13:45", "NEW", "crash");
        bugzilla.knows(|knows| knows.plain = true);
        page.driver.goto(&site.url("/show_bug.cgi?id=1234")).await;
        page.driver.script(&script.replace("http://127.0.0.1:8844/", &server.url("/")), json!([])).await;
        listens(&page).await;
        server.touch(&["1234", "--when", T2]).await;
        page.says("#bugfeed", CHANGED).await;
    };
    page.play("userscript", &[], scenario).await;
}
