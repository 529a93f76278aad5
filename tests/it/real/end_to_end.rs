//! One change, all the way: change table → shim → RabbitMQ → two gateways → clients.

use bugfeed_testbed::{Proc, SqlServer, bin, shared, unique};

use super::split::{Gateway, shim};
use crate::support::{SOON, connected, init, touch};

async fn one_change_end_to_end(server: &SqlServer, insert: &str) {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let database = server.create_database().await.unwrap();
    let (source, exchange) = (server.url(&database), unique("exchange"));
    init(&source).await;
    let feed = format!("default={exchange}");
    let (one, two) =
        (Gateway::start(&rabbit.url, &["--feed", &feed]).await, Gateway::start(&rabbit.url, &["--feed", &feed]).await);
    let dir = tempfile::tempdir().unwrap();
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let _shim = shim(&[
        "--source",
        &source,
        "--ledger",
        &ledger,
        "--amqp",
        &rabbit.url,
        "--exchange",
        &exchange,
        "--timezone",
        "America/Los_Angeles",
    ])
    .await;

    let mut watch =
        Proc::spawn(bin("bugfeed").unwrap(), &["watch", "1234", "--json", "--url", &one.url()], &[]).unwrap();
    connected(&mut watch).await;
    let mut client = two.client().await;
    client.subscribe(&[1234]).await;
    server.sql(&database, insert).await.unwrap();
    let line = watch.wait_for_line("\"bug\"", SOON).await.unwrap();
    assert_eq!(line, r#"{"bug":1234,"when":"2014-04-04T04:13:45"}"#, "local time became UTC");
    assert_eq!(client.update().await, (1234, "2014-04-04T04:13:45".to_owned()));

    // `touch` writes what the tracker would, in its local time.
    let local = ["1234", "--source", &source, "--timezone", "America/Los_Angeles", "--when", "2033-07-01T12:00:00"];
    touch(dir.path(), &local).await;
    assert_eq!(client.update().await, (1234, "2033-07-01T12:00:00".to_owned()));
}

#[tokio::test]
async fn mariadb() {
    let Some(server) = shared::mariadb().await else { return };
    let insert = "INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, '2014-04-03 21:13:45')";
    one_change_end_to_end(&server, insert).await;
}

#[tokio::test]
async fn postgresql() {
    let Some(server) = shared::postgres().await else { return };
    let insert = "INSERT INTO push_notify (bug_id, delta_ts) VALUES (1234, '2014-04-03 21:13:45')";
    one_change_end_to_end(&server, insert).await;
}
