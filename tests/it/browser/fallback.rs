//! A network in which a proxy blocks WebSocket: the page works nevertheless.

use super::page::{Page, live};
use super::servers::Server;

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";

#[tokio::test]
async fn where_websocket_does_not_pass_the_page_takes_another_way() {
    let Some(page) = Page::start_or_skip().await else { return };
    let mut server = Server::start(&[]).await;
    let scenario = async || {
        page.block_websocket().await;
        page.open(&server.url("/#1,2")).await;
        page.watches(&[1, 2]).await;
        server.touch(&["1", "--when", T1]).await;
        page.lists(&[live(1, T1)]).await;
        page.subscribe("3").await;
        page.watches(&[1, 2, 3]).await;
        page.says("#round-trip", "ms").await;
        server.kill9();
        page.is_in_state(&["waiting"]).await;
        server.touch(&["3", "2", "--when", T1]).await;
        server.start_again().await;
        page.says("#verdict[data-replay=complete]", "nothing missed").await;
        server.touch(&["2", "--when", T2]).await;
        let bugs: Vec<_> = page.lists_as_many_as(4).await.iter().map(|row| row.bug).collect();
        assert_eq!(bugs, [1, 3, 2, 2]);
    };
    let expected = ["net::ERR_CONNECTION_REFUSED", "net::ERR_INCOMPLETE_CHUNKED_ENCODING", "net::ERR_CONNECTION_RESET"];
    page.play("fallback", &expected, scenario).await;
}
