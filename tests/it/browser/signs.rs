//! How the page shows its own state: in words that promise nothing impossible, in title and icon, and beside changes with
//! odd dates. Also which command shows the same in a terminal.

use bugfeed_protocol::When;
use bugfeed_testbed::bin;
use serde_json::json;

use super::page::{Page, live};
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

const REFUSED: &[&str] = &["net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET"];

/// Makes the page believe that it is behind another tab, or in front again.
fn hidden(hidden: bool) -> String {
    format!(
        "Object.defineProperty(document, 'hidden', {{ configurable: true, get: () => {hidden} }});
         document.dispatchEvent(new Event('visibilitychange'));"
    )
}

const ICON: &str = "decodeURIComponent(document.querySelector('link[rel=icon]').href)";

#[tokio::test]
async fn title_and_icon_say_what_nobody_looks_at() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/#1,2")).await;
        page.watches(&[1, 2]).await;
        page.waits_for("document.title", "bugfeed").await;
        let connected = page.js(ICON).await;
        server.touch(&["1", "--when", T]).await;
        page.lists(&[live(1, T)]).await;
        assert_eq!(page.js(ICON).await, connected, "nothing to tell to who looks");
        page.driver.script(&hidden(true), json!([])).await;
        server.touch(&["1", "2", "--when", T]).await;
        page.waits_for("document.title", "(2) bugfeed").await;
        assert_ne!(page.js(ICON).await, connected);
        page.driver.script(&hidden(false), json!([])).await;
        page.waits_for("document.title", "bugfeed").await;
        page.waits_for(ICON, connected.as_str().unwrap()).await;

        server.kill9();
        page.waits_for("document.title", "Disconnected · bugfeed").await;
        assert_ne!(page.js(ICON).await, connected);
        server.forget();
        server.start_again().await;
        page.is_in_state(&["open"]).await;
        // A gap is not news that passes: it stays until somebody does something here.
        page.waits_for("document.title", "Gap · bugfeed").await;
        assert_ne!(page.js(ICON).await, connected);
        page.driver.click("#changes-title").await;
        page.waits_for("document.title", "bugfeed").await;
    };
    page.play("signs", REFUSED, scenario).await;
}

#[tokio::test]
async fn without_a_connection_no_change_is_promised() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/#1")).await;
        page.watches(&[1]).await;
        page.says("#empty-text", "by itself").await;
        page.says("#verdict", "changes from now on").await;
        server.kill9();
        page.is_in_state(&["waiting"]).await;
        page.says("#empty-text", "There is no connection just now").await;
        let promise = "/by itself|from now on|Waiting for bug/.test(document.querySelector('#changes').innerText)";
        assert_eq!(page.js(promise).await, false);
        server.start_again().await;
        page.is_in_state(&["open"]).await;
        page.says("#empty-text", "by itself").await;
    };
    page.play("promise", REFUSED, scenario).await;
}

#[tokio::test]
async fn a_date_that_is_odd_is_marked_and_a_wrong_clock_named() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let when = |hours: i64| {
        let now = When::from_system_time(std::time::SystemTime::now()).as_micros() / 1_000_000;
        When::from_micros((now + 3_600 * hours) * 1_000_000).unwrap().to_string()
    };
    let marks = "[...document.querySelectorAll('#updates .kind')].map((it) => it.textContent).join()";
    let scenario = async || {
        page.open(&server.url("/#1")).await;
        page.watches(&[1]).await;
        server.touch(&["1"]).await;
        page.waits_for(marks, "live").await;
        server.touch(&["1", "--when", "2009-01-02T03:04:05"]).await;
        page.waits_for(marks, "old date,live").await;
        page.says("#updates > li[data-odd=old] .when", "changed at ").await;
        page.says("#updates > li[data-odd=old] .ago", " y ago").await;
        assert!(!page.shows("#clock-hint").await);
        server.touch(&["1", "--when", &when(-2)]).await;
        page.waits_for(marks, "late,old date,live").await;
        assert!(!page.shows("#clock-hint").await, "one may be late");
        server.touch(&["1", "--when", &when(-2)]).await;
        server.touch(&["1", "--when", &when(-2)]).await;
        page.says("#clock-hint", "about 2 hours behind the clock").await;
        server.touch(&["1", "--when", &when(9)]).await;
        page.says("#clock-hint", "about 9 hours ahead of the clock").await;
        page.waits_for(marks, "date ahead,late,late,late,old date,live").await;
        // Kept with the list.
        page.driver.reload().await;
        page.waits_for(marks, "date ahead,late,late,late,old date,live").await;
        server.touch(&["1"]).await;
        page.waits_for("document.querySelector('#clock-hint').hidden", "true").await;
    };
    page.play("odd-dates", &[], scenario).await;
}

#[tokio::test]
async fn the_command_for_a_terminal_is_the_one_that_runs_here() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/#7")).await;
        let address = server.url("/").replace("http://", "ws://");
        let command = format!("{} watch 7 --url {address}", bin("bugfeed").unwrap().display());
        page.waits_for("document.querySelector('#empty-command').textContent", &command).await;
    };
    page.play("command", &[], scenario).await;
}
