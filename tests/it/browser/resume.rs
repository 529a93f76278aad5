//! What the page missed while it was away: reloaded, gone to another site, closed, or its server killed. It resumes where
//! its list ends, says what the gateway can tell about the time between, and shows each change once.

use serde_json::json;

use super::page::{Page, Row, catch_up, live};
use super::servers::Server;

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";

const REFUSED: &[&str] = &["net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET"];

#[tokio::test]
async fn a_reload_misses_nothing_and_a_new_tab_goes_on_from_the_last_visit() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.subscribe("1 2").await;
        page.watches(&[1, 2]).await;
        server.touch(&["1", "1", "--when", T1]).await;
        let mut expected = vec![live(1, T1), live(1, T1)];
        page.lists(&expected).await;

        // Equal changes are changes of their own, also where nobody looked.
        page.leave().await;
        server.touch(&["1", "3", "2", "--when", T1]).await;
        page.open(&server.url("/#1,2")).await;
        expected.extend([catch_up(1, T1), catch_up(2, T1)]);
        page.lists(&expected).await;
        page.says("#verdict[data-replay=complete]", "nothing missed, 2 caught up").await;
        page.driver.reload().await;
        page.watches(&[1, 2]).await;
        page.says("#verdict[data-replay=complete]", "nothing missed.").await;
        server.touch(&["2", "--when", T2]).await;
        expected.push(live(2, T2));
        page.lists(&expected).await;

        // Another tab does not show that list, but what came after it.
        page.leave().await;
        server.touch(&["2", "--when", T1]).await;
        page.driver.new_tab().await;
        page.open(&server.url("/#2,1")).await;
        page.lists(&[catch_up(2, T1)]).await;
        // A set that was never watched begins now.
        page.driver.new_tab().await;
        page.open(&server.url("/#2")).await;
        page.watches(&[2]).await;
        server.touch(&["2", "--when", T2]).await;
        page.lists(&[live(2, T2)]).await;
        page.says("#verdict", "changes from now on").await;
    };
    page.play("reload", &[], scenario).await;
}

#[tokio::test]
async fn a_killed_gateway_loses_nothing_and_a_lost_ledger_is_told_as_a_gap() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/#1,2")).await;
        page.watches(&[1, 2]).await;
        server.touch(&["1", "--when", T1]).await;
        page.lists(&[live(1, T1)]).await;
        server.kill9();
        page.is_in_state(&["waiting"]).await;
        page.says("#countdown", "reconnecting in ").await;
        server.touch(&["2", "1", "2", "--when", T1]).await;
        server.start_again().await;
        page.says("#verdict[data-replay=complete]", "nothing missed, 3 caught up").await;
        page.lists(&[live(1, T1), catch_up(2, T1), catch_up(1, T1), catch_up(2, T1)]).await;
        page.says("#protocol", "modern").await;
        page.says("#round-trip", "ms").await;
        page.says("#heartbeat", "s ago").await;
        assert_eq!(page.js("/^\\w+\\.\\d+$/.test(document.querySelector('#cursor').textContent)").await, true);

        // Another ledger: nobody can tell what happened, and the page says of what.
        server.kill9();
        server.forget();
        server.start_again().await;
        page.says("#verdict[data-replay=gap]", "look at all bugs").await;
        page.says("#updates > li[data-kind=gap]", "These 2 bugs may have changed").await;
        assert_eq!(page.js("document.querySelector('#updates > li').dataset.bugs").await, "1,2");
        page.watches(&[1, 2]).await;
        server.touch(&["2", "--when", T2]).await;
        let rows = page.lists_as_many_as(6).await;
        assert_eq!((rows[4].kind.as_str(), &rows[5]), ("gap", &live(2, T2)));
        let shown = page.driver.devtools("Accessibility.getFullAXTree", json!({})).await;
        assert!(shown.to_string().contains("Look at all of them"));

        // The gap is part of the list.
        page.driver.reload().await;
        let kept: Vec<Row> = page.lists_as_many_as(6).await;
        assert_eq!(kept, rows);
    };
    page.play("killed", REFUSED, scenario).await;
}
