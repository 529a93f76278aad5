//! A RabbitMQ behind TLS: shim and gateway with `amqps://`, and the certificate that they trust.

use std::net::SocketAddr;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Run, bin, eventually, free_port, shared, unique};

use crate::support::{Client, SOON, get, tls};

const T: &str = "2014-04-03T21:13:45";

#[tokio::test]
async fn a_change_goes_through_tls_to_the_broker_and_back() {
    let Some(rabbit) = shared::rabbitmq().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(acceptor) = tls::acceptor(dir.path()).await else { return };
    let (login, rest) = rabbit.url.strip_prefix("amqp://").unwrap().split_once('@').unwrap();
    let (address, vhost) = rest.split_once('/').unwrap();
    let port = tls::proxy(acceptor, address.parse().unwrap()).await;
    let amqp = format!("amqps://{login}@localhost:{port}/{vhost}");
    let trusted = dir.path().join("cert.pem");
    let exchange = unique("tls");

    let source = format!("sqlite://{}/table.db", dir.path().display());
    crate::support::init(&source).await;
    let options = ["run", "--amqp", &amqp, "--exchange", &exchange, "--history", "false", "--source", &source];
    let ledger = format!("sqlite://{}/ledger.db", dir.path().display());
    let shim = Run::new(bin("bugfeed-shim").unwrap()).env("SSL_CERT_FILE", &trusted).args(options);
    let mut shim = shim.args(["--ledger", &ledger]).spawn().unwrap();
    shim.wait_for_event(LogEvent::LeaseTaken, SOON).await.unwrap();

    let [clients, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
    let mut gateway = Run::new(bin("bugfeed").unwrap())
        .args(["gateway", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
        .args([
            "--amqp",
            &format!("{amqp}?cacertfile={}", trusted.display()),
            "--feed",
            &format!("default={exchange}"),
            "--history",
            "false",
        ])
        .spawn()
        .unwrap();
    gateway.wait_for_event(LogEvent::GatewayListens, SOON).await.unwrap();
    eventually(SOON, "the gateway is ready", async || {
        let (status, body) = get(admin, "/readyz").await;
        if status == 200 { Ok(()) } else { Err(body) }
    })
    .await
    .unwrap();

    let mut client = Client::connect(&format!("ws://{clients}/")).await;
    client.subscribe(&[7]).await;
    let touch = ["touch", "7", "--when", T, "--source", &source];
    let mut touch = Run::new(bin("bugfeed").unwrap()).args(touch).spawn().unwrap();
    assert!(touch.wait(SOON).await.unwrap().success(), "{}", touch.output());
    assert_eq!(client.update().await, (7, T.to_owned()));
}
