//! Exact resume over the broker's history: cursors are the same on every gateway, and nothing is lost with queues that
//! go with their connection.

use std::net::SocketAddr;

use bugfeed_protocol::Cursor;
use bugfeed_protocol::bus::head_exchange;
use bugfeed_shim::ledger::{Ledger, Prefix};
use bugfeed_testbed::{Proc, RabbitMq, eventually, shared, unique};
use serde_json::{Value, json};

use super::split::{Gateway, shim};
use crate::support::{Client, SOON, counted, free_address, get, init, touch};

/// Says hello, resumes, and returns the verdict and the cursor of the reply.
async fn resume(client: &mut Client, bugs: &[u64], cursor: Option<&str>) -> (Value, String) {
    client.ask(r#"{"command":"hello","heartbeat":300}"#).await;
    let reply = client.ask(json!({ "command": "subscribe", "bugs": bugs, "cursor": cursor }).to_string()).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["result"], "ok", "{reply}");
    (reply["replay"].clone(), reply["cursor"].as_str().unwrap_or("").to_owned())
}

/// The next update as (bug, cursor). What is said of the feed is passed over.
async fn update(client: &mut Client) -> (u64, String) {
    let mut message = client.json().await;
    while message["command"] == "feed" {
        message = client.json().await;
    }
    assert_eq!(message["command"], "update", "{message}");
    (message["bug"].as_u64().unwrap(), message["cursor"].as_str().unwrap().to_owned())
}

fn seq(cursor: &str) -> u64 {
    Cursor::parse(cursor).unwrap().seq
}

/// A tracker on SQLite with its shim, publishing to an exchange of its own.
struct Tracker {
    dir: tempfile::TempDir,
    exchange: String,
    amqp: String,
    /// The shim's.
    admin: SocketAddr,
    shim: Option<Proc>,
}

impl Tracker {
    async fn start(amqp: &str) -> Tracker {
        let tracker = Tracker {
            dir: tempfile::tempdir().unwrap(),
            exchange: unique("history"),
            amqp: amqp.to_owned(),
            admin: free_address(),
            shim: None,
        };
        init(&tracker.source()).await;
        tracker
    }

    fn source(&self) -> String {
        format!("sqlite://{}/tracker.db", self.dir.path().display())
    }

    async fn run(&mut self) {
        self.run_with(&[]).await;
    }

    async fn run_with(&mut self, more: &[&str]) {
        let ledger = format!("sqlite://{}/ledger.db", self.dir.path().display());
        let (source, admin) = (self.source(), self.admin.to_string());
        let options = ["--source", &source, "--ledger", &ledger, "--amqp", &self.amqp, "--exchange", &self.exchange];
        self.shim = Some(shim(&[&options[..], &["--admin-listen", &admin], more].concat()).await);
    }

    async fn touch(&self, bugs: &[u64]) {
        let (source, bugs) = (self.source(), bugs.iter().map(u64::to_string).collect::<Vec<_>>());
        let mut args = vec!["--source", &source];
        args.extend(bugs.iter().map(String::as_str));
        touch(self.dir.path(), &args).await;
    }

    /// Waits until the broker has this many.
    async fn published(&self, count: u64) {
        eventually(SOON, "all is published", async || self.is_published(count).await).await.unwrap();
    }

    async fn is_published(&self, count: u64) -> bool {
        let url = format!("sqlite://{}/ledger.db", self.dir.path().display()).parse().unwrap();
        let ledger = Ledger::open_existing(&url, &Prefix::default()).await.unwrap();
        let published = ledger.meta().await.unwrap().published;
        ledger.close().await;
        published == count
    }

    fn feed(&self) -> String {
        format!("default={}", self.exchange)
    }
}

