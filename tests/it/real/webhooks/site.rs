//! All that runs: the broker, the store, a gateway, replicas of hooks behind one address, and two trackers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bugfeed_hooks::receive::key::Key;
use bugfeed_testbed::{RabbitMq, eventually};
use tokio::task::AbortHandle;

use super::receivers::Receivers;
use super::store::{Database, Kind};
use super::tracker::{REPOSITORY, Tracker};
use super::{bugzilla, github};
use crate::real::rolling::service::Service;
use crate::real::soak::chaos::CATCH_UP;
use crate::real::soak::pause;
use crate::real::soak::pods::{Pods, Program, get};

/// The feeds, in the order of the trackers.
pub const FEEDS: [&str; 2] = ["kde", "octo"];
/// The sources, in the same order.
pub const SOURCES: [&str; 2] = ["bugzilla", "github"];
/// How often the counters of hooks are read.
const PERIOD: Duration = Duration::from_millis(300);

/// What can die.
pub struct Parts {
    pub database: Database,
    pub rabbit: RabbitMq,
    pub gateway: Program,
    pub hooks: Vec<Program>,
}

/// What everything else is reached by.
pub struct Around {
    pub pods: Arc<Pods>,
    pub service: Arc<Service>,
    pub key: Key,
    pub trackers: [Arc<Tracker>; 2],
    pub receivers: Receivers,
    pub missed: Arc<Missed>,
    /// Cursors, spools, configuration, and a store that is a file.
    pub folder: tempfile::TempDir,
    pub logs: PathBuf,
    replicas: usize,
    tasks: Vec<AbortHandle>,
}

impl Drop for Around {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Starts everything. None where a server is not installed. With `verify`, Bugzilla is asked before a bug is announced.
pub async fn start(kind: Kind, replicas: usize, verify: bool, seed: u64) -> Option<(Parts, Around)> {
    let folder = tempfile::tempdir().unwrap();
    let (database, rabbit) = tokio::join!(Database::start(kind, folder.path()), RabbitMq::start_or_skip());
    let (database, rabbit) = (database?, rabbit?);
    let receivers = Receivers::start([(FEEDS[0], bugzilla::BUGS), (FEEDS[1], github::ISSUES)], seed).await;
    let key = database.prepare(seed, &receivers).await;
    let trackers = [Arc::new(Tracker::start().await), Arc::new(Tracker::start().await)];
    let logs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("webhooks-{seed}"));
    std::fs::create_dir_all(&logs).unwrap();
    let config = write_config(folder.path(), verify, &trackers);
    let service = Arc::new(Service::start(replicas).await);
    // A frozen peer is found out within seconds.
    let amqp = format!("{}?heartbeat=2", rabbit.url());
    let store = database.url();
    let replica = |index| {
        let (senders, admin) = service.ports(index);
        let (senders, admin) = (senders.to_string(), admin.to_string());
        let own = folder.path().join(format!("hooks{index}"));
        let (spool, token) = (own.join("spool").display().to_string(), own.join("token").display().to_string());
        let mut args = vec!["hooks", "--listen", &senders, "--admin-listen", &admin, "--store", &store];
        args.extend(["--config", &config, "--amqp", &amqp, "--spool-dir", &spool, "--admin-token-file", &token]);
        // Receivers are on this machine.
        args.extend(["--allow-network", "127.0.0.0/8"]);
        Program::new(&format!("hooks{index}"), "bugfeed", &args, &logs)
    };
    let mut hooks: Vec<Program> = (0..replicas).map(replica).collect();
    hooks.iter_mut().for_each(Program::start);
    let pods = Arc::new(Pods::new(&[false]));
    let gateway = gateway(&amqp, &pods, &logs);
    let missed = Arc::new(Missed::default());
    let (probed, counted, of) = (Arc::clone(&pods), Arc::clone(&missed), Arc::clone(&service));
    let tasks = vec![
        tokio::spawn(async move { probed.probe().await }).abort_handle(),
        tokio::spawn(async move { counted.watch(&of, replicas).await }).abort_handle(),
    ];
    let parts = Parts { database, rabbit, gateway, hooks };
    let around = Around { pods, service, key, trackers, receivers, missed, folder, logs, replicas, tasks };
    parts.ready(&around).await;
    Some((parts, around))
}

