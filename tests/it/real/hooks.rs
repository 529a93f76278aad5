//! `bugfeed hooks` with a real RabbitMQ and real gateways: one process on SQLite, replicas on a server.

use std::path::Path;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::signal::Signal;
use bugfeed_testbed::{MariaDb, RabbitMq, Run, SqlServer, bin, eventually, shared, unique};
use serde_json::json;

use super::chaos::restore::{copy_while_it_runs, put_back};
use super::split::{Gateway, shim};
use crate::hooks::{Receiver, key_in};
use crate::support::{Client, SOON, get, init};

/// The feed `kde`, which goes to this exchange.
pub fn options<'a>(store: &'a str, amqp: &'a str, feed: &'a str, spool: &'a str) -> Vec<&'a str> {
    vec![
        "hooks",
        "--store",
        store,
        "--amqp",
        amqp,
        "--feed",
        feed,
        "--spool-dir",
        spool,
        "--config",
        "hooks.toml",
        "--admin-token-file",
        "admin.token",
    ]
}

pub fn configure(dir: &Path, feeds: &[&str]) {
    let source = |feed: &&str| format!("[[source]]\nname = \"{feed}\"\npreset = \"plain\"\nfeed = \"{feed}\"\n");
    std::fs::write(dir.join("hooks.toml"), feeds.iter().map(source).collect::<String>()).unwrap();
}

async fn watching(gateway: &Gateway, feed: &str, bugs: &[u64]) -> Client {
    let mut client = Client::connect(&format!("{}{feed}/", gateway.url())).await;
    client.subscribe(bugs).await;
    client
}

/// The first token is where the role was told to write it.
pub async fn key(receiver: &Receiver, dir: &Path, source: &str) -> String {
    let token = ["--admin-token-file", "admin.token"];
    let args = [&["keys", "create", "--name", "try", "--source", source][..], &token].concat();
    key_in(&receiver.command(dir, &args).await)
}

async fn numbered(receiver: &Receiver, dir: &Path, bug: u64) {
    let bug = bug.to_string();
    let look = async || {
        let args = ["bug", &bug, "--json", "--admin-token-file", "admin.token"];
        let told = receiver.try_command(dir, &args).await?;
        if told.contains("\"cursor\":\"") { Ok(()) } else { Err(told) }
    };
    eventually(SOON, format!("a number for bug {bug}"), look).await.unwrap();
}

#[tokio::test]
async fn a_post_goes_to_rabbitmq_and_back_to_clients() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (dir, kde, gnome) = (tempfile::tempdir().unwrap(), unique("exchange"), unique("exchange"));
    configure(dir.path(), &["kde"]);
    let feeds = [format!("kde={kde}"), format!("gnome={gnome}")];
    let both = feeds.join(",");
    let mut hooks =
        Receiver::start(dir.path(), &options("sqlite://data/hooks.db", &rabbit.url, &both, "data/spool")).await;
    let gateway = Gateway::start(&rabbit.url, &["--feed", &feeds[0]]).await;
    let mut client = watching(&gateway, "kde", &[1234]).await;
    let secret = key(&hooks, dir.path(), "kde").await;
    hooks.change("kde", &secret, 1234).await;
    assert_eq!(client.update().await.0, 1234);
    numbered(&hooks, dir.path(), 1234).await;
    let (_, metrics) = get(hooks.admin, "/metrics").await;
    assert!(metrics.contains("bugfeed_shim_changes_published_total{feed=\"kde\"} 1"), "{metrics}");

    // Nobody else may use the file.
    let second = options("sqlite://data/hooks.db", &rabbit.url, &both, "data/spool2");
    let mut second = Receiver::start_unready(dir.path(), &second);
    let status = second.proc.wait(SOON).await.unwrap();
    let output = second.proc.output();
    assert!(status.code() == Some(1) && output.contains("only one process may"), "{status} {output}");

    // A feed that is new at a reload gets its shim.
    configure(dir.path(), &["kde", "gnome"]);
    hooks.proc.signal(Signal::HUP);
    hooks.proc.wait_for_event(LogEvent::HooksReloaded, SOON).await.unwrap();
    let gateway = Gateway::start(&rabbit.url, &["--feed", &feeds[1]]).await;
    let mut client = watching(&gateway, "gnome", &[5]).await;
    let secret = key(&hooks, dir.path(), "gnome").await;
    hooks.change("gnome", &secret, 5).await;
    assert_eq!(client.update().await.0, 5);
    hooks.proc.stop(SOON).await.unwrap();
}

