//! `bugfeed hooks` delivers to endpoints, with a real RabbitMQ and a real store: replicas share the endpoints, and whatever
//! dies meanwhile, each change arrives or a gap is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{MariaDb, Postgres, RabbitMq, eventually, shared, unique};
use serde_json::{Value, json};

use super::hooks::{configure, key, options};
use super::split::shim;
use crate::hooks::Receiver;
use crate::support::bot::Bot;
use crate::support::{SOON, get, init};

/// A replica that has died is taken over from after 6 s, and then the requests that it may have had in flight are waited for,
/// 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(60);

/// The same options, with receivers on this machine.
fn local<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [args, &["--allow-network", "127.0.0.0/8"]].concat()
}

const TOKEN: [&str; 2] = ["--admin-token-file", "admin.token"];

/// Makes an endpoint at a bot; its identifier.
async fn create(receiver: &Receiver, dir: &Path, bot: &Bot, bugs: &str, feed: &str) -> String {
    let url = bot.url();
    let args = ["endpoints", "create", "--json", "--url", &url, "--bugs", bugs, "--feed", feed, "--policy", "off"];
    let told = receiver.command(dir, &[&args[..], &TOKEN].concat()).await;
    let line = told.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no JSON: {told}"));
    serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
}

/// Waits until a test arrives: the endpoint is served, and its feed is there.
async fn served(receiver: &Receiver, dir: &Path, id: &str, bot: &mut Bot) {
    let look = async || {
        let args = [&["endpoints", "test", id][..], &TOKEN].concat();
        receiver.try_command(dir, &args).await.map(drop)
    };
    eventually(TAKEN_OVER, format!("a test of {id}"), look).await.unwrap();
    while bot.next().await.command() != "test" {}
    let sure = async || {
        let (_, lines) = get(receiver.admin, "/readyz").await;
        if lines.contains("(for endpoints)") { Err(lines) } else { Ok(()) }
    };
    eventually(SOON, "a feed for endpoints", sure).await.unwrap();
}

/// POSTs a change with a date, to one of the replicas that takes it.
async fn change(receivers: &[&Receiver], key: &str, bug: u64, second: u64, want: &mut BTreeMap<u64, String>) {
    let when = format!("2026-04-03T{:02}:{:02}:{:02}", 1 + second / 3600, second / 60 % 60, second % 60);
    let body = json!({ "changes": [{ "bug": bug, "when": when }] }).to_string();
    let receiver = receivers[usize::try_from(second).unwrap() % receivers.len()];
    // A replica hears of a key that was made at another one a little later.
    let post = async || {
        let (status, answer) = receiver.post("/hooks/kde", key, &body).await;
        if (status, &answer["result"]) == (200, &json!("ok")) { Ok(()) } else { Err(answer) }
    };
    eventually(SOON, "a change that is taken", post).await.unwrap();
    want.insert(bug, when);
}

/// What is restarted besides the processes.
trait Store {
    async fn restart(&mut self);
}

impl Store for MariaDb {
    async fn restart(&mut self) {
        self.stop().await.unwrap();
        self.start_again().await.unwrap();
    }
}

impl Store for Postgres {
    async fn restart(&mut self) {
        self.stop().await.unwrap();
        self.start_again().await.unwrap();
    }
}

