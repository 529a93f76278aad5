//! The binaries as an operator starts them. In: the arguments. Out: a running process that answers on ports of its own
//! and can be killed and started again there. It never shares a folder with another test.

use std::net::SocketAddr;
use std::path::Path;

use bugfeed_testbed::{Proc, Run, bin, eventually, get};
use tempfile::TempDir;

use crate::support::{SOON, free_address, init, touch};

/// `bugfeed`, as all-in-one or gateway.
pub struct Server {
    // Dropped in this order.
    proc: Proc,
    dir: TempDir,
    args: Vec<String>,
    clients: SocketAddr,
    pub admin: SocketAddr,
}

impl Server {
    /// Starts `bugfeed` with arguments; without any, it is the all-in-one.
    pub async fn start(args: &[&str]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let [clients, admin] = [(); 2].map(|()| free_address());
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let mut proc = spawn(dir.path(), &args, clients, admin);
        proc.wait_ready(admin, SOON).await.unwrap();
        Server { proc, dir, args, clients, admin }
    }

    /// Starts it again after it has ended, on the same ports and in the same folder.
    pub async fn start_again(&mut self) {
        assert!(self.proc.exited().unwrap().is_some(), "still running");
        self.proc = spawn(self.dir.path(), &self.args, self.clients, self.admin);
        self.proc.wait_ready(self.admin, SOON).await.unwrap();
    }

    /// While it does not run: takes in what was touched, so many changes, where no client finds it. The changes then have
    /// their numbers before a client comes back, as if they had come while that client was away.
    pub async fn take_in_unseen(&self, changes: usize) {
        let [clients, admin] = [(); 2].map(|()| free_address());
        let mut proc = spawn(self.dir.path(), &self.args, clients, admin);
        proc.wait_ready(admin, SOON).await.unwrap();
        let taken_in = async || changes_taken_in(admin).await.is_some_and(|count| count >= changes);
        eventually(SOON, "the changes arrive", taken_in).await.unwrap();
        proc.stop(SOON).await.unwrap();
    }

    pub fn kill9(&mut self) {
        self.proc.kill9();
    }

    /// Throws its data away, while it does not run: table, ledger and all.
    pub fn forget(&mut self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) {
        self.proc.stop(SOON).await.unwrap();
    }

    /// The address of a path of the live page.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.clients)
    }

    /// What `/readyz` answers.
    pub async fn readiness(&self) -> u16 {
        get(self.admin, "/readyz").await.unwrap().0
    }

    /// `bugfeed touch` in the all-in-one's folder. Where it runs, waits until it has the changes: what is subscribed
    /// after this finds them in the catch-up.
    pub async fn touch(&self, args: &[&str]) {
        let before = changes_taken_in(self.admin).await;
        touch(self.dir.path(), args).await;
        if let Some(before) = before {
            let bugs = args.iter().take_while(|arg| !arg.starts_with('-')).count();
            let arrived = async || changes_taken_in(self.admin).await.is_some_and(|changes| changes >= before + bugs);
            eventually(SOON, "the changes arrive", arrived).await.unwrap();
        }
    }
}

/// How many changes a server has taken in, if one runs with this admin port.
async fn changes_taken_in(admin: SocketAddr) -> Option<usize> {
    let (_, metrics) = get(admin, "/metrics").await.ok()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("bugfeed_changes_total{feed=\"default\"} "));
    Some(line.map_or(0, |count| count.parse().unwrap()))
}

fn spawn(dir: &Path, args: &[String], clients: SocketAddr, admin: SocketAddr) -> Proc {
    Run::new(bin("bugfeed").unwrap())
        .dir(dir)
        .args(args)
        .env("BUGFEED_LISTEN", clients.to_string())
        .env("BUGFEED_ADMIN_LISTEN", admin.to_string())
        .spawn()
        .unwrap()
}

/// `bugfeed-shim` between a change table of its own, in SQLite, and an exchange.
pub struct Shim {
    // Dropped in this order.
    _proc: Proc,
    dir: TempDir,
    table: String,
}

impl Shim {
    /// Makes the table and publishes its changes.
    pub async fn start(amqp: &str, exchange: &str) -> Shim {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| format!("sqlite://{}", dir.path().join(name).display());
        let (table, ledger) = (file("tracker.db"), file("ledger.db"));
        init(&table).await;
        let admin = free_address();
        let mut proc = Run::new(bin("bugfeed-shim").unwrap())
            .args(["run", "--source", &table, "--ledger", &ledger, "--exchange", exchange])
            .args(["--poll-interval-ms", "50", "--admin-listen", &admin.to_string()])
            .env("BUGFEED_SHIM_AMQP", amqp)
            .spawn()
            .unwrap();
        proc.wait_ready(admin, SOON).await.unwrap();
        Shim { _proc: proc, dir, table }
    }

    /// `bugfeed touch` on its table.
    pub async fn touch(&self, args: &[&str]) {
        touch(self.dir.path(), &[args, &["--source", &self.table]].concat()).await;
    }
}
