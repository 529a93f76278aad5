//! Links to the tracker, and what the page shows from the tracker's API. The browser asks rarely, only with the person's
//! consent, and shows the answers as text.

use super::bugzilla::{Answers, Bugzilla};
use super::page::{Page, live};
use super::servers::Server;

const T: &str = "2014-04-03T21:13:45";

/// The address of a page, as somebody sends it around.
fn shared(server: &Server, template: &str, bugs: &str) -> String {
    // Unescaped, as people write it.
    server.url(&format!("/?tracker={template}#{bugs}"))
}

#[tokio::test]
async fn changes_link_to_the_tracker_and_show_what_changed() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let bugzilla = Bugzilla::start(Answers::Well).await;
    let scenario = async || {
        // Whoever made the link does not decide where bugs lead: the reader does, and is asked once.
        page.open(&shared(&server, &bugzilla.template(), "1,2")).await;
        page.watches(&[1, 2]).await;
        server.touch(&["1", "--when", T]).await;
        page.lists(&[live(1, T)]).await;
        page.says("#tracker-question", bugzilla.host()).await;
        assert_eq!(page.js("document.querySelector('#updates a').hasAttribute('href')").await, false);
        assert_eq!(bugzilla.asked(), [""; 0]);
        page.driver.click("#tracker-accept").await;
        page.says("#updates .summary", "<b>Crash</b> number 1 RESOLVED FIXED").await;
        page.says("#updates .changed", "status: NEW → RESOLVED, by developer@example.org").await;
        assert_eq!(page.js("document.querySelector('#updates a').href").await, bugzilla.link(1));
        assert_eq!(page.js("document.querySelector('#updates b')").await, serde_json::Value::Null, "text is text");

        // A reload asks no more, and the texts come back.
        page.driver.reload().await;
        page.says("#updates .summary", "number 1").await;
        assert!(!page.shows("#tracker-question").await);
        page.watches(&[1, 2]).await;
        server.touch(&["2", "--when", T]).await;
        page.says("#updates > li[data-bug='2'] .changed", "comment by reporter@example.org: “Me <i>too</i>”").await;
        page.driver.type_into("#filter", "crash 2").await;
        page.says("#update-count", "1 of 2").await;
        page.driver.clear("#filter").await;

        // What is copied brings the tracker along; forgetting it takes the links away.
        page.js("navigator.clipboard.writeText = async (text) => { window.copied = text; }").await;
        page.driver.click("#copy-link").await;
        let wanted = format!("{}#1,2", bugzilla.template());
        page.waits_for("decodeURIComponent(copied).split('?tracker=')[1]", &wanted).await;
        page.driver.click("#tracker-settings summary").await;
        page.says("#tracker-state", "Summaries come from its public API").await;
        page.driver.click("#tracker-remove").await;
        page.waits_for("document.querySelectorAll('#updates a[href]').length", "0").await;
    };
    page.play("tracker", &[], scenario).await;
}

#[tokio::test]
async fn the_tracker_is_set_by_hand_and_wrong_addresses_are_explained() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let scenario = async || {
        page.open(&shared(&server, "javascript:alert({bug})", "7")).await;
        page.says("#tracker-error", "Only addresses that begin with https").await;
        assert!(!page.shows("#tracker-question").await);
        page.watches(&[7]).await;
        server.touch(&["7", "--when", T]).await;
        page.lists(&[live(7, T)]).await;
        for (typed, part) in [("https://tracker.example/7", "Write {bug}"), ("tracker/{bug}", "no address")] {
            page.driver.clear("#tracker").await;
            page.driver.type_into("#tracker", typed).await;
            page.driver.click("#tracker-save").await;
            page.says("#tracker-error", part).await;
        }
        assert_eq!(page.js("document.querySelector('#updates a').hasAttribute('href')").await, false);
        page.driver.clear("#tracker").await;
        page.driver.type_into("#tracker", "https://tracker.example/{bug}").await;
        page.driver.click("#tracker-save").await;
        page.waits_for("document.querySelector('#updates a').href", "https://tracker.example/7").await;
        page.says("#tracker-state", "Bugs are links to tracker.example").await;
        assert_eq!(page.text("#tracker-error").await, "");
    };
    page.play("tracker-by-hand", &[], scenario).await;
}

#[tokio::test]
async fn the_operators_tracker_counts_until_another_is_saved() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let link = "document.querySelector('#updates a').href";
    let about = "const fetched = window.fetch;
        window.fetch = (url, ...more) => !String(url).endsWith('/page.json') ? fetched(url, ...more)
            : Promise.resolve(Response.json({ trackers: { default: 'https://operator.example/{bug}' } }));";
    let scenario = async || {
        page.driver.devtools("Page.addScriptToEvaluateOnNewDocument", serde_json::json!({ "source": about })).await;
        page.open(&server.url("/#7")).await;
        page.watches(&[7]).await;
        server.touch(&["7", "--when", T]).await;
        page.lists(&[live(7, T)]).await;
        page.waits_for(link, "https://operator.example/7").await;
        page.driver.click("#tracker-settings summary").await;
        page.driver.clear("#tracker").await;
        page.driver.type_into("#tracker", "https://mine.example/{bug}").await;
        page.driver.click("#tracker-save").await;
        page.waits_for(link, "https://mine.example/7").await;
        page.driver.reload().await;
        page.waits_for(link, "https://mine.example/7").await;
        page.driver.click("#tracker-settings summary").await;
        page.driver.click("#tracker-remove").await;
        page.waits_for(link, "https://operator.example/7").await;
    };
    page.play("tracker-of-operator", &[], scenario).await;
}

#[tokio::test]
async fn a_tracker_that_fails_costs_the_summaries_only_and_is_not_pressed() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let failing = Bugzilla::start(Answers::Failing).await;
    let refusing = Bugzilla::start(Answers::NotForOthers).await;
    let scenario = async || {
        for (tracker, why) in [(&failing, "it answered 500"), (&refusing, "it cannot be reached from this page")] {
            page.leave().await;
            page.open(&shared(&server, &tracker.template(), "1,2")).await;
            page.driver.click("#tracker-accept").await;
            page.driver.click("#clear:enabled, #tracker-settings summary").await;
            page.watches(&[1, 2]).await;
            server.touch(&["1", "2", "--when", T]).await;
            page.says("#tracker-state", why).await;
            page.says("#tracker-state", "asked again in ").await;
            let asked = tracker.asked().len();
            assert!(asked <= 2, "{:?}", tracker.asked());
            server.touch(&["1", "2", "--when", T]).await;
            let rows = page.lists_as_many_as(4).await;
            assert!(rows.iter().all(|row| *row == live(row.bug, T)));
            assert_eq!(page.js("document.querySelector('#updates a').href").await, tracker.link(2));
            assert_eq!(page.text("#error").await, "");
            assert_eq!(tracker.asked().len(), asked, "left alone");
            page.driver.click("#clear").await;
        }
    };
    let expected = ["status of 500", "net::ERR_FAILED", "Access-Control-Allow-Origin", "CORS"];
    page.play("tracker-failing", &expected, scenario).await;
}
