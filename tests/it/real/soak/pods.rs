//! Processes that die and come back: gateways behind something like a load balancer, and shims.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bugfeed_protocol::log_event::LogEvent;
use bugfeed_testbed::{Proc, Run, bin, event, eventually};
use rand::RngExt as _;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::pause;
use crate::support::{SOON, free_address};

/// How often gateways are asked.
const PERIOD: Duration = Duration::from_millis(50);

/// A program that is started again and again with the same arguments. Its output is kept in a file for each run.
pub struct Program {
    pub name: String,
    binary: &'static str,
    args: Vec<String>,
    logs: PathBuf,
    runs: u32,
    pub proc: Option<Proc>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.keep_log();
    }
}

impl Program {
    pub fn new(name: &str, binary: &'static str, args: &[&str], logs: &Path) -> Program {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Program { name: name.to_owned(), binary, args, logs: logs.to_owned(), runs: 0, proc: None }
    }

    pub fn start(&mut self) {
        self.keep_log();
        self.runs += 1;
        let run =
            Run::new(bin(self.binary).unwrap()).args(&self.args).env("RUST_LOG", "info,bugfeed_gateway::events=debug");
        self.proc = Some(run.spawn().unwrap());
    }

    /// Writes down what it printed.
    pub fn keep_log(&self) {
        if let Some(proc) = &self.proc {
            // Where it cannot be written there is no log.
            let _ = std::fs::write(self.logs.join(format!("{}.{}.log", self.name, self.runs)), proc.output());
        }
    }

    /// It runs. That it ended by itself is a fault of ours.
    pub fn proc(&mut self) -> &mut Proc {
        let proc = self.proc.as_mut().expect("started before");
        let ended = proc.exited().unwrap();
        assert!(ended.is_none(), "{} ended by itself: {ended:?}\n{}", self.name, proc.output());
        proc
    }

    pub fn kill9(&mut self) {
        self.proc().kill9();
    }

    /// Asks it to end, and waits until it has, without a fault.
    pub async fn terminate(&mut self) {
        self.proc().sigterm();
        let status = self.proc.as_mut().expect("started before").wait(SOON).await.unwrap();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.proc.as_ref().unwrap().output());
    }

    pub async fn freeze(&mut self, length: Duration) {
        self.proc().sigstop();
        pause(length).await;
        self.proc().sigcont();
    }
}

/// How often an event is in the logs.
pub fn logged(logs: &Path, what: LogEvent) -> usize {
    let files = std::fs::read_dir(logs).unwrap().flatten();
    files.map(|file| event(what).count(&std::fs::read_to_string(file.path()).unwrap())).sum()
}

/// What the load balancer knows of a gateway.
pub struct Pod {
    pub clients: SocketAddr,
    pub admin: SocketAddr,
    /// Counts its lives.
    life: AtomicU64,
    /// The life in which it was ready; 0 is none. A gateway that was ready and has lost its broker can answer still.
    ready: AtomicU64,
    narrow: bool,
}

/// One gateway in one of its lives.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub index: usize,
    life: u64,
    pub address: SocketAddr,
}

/// The gateways as clients find them, and how often clients lagged in each life of each.
pub struct Pods(pub Vec<Pod>, Mutex<HashMap<(usize, u64), u64>>);

impl Pods {
    pub fn new(narrow: &[bool]) -> Pods {
        let pod = |&narrow: &bool| {
            let (clients, admin) = (free_address(), free_address());
            Pod { clients, admin, life: AtomicU64::new(1), ready: AtomicU64::new(0), narrow }
        };
        Pods(narrow.iter().map(pod).collect(), Mutex::default())
    }

    /// All of them behind one address, where something else chooses among them.
    pub fn behind(service: SocketAddr) -> Pods {
        let (life, ready) = (AtomicU64::new(1), AtomicU64::new(1));
        Pods(vec![Pod { clients: service, admin: service, life, ready, narrow: false }], Mutex::default())
    }

    /// A new life begins, in which it has yet to become ready.
    pub fn reborn(&self, index: usize) {
        self.0[index].life.fetch_add(1, Ordering::SeqCst);
    }

    fn is_ready(&self, index: usize) -> bool {
        self.0[index].ready.load(Ordering::SeqCst) == self.0[index].life.load(Ordering::SeqCst)
    }

    pub fn all_ready(&self) -> bool {
        (0..self.0.len()).all(|index| self.is_ready(index))
    }

    /// Waits until it is ready, or until the end.
    pub async fn ready(&self, index: usize, end: Instant) {
        let limit = end.saturating_duration_since(Instant::now());
        let _or_until_the_end = eventually(limit, "it is ready", async || self.is_ready(index)).await;
    }

    /// Whether a gateway is still the process that was chosen.
    pub fn lives(&self, choice: Choice) -> bool {
        self.0[choice.index].life.load(Ordering::SeqCst) == choice.life
    }

    /// One of those that are ready, not the one of before unless it is the only one.
    pub fn choose(&self, narrow: bool, before: Option<usize>, random: &mut SmallRng) -> Option<Choice> {
        let mut ready: Vec<usize> =
            (0..self.0.len()).filter(|&index| self.is_ready(index) && (narrow || !self.0[index].narrow)).collect();
        if ready.len() > 1 {
            ready.retain(|index| Some(*index) != before);
        }
        let index = *ready.get(random.random_range(0..ready.len().max(1)))?;
        let pod = &self.0[index];
        Some(Choice { index, life: pod.ready.load(Ordering::SeqCst), address: pod.clients })
    }

    /// Asks each gateway again and again whether it is ready, and how often a client lagged.
    pub async fn probe(&self) {
        loop {
            futures::future::join_all((0..self.0.len()).map(|index| self.look(index))).await;
            pause(PERIOD).await;
        }
    }

    async fn look(&self, index: usize) {
        let pod = &self.0[index];
        let life = pod.life.load(Ordering::SeqCst);
        // An answer of the life before says nothing.
        let lives = || pod.life.load(Ordering::SeqCst) == life;
        let patience = Duration::from_millis(500);
        if !self.is_ready(index) {
            let asked = tokio::time::timeout(patience, get(pod.admin, "/readyz")).await;
            if matches!(asked, Ok(Some(answer)) if answer.contains(" 200 ")) && lives() {
                pod.ready.store(life, Ordering::SeqCst);
            }
        }
        if let Ok(Some(page)) = tokio::time::timeout(patience, get(pod.admin, "/metrics")).await
            && let Some((_, lagged)) = page.split_once("\nbugfeed_sessions_lagged_total ")
            && lives()
        {
            let lagged = lagged.lines().next().and_then(|number| number.parse().ok()).unwrap();
            self.1.lock().unwrap().insert((index, life), lagged);
        }
    }

    /// How often clients of the gateways with room for all lagged after all: on a machine so busy that they were not
    /// read from for a while.
    pub fn lagged_with_room(&self) -> u64 {
        let counts = self.1.lock().unwrap();
        counts.iter().filter(|((index, _), _)| !self.0[*index].narrow).map(|(_, count)| count).sum()
    }
}

/// GET; the whole answer, none when there is none.
pub async fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