/// Both receive; of the shims one works, and the other one takes over.
async fn replicas(server: &SqlServer) {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("exchange"));
    configure(dir.path(), &["kde"]);
    let (store, feed) = (server.url(&server.create_database().await.unwrap()), format!("kde={exchange}"));
    let mut one = Receiver::start(dir.path(), &options(&store, &rabbit.url, &feed, "one")).await;
    one.proc.wait_for_event(LogEvent::LeaseTaken, SOON).await.unwrap();
    let mut two = Receiver::start(dir.path(), &options(&store, &rabbit.url, &feed, "two")).await;
    two.proc.wait_for_event(LogEvent::LeaseWaiting, SOON).await.unwrap();
    let (status, lines) = get(two.admin, "/readyz").await;
    assert!(status == 200 && lines.contains("feed kde: lease: the ledger is held by"), "{status} {lines}");

    let gateway = Gateway::start(&rabbit.url, &["--feed", &feed]).await;
    let mut client = watching(&gateway, "kde", &(1..=9).collect::<Vec<_>>()).await;
    let secret = key(&one, dir.path(), "kde").await;
    // The other replica knows the key, too.
    let known =
        async || two.post("/hooks/kde", &secret, "{\"changes\":[{\"bug\":1}]}").await.1["result"] == json!("ok");
    eventually(SOON, "the key at the other replica", known).await.unwrap();
    assert_eq!(client.update().await.0, 1);
    one.change("kde", &secret, 2).await;
    assert_eq!(client.update().await.0, 2);
    numbered(&one, dir.path(), 1).await;

    one.proc.kill9();
    two.change("kde", &secret, 3).await;
    assert_eq!(client.update().await.0, 3, "after the lease of the one that is gone");
    numbered(&two, dir.path(), 3).await;
    two.proc.stop(SOON).await.unwrap();
}

#[tokio::test]
async fn two_replicas_on_mariadb() {
    let Some(server) = shared::mariadb().await else { return };
    replicas(&server).await;
}

#[tokio::test]
async fn two_replicas_on_postgresql() {
    let Some(server) = shared::postgres().await else { return };
    replicas(&server).await;
}

/// Neither store nor broker is there: what comes is spooled, and goes on once they are.
#[tokio::test]
async fn a_store_that_is_away_at_the_start() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let Some(mut server) = MariaDb::start_or_skip().await else { return };
    let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("exchange"));
    configure(dir.path(), &["kde"]);
    let (store, feed) = (server.url(&server.create_database().await.unwrap()), format!("kde={exchange}"));
    let args = options(&store, &rabbit.url, &feed, "spool");
    let mut hooks = Receiver::start(dir.path(), &args).await;
    let secret = key(&hooks, dir.path(), "kde").await;
    hooks.proc.stop(SOON).await.unwrap();
    server.stop().await.unwrap();

    let hooks = Receiver::start(dir.path(), &args).await;
    let (status, lines) = get(hooks.admin, "/readyz").await;
    assert!(status == 200 && lines.lines().count() > 1, "it takes what comes, and says so: {status} {lines}");
    let (status, answer) = hooks.post("/hooks/kde", &secret, "{\"changes\":[{\"bug\":8}]}").await;
    assert_eq!((status, &answer["items"][0]["state"]), (200, &json!("spooled")), "{answer}");
    let (status, body) = get(hooks.admin, "/api/keys").await;
    assert!(status == 503 && body.contains("store"), "{status} {body}");

    let gateway = Gateway::start_unready(&rabbit.url, &["--feed", &feed]).await;
    server.start_again().await.unwrap();
    numbered(&hooks, dir.path(), 8).await;
    eventually(SOON, "the change at the gateway", async || {
        let (status, body) = get(gateway.clients, "/kde/changes?bugs=8&since=2014-01-01").await;
        if status == 200 && body.contains("\"bug\":8") { Ok(()) } else { Err(format!("{status} {body}")) }
    })
    .await
    .unwrap();
    // The command that makes another token works beside a running process.
    let token = Run::new(bin("bugfeed").unwrap()).args(["hooks", "token", "--store", &store]);
    assert!(token.succeeds(SOON).await.unwrap().trim().starts_with("bt_"));
}

