//! The broker loses its disk.

use std::net::SocketAddr;

use bugfeed_testbed::{RabbitMq, eventually, shared};

use super::scene::{PATIENCE, Parts, Scene};
use crate::real::network::{Line, Network};

/// What history holds before: the gateway remembers where it lies, far behind the end of the stream that comes then.
const LONG: u64 = 3000;
/// Changes that only the broker has when it is wiped.
const ONLY_THERE: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_wiped_is_flowing_again_and_what_it_took_along_is_told() {
    let Some(server) = shared::mariadb().await else { return };
    let Some(mut rabbit) = RabbitMq::start_or_skip().await else { return };
    let network = Network::to(SocketAddr::from(([127, 0, 0, 1], rabbit.port())), Line::Cut).await;
    let parts = Parts {
        shim_amqp: &format!("{}?heartbeat=2", rabbit.url()),
        amqp: &format!("amqp://guest:guest@{}/%2f?heartbeat=2", network.address),
        exchange: "bugfeed.default",
        shim: &[],
        gateways: &[&[], &["--queue-name", "one"]],
        before: LONG,
    };
    let scene = Scene::start(server, &parts).await;
    // The gateways are cut off. What is published meanwhile is in history, and in the queue that outlives its gateway.
    network.line.send_replace(Line::Cut);
    scene.all_say(503).await;
    let (cut_at, before) = (scene.published().await, scene.gaps());
    eventually(PATIENCE, "changes that only the broker has", async || {
        let now = scene.published().await;
        if now >= cut_at + ONLY_THERE { Ok(()) } else { Err(now) }
    })
    .await
    .unwrap();
    rabbit.stop().await.unwrap();
    std::fs::remove_dir_all(rabbit.dir().join("mnesia")).unwrap();
    rabbit.start_again().await.unwrap();
    network.line.send_replace(Line::Up);
    scene.all_say(200).await;
    scene.flows().await;
    scene.gap_at_every_client(&before);
    scene.end().await;
}
