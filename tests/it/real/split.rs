//! The split set-up as processes: shim, gateways, and what they are started with.

use std::net::SocketAddr;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin};

use crate::support::{Client, SOON, free_address, get};

/// A running `bugfeed gateway`.
pub struct Gateway {
    pub proc: Proc,
    pub clients: SocketAddr,
    pub admin: SocketAddr,
}

impl Gateway {
    /// Starts one on free ports and waits until it is ready.
    pub async fn start(amqp: &str, options: &[&str]) -> Gateway {
        let mut gateway = Gateway::start_unready(amqp, options).await;
        gateway.wait_ready().await;
        gateway
    }

    pub async fn start_unready(amqp: &str, options: &[&str]) -> Gateway {
        let [clients, admin] = [(); 2].map(|()| free_address());
        let mut proc = Run::new(bin("bugfeed").unwrap())
            .args(["gateway", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
            .args(["--amqp", amqp])
            .args(options)
            .spawn()
            .unwrap();
        proc.wait_for_event(LogEvent::GatewayListens, SOON).await.unwrap();
        Gateway { proc, clients, admin }
    }

    pub async fn wait_ready(&mut self) {
        self.proc.wait_ready(self.admin, SOON).await.unwrap();
    }

    /// Waits until it has logged this event, which it may not do again.
    pub async fn logs_once(&mut self, event: LogEvent) {
        self.proc.wait_for_event(event, SOON).await.unwrap();
        assert_eq!(self.proc.events(event), 1, "{}", self.proc.output());
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
    proc.wait_for_event(LogEvent::LeaseTaken, SOON).await.unwrap();
    proc
}
