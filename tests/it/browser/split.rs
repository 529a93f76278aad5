//! The page of a gateway that runs with a shim and RabbitMQ as separate processes: the page survives the broker's troubles,
//! and each feed has its own page.

use bugfeed_testbed::{RabbitMq, eventually, shared, unique};

use super::page::{Page, live};
use super::servers::{Server, Shim};
use crate::support::SOON;

const T1: &str = "2014-04-03T21:13:45";
const T2: &str = "2014-04-03T21:13:46";
const T3: &str = "2014-04-03T21:13:47";

#[tokio::test]
async fn a_broker_that_dies_delays_changes_but_loses_none_and_no_connection() {
    let Some(page) = Page::start_or_skip().await else { return };
    let Some(mut broker) = RabbitMq::start_or_skip().await else { return };
    let gateway = Server::start(&["gateway", "--amqp", &broker.url(), "--queue-name", "page"]).await;
    let shim = Shim::start(&broker.url(), "bugfeed.default").await;
    let scenario = async || {
        page.open(&gateway.url("/")).await;
        page.subscribe("1 2").await;
        page.watches(&[1, 2]).await;
        assert!(!page.shows("#demo").await && !page.shows("#welcome").await, "a gateway has no demo tracker");
        shim.touch(&["1", "--when", T1]).await;
        page.lists(&[live(1, T1)]).await;

        broker.kill9().await;
        eventually(SOON, "a gateway that misses its broker", async || gateway.readiness().await == 503).await.unwrap();
        page.is_in_state(&["paused"]).await;
        page.says("#paused", "No changes can arrive just now, since ").await;
        shim.touch(&["2", "3", "1", "--when", T2]).await;
        broker.start_again().await.unwrap();
        page.lists_within(SOON * 4, &[live(1, T1), live(2, T2), live(1, T2)]).await;
        shim.touch(&["2", "--when", T3]).await;
        page.lists(&[live(1, T1), live(2, T2), live(1, T2), live(2, T3)]).await;
        page.is_in_state(&["open"]).await;
        assert!(!page.shows("#paused").await);
        assert_eq!(page.sockets().await, 1, "connected all the time");
    };
    page.play("broker", &[], scenario).await;
}

#[tokio::test]
async fn each_feed_has_a_page_of_its_own() {
    let Some(page) = Page::start_or_skip().await else { return };
    let Some(broker) = shared::rabbitmq().await else { return };
    let (one, two) = (unique("page.one"), unique("page.two"));
    let feeds = [format!("default={one}"), format!("kde={two}")];
    let args = ["gateway", "--amqp", &broker.url, "--feed", &feeds[0], "--feed", &feeds[1]];
    let gateway = Server::start(&args).await;
    let trackers = [Shim::start(&broker.url, &one).await, Shim::start(&broker.url, &two).await];
    let scenario = async || {
        for (path, name, own, other) in [("/kde/", "kde", 1, 0), ("/", "default", 0, 1), ("/kde", "kde", 1, 0)] {
            page.open(&gateway.url(path)).await;
            assert_eq!(page.text("#feed-name").await, name);
            let address = gateway.url(if path == "/" { "/" } else { "/kde/" }).replace("http://", "ws://");
            assert_eq!(page.text("#address").await, address);
            assert_eq!(page.js("spy.sockets").await, serde_json::json!([address]));
            assert_eq!(page.js("document.title.includes('kde')").await, name == "kde");
            // The other tracker has a bug of the same number, whose changes are none of ours.
            page.subscribe("1234").await;
            page.watches(&[1234]).await;
            trackers[other].touch(&["1234", "--when", T1]).await;
            trackers[own].touch(&["1234", "--when", T2]).await;
            page.lists(&[live(1234, T2)]).await;
            page.driver.click("#clear").await;
            page.driver.click("#subscriptions button").await;
        }
    };
    page.play("feeds", &[], scenario).await;
}