#[tokio::test]
async fn a_cursor_holds_on_every_gateway_also_on_one_that_starts_later() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut tracker = Tracker::start(&rabbit.url).await;
    // No gateway yet: history keeps the changes.
    tracker.run().await;
    tracker.touch(&[1, 2, 3]).await;
    let one = Gateway::start(&rabbit.url, &["--feed", &tracker.feed()]).await;
    let mut client = one.client().await;
    client.ask(r#"{"command":"hello"}"#).await;
    client.send(r#"{"command":"subscribe","bugs":[1,2],"since":"2020-01-01"}"#).await;
    let reply = client.json().await;
    assert_eq!(reply["count"], 2, "{reply}");
    let mut cursors = vec![reply["cursor"].as_str().unwrap_or("").to_owned()];
    // What was published before the gateway started may still be on its way to it.
    while cursors.len() < 3 {
        cursors.push(update(&mut client).await.1);
    }
    assert_eq!(cursors[1..].iter().map(|cursor| seq(cursor)).collect::<Vec<_>>(), [1, 2]);

    drop(client);
    tracker.touch(&[2, 3, 1]).await;
    let two = Gateway::start(&rabbit.url, &["--feed", &tracker.feed()]).await;
    for gateway in [&one, &two] {
        let mut client = gateway.client().await;
        assert_eq!(resume(&mut client, &[1, 2], Some(&cursors[2])).await, (json!("complete"), cursors[2].clone()));
        let got = [update(&mut client).await, update(&mut client).await];
        assert_eq!(got.map(|(bug, cursor)| (bug, seq(&cursor))), [(2, 4), (1, 6)]);
    }
    let mut client = two.client().await;
    let (verdict, head) = resume(&mut client, &[1], Some("0123456789abcdef.1")).await;
    assert_eq!((verdict, seq(&head)), (json!("gap"), 6), "another ledger's cursor");
}

/// Somebody cleans up at the broker. The shim makes its exchanges anew, and the gateway, whose bindings are gone, hears by
/// the silence of heads that it must bind again.
#[tokio::test]
async fn shim_and_gateway_find_each_other_again_when_the_exchanges_were_deleted() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut tracker = Tracker::start(&rabbit.url).await;
    tracker.run().await;
    let gateway = Gateway::start(&rabbit.url, &["--feed", &tracker.feed()]).await;
    let mut client = gateway.client().await;
    resume(&mut client, &[1], None).await;
    tracker.touch(&[1]).await;
    assert_eq!(seq(&update(&mut client).await.1), 1);
    let heard = async || gateway.metrics().await.contains("bugfeed_heads_total{feed=\"default\"}");
    eventually(SOON, "a head is heard", async || heard().await).await.unwrap();
    let broker = lapin::Connection::connect(&rabbit.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = broker.create_channel().await.unwrap();
    for exchange in [tracker.exchange.clone(), head_exchange(&tracker.exchange)] {
        channel.exchange_delete(exchange.into(), Default::default()).await.unwrap();
    }
    tracker.touch(&[1, 1]).await;
    for want in [2, 3] {
        assert_eq!(seq(&update(&mut client).await.1), want);
    }
    eventually(SOON, "all is well again", async || get(gateway.admin, "/readyz").await.1 == "ready\n").await.unwrap();
    assert_eq!(counted(&gateway.metrics().await, "bugfeed_gaps_total"), 0);
}

#[tokio::test]
async fn what_overflowed_a_queue_is_filled_from_history_in_order() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut tracker = Tracker::start(&rabbit.url).await;
    let options =
        ["--feed", &tracker.feed(), "--queue-max", "10", "--prefetch", "10", "--send-buffer-bytes", "4194304"];
    let mut gateway = Gateway::start(&rabbit.url, &options).await;
    // Many messages, so that the queue overflows: a limit of a queue counts messages.
    tracker.run_with(&["--batch", "5"]).await;
    let mut client = gateway.client().await;
    resume(&mut client, &[1], None).await;
    tracker.touch(&[1]).await;
    assert_eq!(seq(&update(&mut client).await.1), 1);
    gateway.proc.sigstop();
    tracker.touch(&[1; 500]).await;
    tracker.published(501).await;
    gateway.proc.sigcont();
    tracker.touch(&[1]).await;
    for want in 2..=502 {
        assert_eq!(seq(&update(&mut client).await.1), want);
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("bugfeed_history_reads_total{feed=\"default\"} 2\n"), "{metrics}");
    assert_eq!(counted(&metrics, "bugfeed_gaps_total"), 0, "{metrics}");
}

#[tokio::test]
async fn without_history_what_is_missing_is_told() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let mut tracker = Tracker::start(&rabbit.url).await;
    let options = ["--history", "false", "--feed", &tracker.feed(), "--queue-max", "10", "--prefetch", "10"];
    let mut gateway = Gateway::start(&rabbit.url, &options).await;
    // Many messages, so that the queue overflows: a limit of a queue counts messages.
    tracker.run_with(&["--batch", "5"]).await;
    let mut client = gateway.client().await;
    resume(&mut client, &[1], None).await;
    tracker.touch(&[1]).await;
    let (_, before) = update(&mut client).await;
    gateway.proc.sigstop();
    tracker.touch(&[1; 500]).await;
    tracker.published(501).await;
    gateway.proc.sigcont();
    let mut gap = None;
    let mut last = seq(&before);
    while last < 501 {
        let message = client.json().await;
        let cursor = message["cursor"].as_str().unwrap().to_owned();
        match message["command"].as_str() {
            Some("gap") => gap = Some(seq(&cursor)),
            Some("update") => assert_eq!(seq(&cursor), gap.take().unwrap_or(last) + 1),
            _ => panic!("{message}"),
        }
        last = seq(&cursor);
    }
    let mut late = gateway.client().await;
    assert_eq!(resume(&mut late, &[1], Some(&before)).await.0, json!("gap"));
    assert!(gateway.metrics().await.contains("bugfeed_gaps_total{feed=\"default\"} 1\n"));
}

pub(super) mod chaos {
    use super::*;