/// A tracker's own shim publishes to the exchange, too: the hooks do not, and say what to do, until it is gone.
#[tokio::test]
async fn a_feed_has_one_ledger() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (dir, exchange) = (tempfile::tempdir().unwrap(), unique("exchange"));
    configure(dir.path(), &["kde"]);
    let source = format!("sqlite://{}/table.db", dir.path().display());
    init(&source).await;
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let other = ["--source", &source, "--ledger", &ledger, "--amqp", &rabbit.url, "--exchange", &exchange];
    let mut other = shim(&other).await;
    let feed = format!("kde={exchange}");
    let mut hooks =
        Receiver::start(dir.path(), &options("sqlite://data/hooks.db", &rabbit.url, &feed, "data/spool")).await;
    let line = hooks.proc.wait_for_event(LogEvent::HooksRival, SOON).await.unwrap();
    assert!(line.contains("push_notify_kde") && line.contains("--feed kde=EXCHANGE"), "{line}");
    let secret = key(&hooks, dir.path(), "kde").await;
    hooks.change("kde", &secret, 6).await;
    let (status, lines) = get(hooks.admin, "/readyz").await;
    assert!(status == 200 && lines.contains("another ledger"), "{status} {lines}");
    let completed = "bugfeed_hooks_completed_total{source=\"kde\"} 1";
    eventually(SOON, "a row", async || get(hooks.admin, "/metrics").await.1.contains(completed)).await.unwrap();
    let (_, metrics) = get(hooks.admin, "/metrics").await;
    assert!(metrics.contains("bugfeed_shim_changes_published_total{feed=\"kde\"} 0"), "{metrics}");
    other.stop(SOON).await.unwrap();
    numbered(&hooks, dir.path(), 6).await;
}

/// Where the broker does not let the hooks hear other ledgers, they say so once, and publish all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_listen_for_other_ledgers_publishes() {
    let Some(rabbit) = RabbitMq::start_or_skip().await else { return };
    rabbit.ctl(&["add_user", "narrow", "secret"]).await.unwrap();
    let own = r"^(good|good\.history|amq\.gen.*)$";
    let write = r"^(good|good\.history|amq\.gen.*|amq\.default)$";
    rabbit.ctl(&["set_permissions", "narrow", own, write, own]).await.unwrap();
    let (dir, url) = (tempfile::tempdir().unwrap(), rabbit.url().replace("guest:guest", "narrow:secret"));
    configure(dir.path(), &["kde"]);
    let args = options("sqlite://data/hooks.db", &url, "kde=good", "data/spool");
    let mut hooks = Receiver::start(dir.path(), &args).await;
    let line = hooks.proc.wait_for_event(LogEvent::HooksRivalUnknown, SOON).await.unwrap();
    assert!(line.contains("good") && !line.contains("secret"), "{line}");
    let secret = key(&hooks, dir.path(), "kde").await;
    hooks.change("kde", &secret, 6).await;
    numbered(&hooks, dir.path(), 6).await;
}

/// The backup of a store has the ledgers of all its feeds. Once it is put back, what had later numbers is a gap for clients of
/// each feed, and new changes arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_store_is_a_gap_on_each_feed() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let (dir, names) = (tempfile::tempdir().unwrap(), ["kde", "octo"]);
    configure(dir.path(), &names);
    let feeds = names.map(|name| format!("{name}={}", unique("exchange")));
    let mut args = options("sqlite://data/hooks.db", &rabbit.url, &feeds[0], "data/spool");
    args.extend(["--feed", &feeds[1]]);
    let mut hooks = Receiver::start(dir.path(), &args).await;
    let gateway = Gateway::start(&rabbit.url, &["--feed", &feeds[0], "--feed", &feeds[1]]).await;
    let secrets = [key(&hooks, dir.path(), "kde").await, key(&hooks, dir.path(), "octo").await];
    let arrives = async |hooks: &Receiver, bug: u64, since: &[String; 2]| {
        let mut cursors = [String::new(), String::new()];
        for (at, (name, secret)) in names.iter().zip(&secrets).enumerate() {
            hooks.change(name, secret, bug).await;
            let path = format!("/{name}/changes?bugs={bug}&{}", since[at]);
            let changed = async || {
                let (status, body) = get(gateway.clients, &path).await;
                let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                let said = answer["changes"][0]["bug"] == bug || answer["replay"] == "gap";
                if status == 200 && said { Ok(answer) } else { Err(format!("{status} {body}")) }
            };
            let answer = eventually(SOON, format!("bug {bug} of {name}"), changed).await.unwrap();
            cursors[at] = format!("cursor={}", answer["cursor"].as_str().unwrap());
            if since[at].starts_with("cursor") {
                assert_eq!(answer["replay"], "gap", "{answer}");
            }
        }
        cursors
    };
    let begin = names.map(|_| "since=2014-01-01".to_owned());
    arrives(&hooks, 1, &begin).await;
    let (store, copy) = (dir.path().join("data/hooks.db"), dir.path().join("copy.db"));
    copy_while_it_runs(&store, &copy).await;
    // Clients have numbers that the copy does not know.
    let cursors = arrives(&hooks, 2, &begin).await;
    hooks.proc.stop(SOON).await.unwrap();
    put_back(&store, &copy);
    let mut hooks = Receiver::start(dir.path(), &args).await;
    arrives(&hooks, 3, &cursors).await;
    for _ in names {
        hooks.proc.wait_for_event(LogEvent::LedgerSetBack, SOON).await.unwrap();
    }
    arrives(&hooks, 4, &begin).await;
}
