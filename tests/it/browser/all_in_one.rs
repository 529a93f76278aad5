//! The main job in the all-in-one: watch a bug, change it, see it; by typing and by one click; now and since a time;
//! and what a person is told who types nonsense.

use std::time::Duration;

use super::page::{Page, catch_up, live};
use super::servers::Server;
use super::webdriver::ENTER;

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";
const T3: &str = "2014-04-03T21:13:47";

#[tokio::test]
async fn a_change_shows_for_as_long_as_its_bug_is_watched() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.says("#version", env!("CARGO_PKG_VERSION")).await;
        assert_eq!(page.text("#feed-name").await, "default");
        page.subscribe("1234").await;
        page.watches(&[1234]).await;
        assert_eq!(page.js("document.querySelector('#bugs').value").await, "", "ready for the next");
        server.touch(&["1234", "--when", T1]).await;
        page.lists(&[live(1234, T1)]).await;

        // The demo tracker's button, which offers the first watched bug.
        page.driver.click("#demo-touch").await;
        let when = page.lists_as_many_as(2).await[1].when.clone();
        let mut expected = vec![live(1234, T1), live(1234, &when)];
        page.lists(&expected).await;
        page.says("#demo-latency[data-kind=ok]", "Bug 1234: arrived after ").await;

        // Gone with its chip, while another bug's changes go on coming.
        page.driver.type_into("#bugs", "#5678, 9").await;
        page.driver.click("#subscribe").await;
        page.watches(&[1234, 5678, 9]).await;
        page.driver.click("#subscriptions > li[data-bug='1234'] button").await;
        page.watches(&[5678, 9]).await;
        server.touch(&["1234", "5678", "--when", T2]).await;
        expected.push(live(5678, T2));
        page.lists(&expected).await;

        page.driver.click("#unsubscribe-all").await;
        page.watches(&[]).await;
        page.subscribe("1").await;
        page.watches(&[1]).await;
        server.touch(&["5678", "9", "1", "--when", T3]).await;
        expected.push(live(1, T3));
        page.lists(&expected).await;

        // Cleared away, also after a reload.
        page.driver.click("#clear").await;
        page.driver.reload().await;
        page.watches(&[1]).await;
        page.lists(&[]).await;
    };
    page.play("watching", &[], scenario).await;
}

#[tokio::test]
async fn one_click_shows_it_all_to_a_newcomer_also_in_the_dark() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let colours = "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name]
        .match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))";
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.says("#welcome", "one click").await;
        page.driver.click("#try").await;
        // Ten seconds later the page would say so even if it had missed the moment.
        let moment = Duration::from_secs(8);
        page.says_within(moment, "#demo-latency[data-kind=ok]", "Bug 1234: arrived after ").await;
        page.watches(&[1234]).await;
        let rows = page.lists_as_many_as(1).await;
        assert_eq!(rows, [live(1234, &rows[0].when)]);
        assert!(!page.shows("#welcome").await, "a newcomer no more");

        let mut shots = Vec::new();
        for scheme in ["light", "dark"] {
            let feature = serde_json::json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
            page.driver.devtools("Emulation.setEmulatedMedia", feature).await;
            let [ground, text] = [0, 1].map(async |which| page.js(colours).await[which].as_f64().unwrap());
            let (ground, text) = (ground.await, text.await);
            assert_eq!(ground < text, scheme == "dark", "{scheme}: {ground} behind {text}");
            assert!((ground - text).abs() > 3.0 * 128.0, "{scheme}: hard to read, {ground} behind {text}");
            shots.push(page.driver.screenshot().await);
        }
        assert!(shots.iter().all(|shot| shot.starts_with(b"\x89PNG") && shot.len() > 10_000));
        assert_ne!(shots[0], shots[1]);
    };
    page.play("newcomer", &[], scenario).await;
}

