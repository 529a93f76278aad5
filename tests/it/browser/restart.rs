//! The server goes away and comes back: the page says so, takes up what it watched, and what happened meanwhile is shown
//! once.

use bugfeed_testbed::eventually;

use super::page::Page;
use super::servers::Server;
use crate::support::SOON;

const T: &str = "2014-04-03T21:13:45";

/// What Chromium says of a connection that is refused.
const REFUSED: &[&str] = &["net::ERR_CONNECTION_REFUSED", "net::ERR_CONNECTION_RESET"];

#[tokio::test]
async fn a_restarted_gateway_is_found_again_and_nothing_is_lost_or_repeated() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&server.url("/")).await;
        page.subscribe("1 2").await;
        page.watches(&[1, 2]).await;

        // Stopped politely, before any change was seen.
        server.stop().await;
        page.is_in_state(&["waiting", "connecting"]).await;
        server.touch(&["1", "3", "2"]).await;
        server.take_in_unseen(3).await;
        server.start_again().await;
        page.is_in_state(&["open"]).await;
        page.watches(&[1, 2]).await;
        let mut bugs = vec![1, 2];
        let rows = page.lists_as_many_as(2).await;
        assert_eq!(rows.iter().map(|row| row.bug).collect::<Vec<_>>(), bugs);
        assert!(rows.iter().all(|row| row.kind == "catchup"), "{rows:#?}");
        page.says("#verdict[data-replay=complete]", "nothing missed, 2 caught up").await;

        // Killed, again and again; changes within the same second are changes of their own.
        for round in 0..2 {
            server.touch(&["1", "1", "--when", T]).await;
            bugs.extend([1, 1]);
            page.lists_as_many_as(bugs.len()).await;
            server.kill9();
            page.is_in_state(&["waiting"]).await;
            server.touch(&["1", "2", "--when", T]).await;
            bugs.extend([1, 2]);
            if round == 1 {
                retries_at_once(&page).await;
            }
            server.start_again().await;
            page.is_in_state(&["open"]).await;
            page.watches(&[1, 2]).await;
            server.touch(&["2", "--when", T]).await;
            bugs.push(2);
            let rows = page.lists_as_many_as(bugs.len()).await;
            assert_eq!(rows.iter().map(|row| row.bug).collect::<Vec<_>>(), bugs, "{rows:#?}");
            assert_eq!(rows.last().map(|row| row.bug), Some(2));
            page.says("#verdict[data-replay=complete]", "nothing missed").await;
        }
    };
    page.play("restart", REFUSED, scenario).await;
}

/// While it waits, the page has a button for the impatient.
async fn retries_at_once(page: &Page) {
    let press = "document.querySelector('#state').dataset.state !== 'waiting' ? null : (async () => {
        const before = spy.sockets.length;
        document.querySelector('#reconnect').click();
        await null;
        return spy.sockets.length - before;
    })()";
    // Within the click, or it might be the page's own next attempt.
    let opened = eventually(SOON, "the state waiting", async || page.js(press).await.as_u64()).await.unwrap();
    assert_eq!(opened, 1, "sockets opened by the button");
}
