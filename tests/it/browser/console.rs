//! The protocol console: what is typed is what is sent, and every frame and the close are shown.

use super::page::Page;
use super::servers::Server;
use super::webdriver::{ENTER, UP};

const T: &str = "2014-04-03T21:13:45";

/// The samples of the console, and a part of the reply to each.
const SAMPLES: [(&str, &str); 9] = [
    ("hello", "\"heartbeat\":30"),
    ("resume", "\"replay\":\"complete\""),
    ("since", "\"result\":\"ok\",\"count\":1"),
    ("subscriptions", "\"bugs\":[7]"),
    ("unsubscribe", "\"count\":0"),
    ("not JSON", "must be JSON"),
    ("no command", "missing mandatory arg: 'command'"),
    ("unknown command", "invalid command"),
    ("bad bug", "invalid bug id"),
];

#[tokio::test]
async fn raw_commands_their_replies_and_the_close_are_shown() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let log = "[...document.querySelectorAll('#console-log > li')]
        .map((line) => `${line.dataset.kind} ${line.querySelector('code').textContent}`)";
    let last = format!("{log}.at(-1)");
    let input = "document.querySelector('#console-input').value";
    let sample = async |name: &str| page.driver.click(&format!("[data-sample='{name}']")).await;
    let scenario = async || {
        page.open(&server.url("/#7")).await;
        page.watches(&[7]).await;
        page.driver.click("#tab-console").await;
        assert!(!page.shows("#bugs").await);
        assert_eq!(page.sockets().await, 1, "no connection before it is asked for");

        // The first command connects.
        page.driver.type_into("#console-input", &format!("{{\"command\":\"version\"}}{ENTER}")).await;
        let version = env!("CARGO_PKG_VERSION");
        let reply = format!("in {{\"command\":\"version\",\"result\":\"ok\",\"version\":\"{version}\"}}");
        page.waits_for(&last, &reply).await;
        page.waits_for(
            &format!("{log}.slice(1).join()"),
            &format!("event open,out {{\"command\":\"version\"}},{reply}"),
        )
        .await;
        assert_eq!(page.sockets().await, 2);
        page.says("#console-state", "Open").await;

        // Samples speak of what the page watches; they are sent when they are sent.
        sample("subscribe").await;
        assert_eq!(page.js(input).await, "{\"command\":\"subscribe\",\"bugs\":[7]}");
        page.driver.click("#console-send").await;
        page.waits_for(&last, "in {\"command\":\"subscribe\",\"result\":\"ok\",\"bugs\":[7]}").await;
        server.touch(&["7", "--when", T]).await;
        page.waits_for(&last, &format!("in {{\"command\":\"update\",\"bug\":7,\"when\":\"{T}\"}}")).await;
        for (name, part) in SAMPLES {
            sample(name).await;
            page.driver.type_into("#console-input", &ENTER.to_string()).await;
            let heard = format!(
                "{log}.slice({log}.findLastIndex((line) => line.startsWith('out '))).some((line) => line.startsWith('in ') && line.includes({part:?})) ? '' : {log}.slice(-4).join()"
            );
            page.waits_for(&heard, "").await;
        }

        // What was sent comes back with the arrow keys.
        for wanted in ["{\"command\":\"subscribe\",\"bugs\":[\"12x\"]}", "{\"command\":\"nonsense\"}"] {
            page.driver.press(&[UP]).await;
            assert_eq!(page.js(input).await, wanted);
        }

        page.driver.click("#console-binary").await;
        page.waits_for(&format!("{last}.slice(0, 16)"), "close close 1003").await;
        page.says("#console-state", "Closed").await;
        page.driver.click("#console-connect").await;
        page.waits_for(&last, "event open").await;
        page.driver.click("#console-connect").await;
        page.waits_for(&last, "close close 1000: closed as asked").await;
        page.driver.click("#console-clear").await;
        page.waits_for(&format!("{log}.length"), "0").await;

        // The page's own connection is none of the console's.
        page.driver.click("#tab-live").await;
        page.watches(&[7]).await;
        assert_eq!(page.lists_as_many_as(1).await[0].bug, 7);
    };
    page.play("console", &[], scenario).await;
}

#[tokio::test]
async fn the_console_keeps_five_hundred_lines() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.driver.click("#tab-console").await;
        page.driver.type_into("#console-input", &format!("first{ENTER}")).await;
        page.says("#console-log", "must be JSON").await;
        let many = "(() => { for (let count = 0; count < 600; count += 1) {
            document.querySelector('#console-input').value = `line ${count}`;
            document.querySelector('#console-send').click();
        } })()";
        page.js(many).await;
        page.says("#console-log > li:last-child", "must be JSON").await;
        page.waits_for("document.querySelectorAll('#console-log > li').length", "500").await;
        assert!(!page.text("#console-log").await.contains("first"));
    };
    page.play("console-bound", &[], scenario).await;
}
