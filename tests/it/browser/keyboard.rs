//! The page without a mouse: everything is reached with Tab in the order it is read, and done with Enter.

use super::page::Page;
use super::servers::Server;
use super::webdriver::{ENTER, RIGHT, SHIFT, TAB};

/// What the focus is on, in the words of a screen reader where it has no id.
const FOCUS: &str = "((it) => it.id || it.getAttribute('aria-label') || it.textContent.trim())(document.activeElement)";

const DETAILS: &str = "Details of the connection";

#[tokio::test]
async fn everything_can_be_done_with_tab_and_enter() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let keys = &page.driver;
    let step = async |keys_held: &[char], wanted: &str| {
        keys.press(keys_held).await;
        assert_eq!(page.js(FOCUS).await, wanted);
    };
    let walk = async |keys_held: &[char], wanted: &[&str]| {
        for wanted in wanted {
            step(keys_held, wanted).await;
        }
    };
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.says("#welcome", "one click").await;
        step(&[TAB], "skip").await;
        step(&[ENTER], "changes").await;
        assert_eq!(page.js("location.hash").await, "", "which is for bugs");
        walk(
            &[SHIFT, TAB],
            &[DETAILS, "Links to the tracker", "demo-touch", "demo-bug", "Catch up on earlier changes"],
        )
        .await;
        walk(&[SHIFT, TAB], &["subscribe", "bugs", "try", "tab-live", "skip"]).await;
        step(&[TAB], "tab-live").await;
        step(&[RIGHT], "tab-console").await;
        assert!(page.shows("#console-input").await && !page.shows("#bugs").await);
        step(&[TAB], "console-input").await;
        step(&[SHIFT, TAB], "tab-console").await;
        step(&[RIGHT], "tab-live").await;
        step(&[TAB], "try").await;
        step(&[TAB], "bugs").await;
        for key in "7 8".chars() {
            keys.press(&[key]).await;
        }
        step(&[ENTER], "bugs").await;
        page.watches(&[7, 8]).await;
        walk(&[TAB], &["subscribe", "Catch up on earlier changes", "copy-link", "unsubscribe-all"]).await;
        walk(&[TAB], &["Stop watching bug 7", "Stop watching bug 8", "demo-bug", "demo-touch"]).await;
        step(&[ENTER], "demo-touch").await;
        assert_eq!(page.lists_as_many_as(1).await[0].bug, 7);
        walk(&[TAB], &["Links to the tracker", DETAILS]).await;
        step(&[TAB], "filter").await;
        step(&[TAB], "clear").await;
        // What vanishes hands the focus on instead of dropping it at the top of the page.
        step(&[ENTER], "changes").await;
        page.lists(&[]).await;
        walk(&[SHIFT, TAB], &[DETAILS, "Links to the tracker", "demo-touch", "demo-bug", "Stop watching bug 8"]).await;
        step(&[ENTER], "Stop watching bug 7").await;
        page.watches(&[7]).await;
        step(&[ENTER], "bugs").await;
        page.watches(&[]).await;
        step(&[SHIFT, TAB], "try").await;
        step(&[ENTER], "demo-touch").await;
        page.says("#demo-latency[data-kind=ok]", "Bug 1234: arrived after ").await;
        page.watches(&[1234]).await;
        walk(&[SHIFT, TAB], &["demo-bug", "Stop watching bug 1234", "copy-link"]).await;
        step(&[SHIFT, TAB], "Catch up on earlier changes").await;
        step(&[ENTER], "Catch up on earlier changes").await;
        walk(&[TAB], &["since", "last hour", "last day"]).await;
        step(&[ENTER], "last day").await;
        assert_ne!(page.js("document.querySelector('#since').value").await, "");
    };
    page.play("keyboard", &[], scenario).await;
}
