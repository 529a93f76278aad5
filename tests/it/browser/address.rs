//! The page's address says what is watched: it can be shared, edited and bookmarked, and a wrong one is explained.

use super::page::{Page, live};
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

#[tokio::test]
async fn the_address_says_what_is_watched_and_can_be_shared() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let hash = "location.hash";
    let scenario = async || {
        page.open(&server.url("/#1234,5678")).await;
        page.watches(&[1234, 5678]).await;
        page.subscribe("9").await;
        page.watches(&[1234, 5678, 9]).await;
        assert_eq!(page.js(hash).await, "#1234,5678,9");

        // Edited by hand: what it says now, no more and no less.
        page.js("location.hash = '#7, 9'").await;
        page.watches(&[9, 7]).await;
        assert_eq!(page.js(hash).await, "#9,7");
        server.touch(&["1234", "9", "--when", T]).await;
        page.lists(&[live(9, T)]).await;

        // Nonsense is explained, and changes nothing.
        page.js("location.hash = '#7,seven'").await;
        page.says("#error", "In this page's address: “seven” is not a bug number").await;
        page.watches(&[9, 7]).await;
        assert_eq!(page.js(hash).await, "#9,7");
        page.js("location.hash = '#9'").await;
        page.watches(&[9]).await;
        assert_eq!(page.text("#error").await, "");

        page.leave().await;
        page.open(&server.url("/#0")).await;
        page.says("#error", "0 cannot be a bug number").await;
        page.watches(&[]).await;
        assert_eq!(page.js(hash).await, "");

        // What is copied opens the same elsewhere.
        page.subscribe("5 6").await;
        page.watches(&[5, 6]).await;
        page.js("navigator.clipboard.writeText = async (text) => { window.copied = text; }").await;
        page.driver.click("#copy-link").await;
        page.says("#copied", "Link copied").await;
        let copied = page.js("copied").await;
        assert_eq!(copied, server.url("/#5,6"));
        // Where there is no clipboard (a page without TLS), the old way.
        page.js("navigator.clipboard.writeText = async () => { throw new Error('no'); }").await;
        page.js("document.execCommand = (name) => { window.copied = name + ' ' + getSelection(); return true; }").await;
        page.driver.click("#copy-link").await;
        page.waits_for("copied", &format!("copy {}", server.url("/#5,6"))).await;
        assert_eq!(page.js("document.activeElement.id").await, "copy-link");
        page.driver.new_tab().await;
        page.open(copied.as_str().unwrap()).await;
        page.watches(&[5, 6]).await;
    };
    page.play("address", &[], scenario).await;
}

#[tokio::test]
async fn the_list_is_searched_and_the_search_survives_a_reload() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let shown =
        "[...document.querySelectorAll('#updates > li:not([hidden])')].map((row) => Number(row.dataset.bug)).join()";
    let scenario = async || {
        page.open(&server.url("/#12,123,45")).await;
        page.watches(&[12, 123, 45]).await;
        server.touch(&["12", "123", "45", "--when", T]).await;
        page.lists_as_many_as(3).await;
        page.waits_for(shown, "45,123,12").await;
        page.driver.type_into("#filter", "#12").await;
        page.waits_for(shown, "123,12").await;
        page.says("#update-count", "2 of 3").await;
        // What comes now is searched too.
        server.touch(&["45", "123", "--when", T]).await;
        page.says("#update-count", "3 of 5").await;
        page.waits_for(shown, "123,123,12").await;
        page.driver.reload().await;
        page.waits_for(shown, "123,123,12").await;
        page.driver.type_into("#filter", "99").await;
        page.waits_for(shown, "").await;
        assert!(page.shows("#no-match").await);
        page.driver.clear("#filter").await;
        page.waits_for(shown, "123,45,45,123,12").await;
    };
    page.play("search", &[], scenario).await;
}
