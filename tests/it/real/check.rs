//! `bugfeed check` against a whole deployment with real servers: one that is right, and its faults one by one.

use bugfeed_testbed::{Nginx, Run, SqlServer, eventually, shared, unique};
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};

use super::split::{Gateway, shim};
use crate::check::{check, with};
use crate::support::{SOON, init, touch};

/// A user of the server who may do this with the change table, and the address with it.
async fn user(server: &SqlServer, database: &str, rights: &str) -> String {
    let name = unique("u");
    let sql = if server.url(database).starts_with("mysql") {
        format!(
            "CREATE USER '{name}'@'%' IDENTIFIED BY 'sekrit'; GRANT {rights} ON {database}.push_notify TO '{name}'@'%'"
        )
    } else {
        format!("CREATE ROLE {name} LOGIN PASSWORD 'sekrit'; GRANT {rights} ON push_notify TO {name}")
    };
    server.sql(database, &sql).await.unwrap();
    let url = server.url(database);
    let (scheme, rest) = url.split_once("://").unwrap();
    format!("{scheme}://{name}:sekrit@{}", rest.rsplit_once('@').unwrap().1)
}

async fn deployment(server: &SqlServer, trigger: &str) {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let database = server.create_database().await.unwrap();
    let exchange = unique("exchange");
    init(&server.url(&database)).await;
    server.sql(&database, trigger).await.unwrap();
    let source = user(server, &database, "SELECT, DELETE").await;
    let dir = tempfile::tempdir().unwrap();
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let feed = format!("default={exchange}");
    let gateway = Gateway::start(&rabbit.url, &["--feed", &feed]).await;
    let zone = ["--timezone", "America/Los_Angeles"];
    let of_shim = ["--source", &source, "--ledger", &ledger, "--amqp", &rabbit.url, "--exchange", &exchange];
    let mut running = shim(&[&of_shim[..], &zone].concat()).await;
    let (url, admin) = (gateway.url(), format!("http://{}", gateway.admin));
    let whole = [&of_shim[..], &["--feed", &feed, "--url", &url, "--admin-url", &admin]].concat();
    // A tracker that writes its local time, as the shim is told. The check is right with it, and without it says what is missing.
    for bug in ["1", "2", "3", "4", "5", "6"] {
        touch(dir.path(), &[&[bug, "--source", &server.url(&database)][..], &zone].concat()).await;
    }
    let published = async || {
        let text = Run::new(bugfeed_testbed::bin("bugfeed-shim").unwrap()).args(["status", "--ledger", &ledger]);
        let text = text.succeeds(SOON).await.unwrap();
        if text.contains("published    6") { Ok(()) } else { Err(text) }
    };
    eventually(SOON, "six published changes", published).await.unwrap();

    let (status, found) = check(&[&whole[..], &zone].concat()).await;
    assert_eq!((status, with(&found, "bad"), with(&found, "warning")), (0, vec![], vec![]), "{found:#?}");
    let good = with(&found, "good").join("\n");
    for want in [
        "may do nothing else",
        "it was not set back",
        "durable topic exchange",
        "keeps the feed's history",
        "a shim publishes there",
        "the ledger and what the shim says at the broker are of one ledger",
        "what the shim says at the broker and what the gateway serves are of one ledger",
    ] {
        assert!(good.contains(want), "{want}: {good}");
    }
    // One fault after the other.
    let more = user(server, &database, "SELECT, DELETE, UPDATE, INSERT").await;
    let less = user(server, &database, "SELECT").await;
    let other = format!("{exchange}.other");
    let wrong = unique("wrong");
    declare_fanout(&rabbit.url, &wrong).await;
    for (name, value, verdict, want) in [
        ("--source", more.as_str(), "warning", "may do more with it than is needed"),
        ("--source", less.as_str(), "bad", "GRANT SELECT, DELETE"),
        ("--exchange", other.as_str(), "warning", "there is no exchange"),
        ("--exchange", wrong.as_str(), "bad", "another type or other properties"),
        ("--feed", "default=elsewhere", "bad", "nothing can arrive"),
    ] {
        let mut options = [&whole[..], &zone].concat();
        let at = options.iter().position(|option| *option == name).unwrap() + 1;
        options[at] = value;
        let (status, found) = check(&options).await;
        let texts = with(&found, verdict);
        assert!(texts.iter().any(|text| text.contains(want)), "{name} {value}: {found:#?}");
        assert_eq!(status, i32::from(verdict == "bad" || name == "--exchange"), "{name} {value}: {found:#?}");
    }

    // A ledger from before the last change.
    running.stop(SOON).await.unwrap();
    let older = dir.path().join("older.db");
    std::fs::copy(dir.path().join("ledger.db"), &older).unwrap();
    let running = shim(&[&of_shim[..], &zone].concat()).await;
    touch(dir.path(), &[&["7", "--source", &server.url(&database)][..], &zone].concat()).await;
    let set_back = async || {
        let older = format!("sqlite://{}", older.display());
        let (status, found) = check(&["--ledger", &older, "--amqp", &rabbit.url, "--exchange", &exchange]).await;
        let is_said = with(&found, "bad").iter().any(|text| text.contains("it was set back"));
        if status == 1 && is_said { Ok(()) } else { Err(format!("{found:#?}")) }
    };
    eventually(SOON * 3, "the ledger that was set back", set_back).await.unwrap();

    // A shim that is not told the zone.
    drop(running);
    let _running = shim(&of_shim).await;
    for bug in ["1", "2", "3", "4", "5", "6"] {
        touch(dir.path(), &[&[bug, "--source", &server.url(&database)][..], &zone].concat()).await;
    }
    let is_off = async || {
        let (status, found) = check(&["--source", &source, "--ledger", &ledger]).await;
        let is_said =
            with(&found, "bad").iter().any(|text| text.contains("h in the past: --timezone UTC is not the tracker's"));
        if status == 1 && is_said { Ok(()) } else { Err(format!("{found:#?}")) }
    };
    eventually(SOON, "dates that are hours off", is_off).await.unwrap();
}