    /// Two gateways with queues that go with their connections; the broker is killed and comes back; a client at each
    /// gets every change, once, in order, without a gap.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_broker_that_is_killed_loses_nothing_for_any_gateway() {
        let Some(mut rabbit) = RabbitMq::start_or_skip().await else { return };
        let mut tracker = Tracker::start(&rabbit.url()).await;
        tracker.run().await;
        let roomy = ["--send-buffer-bytes", "4194304"];
        let feed = tracker.feed();
        let options = [&["--feed", feed.as_str()][..], &roomy].concat();
        let mut gateways =
            [Gateway::start(&rabbit.url(), &options).await, Gateway::start(&rabbit.url(), &options).await];
        let mut clients = Vec::new();
        for gateway in &gateways {
            let mut client = gateway.client().await;
            resume(&mut client, &[1], None).await;
            clients.push(client);
        }
        let mut next = 1;
        for _ in 0..2 {
            tracker.touch(&[1; 200]).await;
            for client in &mut clients {
                assert_eq!(seq(&update(client).await.1), next);
            }
            rabbit.kill9().await;
            tracker.touch(&[1; 100]).await;
            rabbit.start_again().await.unwrap();
            for client in &mut clients {
                for want in next + 1..next + 300 {
                    assert_eq!(seq(&update(client).await.1), want);
                }
            }
            next += 300;
            for gateway in &mut gateways {
                gateway.wait_ready().await;
            }
        }
        for gateway in &gateways {
            assert_eq!(counted(&gateway.metrics().await, "bugfeed_gaps_total"), 0);
        }
    }
    /// Makes a stream what it is right after its node has started, before its recovery: known to be somewhere, and not
    /// there. `{QUEUE}` is its name.
    pub(in crate::real) const TAKE_AWAY: &str = r#"
        Name = rabbit_misc:r(<<"/">>, queue, <<"{QUEUE}">>),
        {atomic, ok} = mnesia:transaction(fun() -> mnesia:delete({rabbit_queue, Name}) end),
        {error, {absent, _, nodedown}} = rabbit_amqqueue:with(Name, fun(_) -> ok end),
        ok."#;

    /// Ends its recovery.
    pub(in crate::real) const GIVE_BACK: &str = r#"
        Name = rabbit_misc:r(<<"/">>, queue, <<"{QUEUE}">>),
        [Queue] = mnesia:dirty_read(rabbit_durable_queue, Name),
        {atomic, ok} = mnesia:transaction(fun() -> mnesia:write(rabbit_queue, Queue, write) end),
        ok."#;

    /// While the stream is away, a gateway's own queue would take what is published, the broker would confirm it, and it
    /// would be missing in history for ever. So the shim waits.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_published_while_history_is_away() {
        let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
        let mut tracker = Tracker::start(&rabbit.url()).await;
        tracker.run().await;
        tracker.touch(&[1]).await;
        tracker.published(1).await;
        // Its queue outlives its connection, so that there is always one that takes what is published.
        let feed = tracker.feed();
        let mut one = Gateway::start(&rabbit.url(), &["--feed", &feed, "--queue-name", "one"]).await;
        let first = resume(&mut one.client().await, &[1], None).await.1;
        assert_eq!(seq(&first), 1);
        let stream = format!("{}.history", tracker.exchange);
        rabbit.ctl(&["eval", &TAKE_AWAY.replace("{QUEUE}", &stream)]).await.unwrap();
        rabbit.ctl(&["close_all_connections", "the broker restarts"]).await.unwrap();
        tracker.touch(&[2, 1]).await;
        eventually(SOON, "the shim has found that history is away, or published without", async || {
            let (_, state) = get(tracker.admin, "/readyz").await;
            if state.contains("is down or inaccessible") || tracker.is_published(3).await { Ok(()) } else { Err(state) }
        })
        .await
        .unwrap();
        rabbit.ctl(&["eval", &GIVE_BACK.replace("{QUEUE}", &stream)]).await.unwrap();
        tracker.published(3).await;
        one.wait_ready().await;

        // The second one knows only what is in history.
        let two = Gateway::start(&rabbit.url(), &["--feed", &feed]).await;
        for gateway in [&one, &two] {
            let mut client = gateway.client().await;
            assert_eq!(resume(&mut client, &[1, 2], Some(&first)).await, (json!("complete"), first.clone()));
            let got = [update(&mut client).await, update(&mut client).await];
            assert_eq!(got.map(|(bug, cursor)| (bug, seq(&cursor))), [(2, 2), (1, 3)]);
        }
        // Two changes are fewer than one acknowledgement covers, but it must not wait for more to come.
        eventually(SOON, "what was taken is acknowledged", async || {
            let queues = rabbit.ctl(&["-q", "list_queues", "name", "messages"]).await.unwrap();
            if queues.lines().any(|line| line.split_whitespace().eq(["one.default", "0"])) {
                Ok(())
            } else {
                Err(queues)
            }
        })
        .await
        .unwrap();
    }
}
