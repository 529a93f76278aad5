//! The split set-up as processes: shim, gateways, and what they are started with.

use std::net::SocketAddr;

use bugfeed_testbed::{Proc, Run, bin, eventually, free_port};

use crate::support::{Client, SOON, get};

/// A running `bugfeed gateway`.
pub struct Gateway {
    pub proc: Proc,
    pub clients: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    /// Starts one on free ports and waits until it is ready.
    pub async fn start(amqp: &str, options: &[&str]) -> Gateway {
        let gateway = Gateway::start_unready(amqp, options).await;
        gateway.wait_ready().await;
        gateway
    }

    pub async fn start_unready(amqp: &str, options: &[&str]) -> Gateway {
        let [clients, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
        let mut proc = Run::new(bin("bugfeed").unwrap())
            .args(["gateway", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
            .args(["--amqp", amqp])
            .args(options)
            .spawn()
            .unwrap();
        proc.wait_for_line("gateway listens", SOON).await.unwrap();
        Gateway { proc, clients, admin }
    }

    pub async fn wait_ready(&self) {
        eventually(SOON, "the gateway is ready", async || {
            let (status, body) = get(self.admin, "/readyz").await;
            if status == 200 { Ok(()) } else { Err(body) }
        })
        .await
        .unwrap();
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.clients)
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url()).await
    }

    pub async fn metrics(&self) -> String {
        get(self.admin, "/metrics").await.1
    }
}

/// Starts `bugfeed-shim run` with these options and waits until it works.
pub async fn shim(options: &[&str]) -> Proc {
    let mut proc = Run::new(bin("bugfeed-shim").unwrap()).arg("run").args(options).spawn().unwrap();
    proc.wait_for_line("working on this ledger", SOON).await.unwrap();
    proc
}

/// Runs `bugfeed-shim init`.
pub async fn init(source: &str) {
    let mut proc = Proc::spawn(bin("bugfeed-shim").unwrap(), &["init", "--source", source], &[]).unwrap();
    assert!(proc.wait(SOON).await.unwrap().success(), "{}", proc.output());
}