/// Two replicas; one is killed in the middle, the broker and the store are started anew.
async fn everything_dies(store: &mut impl Store, url: &str) {
    let Some(mut rabbit) = RabbitMq::start_or_skip().await else { return };
    let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("exchange"));
    configure(dir.path(), &["kde"]);
    let (amqp, feed) = (rabbit.url(), format!("kde={exchange}"));
    let mut one = Receiver::start(dir.path(), &local(&options(url, &amqp, &feed, "one"))).await;
    one.proc.wait_for_event(LogEvent::LeaseTaken, SOON).await.unwrap();
    let two = Receiver::start(dir.path(), &local(&options(url, &amqp, &feed, "two"))).await;
    let secret = key(&one, dir.path(), "kde").await;
    // Of many endpoints each of the two serves some.
    let mut bots = Vec::new();
    for bugs in ["1,2,3", "all", "4,5,6,7", "1,2,3,4,5,6,7,8,9"] {
        let mut bot = Bot::start().await;
        let id = create(&one, dir.path(), &bot, bugs, "kde").await;
        served(&two, dir.path(), &id, &mut bot).await;
        bots.push((bugs, bot));
    }
    let (mut want, mut second) = (BTreeMap::new(), 0);
    let mut changes = async |receivers: &[&Receiver], want: &mut BTreeMap<u64, String>| {
        for bug in 1..=9 {
            second += 1;
            change(receivers, &secret, bug, second, want).await;
        }
    };
    let mut arrived = async |want: &BTreeMap<u64, String>| {
        for (bugs, bot) in &mut bots {
            let is_of = |bug: &u64| *bugs == "all" || bugs.split(',').any(|own| own == bug.to_string());
            let own: BTreeMap<u64, String> =
                want.iter().filter(|(bug, _)| is_of(bug)).map(|(&b, w)| (b, w.clone())).collect();
            bot.until(&own, TAKEN_OVER).await;
        }
    };
    changes(&[&one, &two], &mut want).await;
    arrived(&want).await;

    changes(&[&one, &two], &mut want).await;
    one.proc.kill9();
    changes(&[&two], &mut want).await;
    arrived(&want).await;

    rabbit.stop().await.unwrap();
    changes(&[&two], &mut want).await;
    rabbit.start_again().await.unwrap();
    arrived(&want).await;

    // What comes while the store is away is spooled, and delivered later.
    store.restart().await;
    changes(&[&two], &mut want).await;
    arrived(&want).await;
    for (bugs, bot) in &bots {
        assert_eq!(bot.gaps, 0, "history has everything, so nothing had to be given up: {bugs}");
    }
}

#[tokio::test]
async fn replicas_on_mariadb_lose_nothing() {
    let Some(mut server) = MariaDb::start_or_skip().await else { return };
    let url = server.url(&server.create_database().await.unwrap());
    everything_dies(&mut server, &url).await;
}

#[tokio::test]
async fn replicas_on_postgresql_lose_nothing() {
    let Some(mut server) = Postgres::start_or_skip().await else { return };
    let url = server.url(&server.create_database().await.unwrap());
    everything_dies(&mut server, &url).await;
}

/// A feed of a tracker's own shim, which no source sends to, is delivered. Without a broker it is a warning.
#[tokio::test]
async fn a_feed_that_is_only_delivered() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("exchange"));
    configure(dir.path(), &["other"]);
    let source = format!("sqlite://{}/table.db", dir.path().display());
    init(&source).await;
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let args = ["--source", &source, "--ledger", &ledger, "--amqp", &rabbit.url, "--exchange", &exchange];
    let _shim = shim(&args).await;
    let feeds = format!("kde={exchange},other={}", unique("exchange"));
    let args = options("sqlite://data/hooks.db", &rabbit.url, &feeds, "data/spool");
    let mut hooks = Receiver::start(dir.path(), &local(&args)).await;
    let (_, metrics) = get(hooks.admin, "/metrics").await;
    assert!(
        !metrics.contains("bugfeed_bus_up{feed=\"kde\"} 1"),
        "no connection before there is an endpoint: {metrics}"
    );
    let mut bot = Bot::start().await;
    let id = create(&hooks, dir.path(), &bot, "5", "kde").await;
    served(&hooks, dir.path(), &id, &mut bot).await;
    let (_, metrics) = get(hooks.admin, "/metrics").await;
    assert!(metrics.contains("bugfeed_bus_up{feed=\"kde\"} 1"), "{metrics}");
    crate::support::touch(dir.path(), &["5", "--source", &source]).await;
    assert_eq!(bot.next().await.changes()[0].0, 5);
    // What receivers call is on the port of the senders.
    let asked = format!("GET /endpoints/{id}/changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (status, answer) = crate::support::request(hooks.port, &asked).await;
    assert!(status == 401 && answer.contains("webhook-id"), "{status} {answer}");
    // A feed that is new at a reload has endpoints, too.
    configure(dir.path(), &["other", "later"]);
    hooks.proc.signal(Signal::HUP);
    hooks.proc.wait_for_event(LogEvent::HooksReloaded, SOON).await.unwrap();
    let later = async || {
        let url = bot.url();
        let args = ["endpoints", "create", "--url", &url, "--bugs", "5", "--feed", "later"];
        hooks.try_command(dir.path(), &[&args[..], &TOKEN].concat()).await.map(drop)
    };
    eventually(SOON, "an endpoint of the new feed", later).await.unwrap();
}