#[tokio::test]
async fn since_shows_what_happened_before_and_nothing_twice() {
    // Dates to come, because a change that arrives later than `since` is part of the catch-up whatever its date.
    const L1: &str = "2033-04-03T21:13:45";
    const L2: &str = "2033-04-03T21:13:46";
    const L3: &str = "2033-04-03T21:13:47";
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        for (bugs, when) in [(["2", "1"], L1), (["1", "3"], L2), (["2", "2"], L3)] {
            server.touch(&[bugs[0], bugs[1], "--when", when]).await;
        }
        page.open(&server.url("/")).await;
        page.subscribe_since("1 2", "2033-04-03 21:13:46").await;
        let mut expected = vec![catch_up(1, L2), catch_up(2, L3), catch_up(2, L3)];
        page.lists(&expected).await;
        assert_eq!(page.js("document.querySelector('#since').value").await, "", "not for the next subscribe too");

        // Asked for again, from further back: only what is not shown yet.
        page.subscribe_since("1,2", "2033-04-03").await;
        expected.extend([catch_up(2, L1), catch_up(1, L1)]);
        page.lists(&expected).await;
        server.touch(&["2", "--when", L3]).await;
        expected.push(live(2, L3));
        page.lists(&expected).await;

        // What was cleared away is shown to who asks for it again.
        page.driver.click("#clear").await;
        page.lists(&[]).await;
        page.driver.type_into("#since", &format!("{L3}Z{ENTER}")).await;
        page.says("#error", "at least one bug number").await;
        page.subscribe("2").await;
        page.lists(&[catch_up(2, L3), catch_up(2, L3), catch_up(2, L3)]).await;

        // The offered times are good ones.
        server.touch(&["4"]).await;
        page.driver.click("#clear").await;
        page.driver.click("[data-back='3600']").await;
        page.subscribe("4").await;
        let rows = page.lists_as_many_as(1).await;
        assert_eq!(rows, [catch_up(4, &rows[0].when)]);
    };
    page.play("since", &[], scenario).await;
}

#[tokio::test]
async fn nonsense_is_explained_and_costs_nothing() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&["--max-subscriptions", "2"]).await;
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.says("#version", ".").await;
        let commands = "spy.sent.filter((text) => !text.includes('version'))";
        let sent = page.js(commands).await;
        page.js("document.querySelector('#since-more').open = true").await;
        let (bugs, since) =
            ("document.querySelector('#bugs').value = ''", "document.querySelector('#since').value = ''");
        for (typed, time, wrong, part) in [
            ("", "", "bugs", "at least one bug number"),
            ("abc", "", "bugs", "“abc” is not a bug number"),
            ("12 -5", "", "bugs", "“-5” is not a bug number"),
            ("0", "", "bugs", "0 cannot be a bug number"),
            ("99999999999999999999", "", "bugs", "cannot be a bug number"),
            ("1", "yesterday", "since", "“yesterday” is not a time"),
            ("1", "2014-02-30", "since", "“2014-02-30” is not a time"),
        ] {
            page.js(bugs).await;
            page.js(since).await;
            page.driver.type_into("#since", time).await;
            page.subscribe(typed).await;
            page.says("#error", part).await;
            assert_eq!(page.js("document.querySelector('[aria-invalid=true]').id").await, wrong, "{typed} {time}");
            assert_eq!(page.js("document.activeElement.id").await, wrong, "{typed} {time}: ready to be corrected");
        }
        assert_eq!(page.js(commands).await, sent, "sent to the gateway");
        page.watches(&[]).await;

        // What the server refuses is told in the same place, and not kept as if it were watched.
        page.js(bugs).await;
        page.js(since).await;
        page.subscribe("1 2 3").await;
        page.says("#error", "too many subscriptions").await;
        page.watches(&[]).await;
        page.subscribe("1 2").await;
        page.watches(&[1, 2]).await;
        assert_eq!(page.text("#error").await, "");
        server.touch(&["3", "2", "--when", T1]).await;
        page.lists(&[live(2, T1)]).await;
    };
    page.play("nonsense", &[], scenario).await;
}
