//! A table, a shim, two gateways on two addresses of this machine, and a proxy in front, set up by its file in deploy/proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin, eventually, free_port, shared, skipped, tool, unique};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::real::split::{Gateway, shim};
use crate::support::{SOON, free_address, init, touch};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    HaProxy,
    Caddy,
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    _proc: Proc,
}

/// What takes the places of the files' 10.0.0.11:8844, 10.0.0.12:8844 and 10.0.0.13:8846, and of the gateways' admin port.
pub struct Places {
    gateways: [SocketAddr; 2],
    admin: u16,
    hooks: SocketAddr,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::HaProxy => "haproxy",
            Kind::Caddy => "caddy",
        }
    }

    /// Caddy's file sets none.
    pub fn has_timeouts(self) -> bool {
        self != Kind::Caddy
    }

    /// Starts it in this folder and waits until it listens; `change` may change the file's text.
    pub async fn start(self, dir: &Path, places: Places, change: impl FnOnce(String) -> String) -> Proxy {
        let address = free_address();
        let file = match self {
            Kind::Nginx => "proxy/nginx.conf",
            Kind::HaProxy => "proxy/haproxy.cfg",
            Kind::Caddy => "proxy/Caddyfile",
        };
        let mut text = crate::deploy::read(file);
        for (from, to) in [
            ("10.0.0.11:8844", places.gateways[0].to_string()),
            ("10.0.0.12:8844", places.gateways[1].to_string()),
            ("10.0.0.13:8846", places.hooks.to_string()),
        ] {
            assert!(text.contains(from), "{file} has no {from}");
            text = text.replace(from, &to);
        }
        let text = change(self.on(address, places.admin, dir, &text));
        std::fs::write(dir.join("proxy.conf"), text).unwrap();
        let proc = self.run(dir).spawn().unwrap();
        let listens = async || {
            let found = TcpStream::connect(address).await.is_ok();
            if found { Ok(()) } else { Err(proc.output()) }
        };
        eventually(SOON, format!("{self:?} listens"), listens).await.unwrap();
        Proxy { address, _proc: proc }
    }

    /// The text with this address, without TLS, and with this port for checks.
    fn on(self, address: SocketAddr, admin: u16, dir: &Path, text: &str) -> String {
        let replaced = |from: &str, to: &str| {
            assert!(text.contains(from), "no {from}");
            text.replace(from, to)
        };
        match self {
            Kind::Nginx => {
                let text = replaced("listen 443 ssl;", &format!("listen {address};"));
                let lines = text.lines().filter(|line| !line.trim_start().starts_with("ssl_"));
                let server = lines.collect::<Vec<_>>().join("\n");
                let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let temporary = kinds.map(|kind| format!("{kind}_temp_path {}/{kind};\n", dir.display())).concat();
                format!(
                    "daemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr;\nevents {{}}\n\
                     http {{\naccess_log off;\n{temporary}{server}\n}}\n",
                    dir.display()
                )
            }
            Kind::HaProxy => {
                let bind = "bind :443 ssl crt /etc/haproxy/bugfeed.pem alpn h2,http/1.1";
                // It starts only where it may have two files for each connection.
                replaced(bind, &format!("bind {address}"))
                    .replace("maxconn 50000", "maxconn 1000")
                    .replace("check port 8845", &format!("check port {admin}"))
            }
            Kind::Caddy => {
                let site = format!("http://:{} {{\n\tbind {}\n", address.port(), address.ip());
                let text = replaced("bugfeed.example.org {\n", &site);
                let text = text.replace("health_port 8845", &format!("health_port {admin}"));
                format!("{{\n\tadmin off\n}}\n{text}")
            }
        }
    }

    fn run(self, dir: &Path) -> Run {
        let file = dir.join("proxy.conf");
        let run = Run::new(tool(self.program()).unwrap());
        match self {
            Kind::Nginx => run.arg("-p").arg(dir).arg("-c").arg(file).args(["-e", "stderr"]),
            Kind::HaProxy => run.args(["-db", "-f"]).arg(file),
            Kind::Caddy => run
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file)
                .envs(["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, dir))),
        }
        .dir(dir)
    }
}

/// Everything behind one address.
pub struct Scene {
    pub kind: Kind,
    pub proxy: Proxy,
    pub gateways: Vec<Gateway>,
    source: String,
    dir: TempDir,
    _shim: Proc,
}

impl Scene {
    /// Skips the test where there is no such proxy, or no RabbitMQ.
    pub async fn start_or_skip(kind: Kind) -> Option<Scene> {
        if tool(kind.program()).is_err() {
            let name = kind.program();
            skipped(&format!("{name} is not installed; run tests/run, or install the Debian package {name}"));
            return None;
        }
        let amqp = shared::rabbitmq().await?.url;
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| format!("sqlite://{}/{name}", dir.path().display());
        let (source, ledger, exchange) = (file("table.db"), file("ledger.db"), unique("proxy"));
        init(&source).await;
        let options = ["--source", &source, "--ledger", &ledger, "--amqp", &amqp, "--exchange", &exchange];
        let shim = shim(&options).await;
        // On two addresses, so that both have the same ports, as on two machines.
        let ports = [free_port().unwrap(), free_port().unwrap()];
        let mut gateways = Vec::new();
        for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let [clients, admin] = ports.map(|port| SocketAddr::from((host, port)));
            let proc = Run::new(bin("bugfeed").unwrap())
                .args(["gateway", "--listen", &clients.to_string(), "--admin-listen", &admin.to_string()])
                .args(["--amqp", &amqp, "--feed", &format!("default={exchange}")])
                .args(["--ping-interval-ms", "300", "--drain-window-ms", "200"])
                .spawn()
                .unwrap();
            let mut gateway = Gateway { proc, clients, admin };
            gateway.proc.wait_for_event(LogEvent::GatewayListens, SOON).await.unwrap();
            gateway.wait_ready().await;
            gateways.push(gateway);
        }
        let proxy = kind.start(dir.path(), places(&gateways), |text| text).await;
        Some(Scene { kind, proxy, gateways, source, dir, _shim: shim })
    }

    /// For one more proxy in front of the same gateways.
    pub fn places(&self) -> Places {
        places(&self.gateways)
    }

    /// A change of this bug, now.
    pub async fn touch(&self, bug: u64) {
        touch(self.dir.path(), &[&bug.to_string(), "--source", &self.source]).await;
    }
}

fn places(gateways: &[Gateway]) -> Places {
    let clients = |index: usize| gateways[index].clients;
    Places { gateways: [clients(0), clients(1)], admin: gateways[0].admin.port(), hooks: clients(0) }
}

/// Takes any request, answers 200, and keeps its head.
pub struct Capture {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Capture {
    /// Ends with the runtime.
    pub async fn start() -> Capture {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heads) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let kept = Arc::clone(&heads);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, Arc::clone(&kept)));
            }
        });
        Capture { address, heads }
    }

    /// In all places.
    pub fn places(&self) -> Places {
        Places { gateways: [self.address; 2], admin: self.address.port(), hooks: self.address }
    }

    /// In lower case.
    pub fn head_of(&self, path: &str) -> String {
        let heads = self.heads.lock().unwrap();
        let first = format!("get {path} ");
        heads.iter().find(|head| head.starts_with(&first)).unwrap_or_else(|| panic!("no {path} in {heads:?}")).clone()
    }
}

async fn answer(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let (mut head, mut buffer) = (String::new(), [0; 4096]);
    while !head.contains("\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.push_str(&String::from_utf8_lossy(&buffer[..read]).to_lowercase()),
        }
    }
    heads.lock().unwrap().push(head);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n").await;
}
