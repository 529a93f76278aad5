//! The gateway below a path of another site, as the examples put it (`/bugfeed/` of a tracker): a proxy takes the path
//! off, so the gateway does not know of it, and the page must not need to.

use super::page::{Page, live};
use super::servers::{Server, Shim};
use crate::support::{SOON, connected};
use bugfeed_testbed::{Nginx, Run, bin, shared, unique};

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";

/// The `location` that examples/bugzilla/README.md has, for another path and this gateway.
pub fn location(path: &str, gateway: &str) -> String {
    let text = include_str!("../../../examples/bugzilla/README.md");
    let block = text.split("    location ").nth(1).and_then(|block| block.split("    }\n").next()).unwrap();
    let [block_path, address] = ["/bugfeed/ {", "http://127.0.0.1:8844/;"];
    assert!(block.contains(block_path) && block.contains(address), "{block}");
    let block = block.replace(block_path, &format!("{path} {{")).replace(address, &format!("{gateway};"));
    format!("location {block}}}\n")
}

#[tokio::test]
async fn below_a_path_the_page_looks_and_works_as_at_the_root() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let Some(nginx) = Nginx::start_or_skip(&location("/feed/", &server.url("/"))).await else { return };
    let site = format!("127.0.0.1:{}", nginx.port());
    let scenario = async || {
        // nginx itself adds the slash.
        page.open(&format!("http://{site}/feed#1,2")).await;
        page.watches(&[1, 2]).await;
        assert_eq!(page.text("#feed-name").await, "default");
        page.says("#address", &format!("ws://{site}/feed/")).await;
        let styled = "getComputedStyle(document.querySelector('.top')).display";
        page.waits_for(styled, "flex").await;
        page.says("#version", env!("CARGO_PKG_VERSION")).await;
        server.touch(&["1", "--when", T1]).await;
        page.lists(&[live(1, T1)]).await;
        // What the page asks about its gateway comes from there too: a tracker behind the same name has no such file.
        let asked = "performance.getEntriesByType('resource').filter(({ name }) => !name.includes('/feed/')).map(({ name }) => name).join()";
        page.waits_for(asked, "").await;
        page.waits_for(
            "performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/feed/page.json'))",
            "true",
        )
        .await;
        page.driver.click("#tab-console").await;
        page.driver.click("[data-sample='version']").await;
        page.driver.click("#console-send").await;
        page.says("#console-log [data-kind=in]", "version").await;

        // The other ways, as the client library finds them, from another module below the same path.
        page.leave().await;
        page.block_websocket().await;
        page.open(&format!("http://{site}/feed/#1,2")).await;
        page.watches(&[1, 2]).await;
        server.touch(&["2", "--when", T2]).await;
        // By this way it cannot be told where a catch-up ends, so it may be either.
        let bugs: Vec<_> = page.lists_as_many_as(2).await.iter().map(|row| row.bug).collect();
        assert_eq!(bugs, [1, 2]);
    };
    page.play("prefix", &[], scenario).await;
}

#[tokio::test]
async fn below_a_path_each_feed_has_its_page_and_its_own_memory() {
    let Some(page) = Page::start_or_skip().await else { return };
    let Some(broker) = shared::rabbitmq().await else { return };
    let (one, two) = (unique("prefix.one"), unique("prefix.two"));
    let feeds = [format!("default={one}"), format!("kde={two}")];
    let args = ["gateway", "--amqp", &broker.url, "--feed", &feeds[0], "--feed", &feeds[1]];
    let gateway = Server::start(&args).await;
    let other = Server::start(&[]).await;
    let locations = location("/feed/", &gateway.url("/")) + &location("/other/", &other.url("/"));
    let Some(nginx) = Nginx::start_or_skip(&locations).await else { return };
    let trackers = [Shim::start(&broker.url, &one).await, Shim::start(&broker.url, &two).await];
    let site = format!("127.0.0.1:{}", nginx.port());
    let scenario = async || {
        // Without its slash, as people type it, and with what a shared link says behind it.
        page.open(&format!("http://{site}/feed/kde?tracker=https%3A%2F%2Fbugs.example%2F%7Bbug%7D#7")).await;
        page.watches(&[7]).await;
        page.waits_for("location.pathname + location.search.slice(0, 9)", "/feed/kde/?tracker=").await;
        assert_eq!(page.text("#feed-name").await, "kde");
        assert_eq!(page.text("#address").await, format!("ws://{site}/feed/kde/"));
        trackers[0].touch(&["7", "--when", T1]).await;
        trackers[1].touch(&["7", "--when", T2]).await;
        page.lists(&[live(7, T2)]).await;

        // Another gateway below another path of the same site knows nothing of these cursors and lists.
        page.leave().await;
        page.open(&format!("http://{site}/other/#7")).await;
        page.watches(&[7]).await;
        assert_eq!(page.text("#feed-name").await, "default");
        other.touch(&["7", "--when", T1]).await;
        page.lists(&[live(7, T1)]).await;
        page.leave().await;
        page.open(&format!("http://{site}/feed/#7")).await;
        page.watches(&[7]).await;
        trackers[0].touch(&["7", "--when", T2]).await;
        page.lists(&[live(7, T2)]).await;
    };
    page.play("prefix-feeds", &[], scenario).await;
}

/// At the root, as deploy/README.md has it.
#[tokio::test]
async fn behind_the_documents_proxy_the_page_works() {
    let Some(page) = Page::start_or_skip().await else { return };
    let server = Server::start(&[]).await;
    let block = crate::deploy::nginx();
    assert!(block.contains("http://127.0.0.1:8844;"), "{block}");
    let locations = block.replace("http://127.0.0.1:8844", server.url("/").trim_end_matches('/'));
    let Some(nginx) = Nginx::start_or_skip(&locations).await else { return };
    let scenario = async || {
        page.open(&format!("http://127.0.0.1:{}/#1", nginx.port())).await;
        page.watches(&[1]).await;
        server.touch(&["1", "--when", T1]).await;
        page.lists(&[live(1, T1)]).await;
    };
    page.play("proxy", &[], scenario).await;
}

#[tokio::test]
async fn below_a_path_the_command_line_watches_too() {
    let server = Server::start(&[]).await;
    let Some(nginx) = Nginx::start_or_skip(&location("/feed/", &server.url("/"))).await else { return };
    let url = format!("http://127.0.0.1:{}/feed/", nginx.port());
    let mut watch =
        Run::new(bin("bugfeed").unwrap()).args(["watch", "7", "--count", "1", "--url", &url]).spawn().unwrap();
    connected(&mut watch).await;
    server.touch(&["7", "--when", T1]).await;
    watch.succeeds(SOON).await.unwrap();
    assert!(watch.output().contains("bug 7"), "{}", watch.output());
}