async fn declare_fanout(url: &str, exchange: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
    channel.exchange_declare(exchange.into(), kind, options, FieldTable::default()).await.unwrap();
}

#[tokio::test]
async fn mariadb() {
    let Some(server) = shared::mariadb().await else { return };
    let trigger = "CREATE TABLE bugs (bug_id INT PRIMARY KEY, delta_ts DATETIME NOT NULL); CREATE TRIGGER t AFTER UPDATE ON \
                   bugs FOR EACH ROW INSERT INTO push_notify (bug_id, delta_ts) VALUES (NEW.bug_id, NEW.delta_ts)";
    deployment(&server, trigger).await;
}

#[tokio::test]
async fn postgresql() {
    let Some(server) = shared::postgres().await else { return };
    let trigger = "CREATE TABLE bugs (bug_id INT PRIMARY KEY, delta_ts TIMESTAMP NOT NULL); CREATE FUNCTION f() RETURNS trigger \
                   LANGUAGE plpgsql AS $$ BEGIN INSERT INTO push_notify (bug_id, delta_ts) VALUES (NEW.bug_id, \
                   NEW.delta_ts); RETURN NEW; END $$; CREATE TRIGGER t AFTER UPDATE ON bugs FOR EACH ROW EXECUTE FUNCTION f()";
    deployment(&server, trigger).await;
}

/// A proxy that knows nothing of WebSocket, and holds events back.
#[tokio::test]
async fn a_proxy_that_is_in_the_way() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let gateway = Gateway::start(&rabbit.url, &["--feed", &format!("default={}", unique("exchange"))]).await;
    let clients = gateway.clients;
    let locations = format!(
        "location / {{ proxy_pass http://{clients}; proxy_ignore_headers X-Accel-Buffering; proxy_buffering on; }}"
    );
    let Some(nginx) = Nginx::start_or_skip(&locations).await else { return };
    let (status, found) = check(&["--url", &format!("http://127.0.0.1:{}/", nginx.port())]).await;
    let bad = with(&found, "bad").join("\n");
    assert_eq!(status, 1);
    for want in ["WebSocket: ", "pass Upgrade and Connection on", "SSE: events are held back", "proxy_buffering off"] {
        assert!(bad.contains(want), "{want}: {bad}");
    }
    assert!(with(&found, "good").iter().any(|text| text.contains("long-poll: answered")), "{found:#?}");
}