impl Parts {
    /// Waits until hooks and gateway say that they are ready.
    pub async fn ready(&self, around: &Around) {
        let ready = async || {
            let hooks: Vec<bool> = (0..around.replicas).map(|index| around.service.is_ready(index)).collect();
            let gateway = around.pods.all_ready();
            if gateway && hooks.iter().all(|ready| *ready) { Ok(()) } else { Err((hooks, gateway)) }
        };
        if let Err(error) = eventually(CATCH_UP, "hooks and gateway are ready", ready).await {
            self.keep_logs();
            panic!("{error}; logs of all processes: {}", around.logs.display());
        }
    }

    /// Stops all hooks in good order, and starts them again.
    pub async fn restart_hooks(&mut self) {
        for replica in &mut self.hooks {
            replica.terminate().await;
        }
        self.hooks.iter_mut().for_each(Program::start);
    }

    /// Writes down what everything has printed.
    pub fn keep_logs(&self) {
        self.gateway.keep_log();
        self.hooks.iter().for_each(Program::keep_log);
    }
}

impl Around {
    /// What is left in the spools, by name.
    pub fn spooled(&self) -> Vec<String> {
        let folder = |index| std::fs::read_dir(self.folder.path().join(format!("hooks{index}/spool"))).ok();
        let files = (0..self.replicas).filter_map(folder).flatten().flatten();
        let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
        names.filter(|name| name != "lock").collect()
    }
}

fn gateway(amqp: &str, pods: &Pods, logs: &Path) -> Program {
    let (clients, admin) = (pods.0[0].clients.to_string(), pods.0[0].admin.to_string());
    let mut args = vec!["gateway", "--amqp", amqp, "--listen", &clients, "--admin-listen", &admin];
    args.extend(["--feed", "kde=bugfeed.kde", "--feed", "octo=bugfeed.octo", "--send-buffer-bytes", "4194304"]);
    args.extend(["--ping-interval-ms", "1000", "--drain-window-ms", "1000"]);
    let mut gateway = Program::new("gateway", "bugfeed", &args, logs);
    gateway.start();
    gateway
}

/// Both sources; trackers are asked as often as is allowed.
fn write_config(folder: &Path, verify: bool, trackers: &[Arc<Tracker>; 2]) -> String {
    let [bugzilla, github] = trackers.each_ref().map(|tracker| tracker.address);
    let secret = github::secret();
    let config = format!(
        "[[source]]\nname = \"bugzilla\"\npreset = \"bugzilla\"\nfeed = \"kde\"\ntracker = \"http://{bugzilla}\"\n\
         reconcile = \"5m\"\nverify = {verify}\n\n[[source]]\nname = \"github\"\npreset = \"github\"\nfeed = \"octo\"\n\
         secret = \"{secret}\"\ntracker = \"http://{github}/{REPOSITORY}\"\nreconcile = \"1m\"\n"
    );
    let path = folder.join("hooks.toml");
    std::fs::write(&path, config).unwrap();
    path.display().to_string()
}

/// `bugfeed_hooks_missed_total` over all lives of all replicas, by replica and source. What a process counted in its last
/// moments is not known.
#[derive(Default)]
pub struct Missed(Mutex<HashMap<(usize, &'static str), Count>>);

#[derive(Default)]
struct Count {
    /// What earlier lives counted.
    before: u64,
    last: u64,
}

impl Missed {
    async fn watch(&self, service: &Service, replicas: usize) {
        loop {
            for index in 0..replicas {
                let (_, admin) = service.ports(index);
                let asked = tokio::time::timeout(PERIOD, get(admin, "/metrics")).await;
                let Ok(Some(page)) = asked else { continue };
                SOURCES.iter().for_each(|source| self.note(index, source, &page));
            }
            pause(PERIOD).await;
        }
    }

    fn note(&self, index: usize, source: &'static str, page: &str) {
        let name = format!("bugfeed_hooks_missed_total{{source=\"{source}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0);
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry((index, source)).or_default();
        if value < count.last {
            count.before += count.last;
        }
        count.last = value;
    }

    /// The sum for a source.
    pub fn of(&self, source: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        counts.iter().filter(|((_, of), _)| *of == source).map(|(_, count)| count.before + count.last).sum()
    }
}
