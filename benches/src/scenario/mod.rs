//! The scenarios, and what all of them share: a broker, a server, the floor, clients, and the numbers of updates.

pub mod against;
mod broker;
pub mod cost;
pub mod fanout;
pub mod growth;
pub mod idle;
pub mod scale;
pub mod slow;
pub mod sparse;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use bugfeed_testbed::{RabbitMq, unique};
use tempfile::TempDir;

use crate::clock::{Stamps, exact_sleeps, scratch};
use crate::common::Common;
use crate::dialect::Dialect;
use crate::floor::Floor;
use crate::load::worker::{Worker, order_all};
use crate::load::{Clients, Order};
use crate::measure::{Sample, Source, measure};
use crate::plan::{Index, Phase, Watch};
use crate::procfs::{pin, pin_self, raise_file_limit};
use crate::publish::Pace;
use crate::target::{Start, Target, Via};

/// How many clients connect or subscribe at a time.
const WINDOW: u32 = 256;

/// Two servers that get the same updates, and their clients.
pub struct Twins {
    /// The servers.
    pub servers: [Target; 2],
    /// The clients of each.
    pub clients: [Worker; 2],
}

/// One run of the program.
pub struct Bench {
    /// What was asked for.
    pub common: Common,
    stamps: Stamps,
    next: Index,
    next_source: u16,
    rabbit: Option<RabbitMq>,
    _scratch: TempDir,
}

impl Bench {
    /// Prepares this process, and the processes that it will start: pins them to a processor unless that is not wanted,
    /// and raises the limit on open files.
    ///
    /// # Errors
    /// When the machine does not allow it.
    pub fn new(common: &Common) -> Result<Bench> {
        raise_file_limit(u64::from(common.clients) + 200)?;
        pin_self(common.load_core())?;
        exact_sleeps();
        let scratch = scratch()?;
        let stamps = Stamps::create(scratch.path())?;
        // The source addresses depend on the process id, because ports that the last run used are not free at once.
        let [.., high, low] = std::process::id().to_be_bytes();
        let next_source = u16::from_be_bytes([high, low]).wrapping_mul(16);
        Ok(Bench { common: common.clone(), stamps, next: 1, next_source, rabbit: None, _scratch: scratch })
    }

    /// The next updates: `count` of them, of bugs from `from_bug` on.
    pub fn phase(&mut self, count: u32, from_bug: u32, bugs: u32) -> Phase {
        let first = self.next;
        self.next += count;
        Phase { first, count, from_bug, bugs, last_bug: None, dated_together: 1 }
    }

    /// The broker's URL; starts a broker if none was given.
    fn broker(&mut self) -> Result<String> {
        if let Some(url) = &self.common.amqp {
            return Ok(url.clone());
        }
        if self.rabbit.is_none() {
            if !RabbitMq::installed() {
                bail!("rabbitmq-server is not installed: install it, give a broker with --amqp, or use --via feed");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let rabbit = runtime.block_on(RabbitMq::start())?;
            if let Some(core) = self.common.load_core() {
                pin(rabbit.pid().context("the broker is gone")?, core)?;
            }
            self.rabbit = Some(rabbit);
        }
        Ok(self.rabbit.as_ref().context("just started")?.url())
    }

    fn start(&self) -> Result<Start> {
        let server = match &self.common.server {
            Some(path) => path.clone(),
            None => beside()?,
        };
        let mut args = self.common.server_args.clone();
        if self.common.clients > 14_000 {
            args.push(format!("--max-connections={}", self.common.clients + 100));
        }
        Ok(Start { server, args, core: self.common.server_core() })
    }

    /// Starts the server that was asked for.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn server(&mut self) -> Result<Target> {
        let start = self.start()?;
        match self.common.via {
            Via::Amqp => Target::gateway(&start, &self.broker()?, &unique("bench")),
            Via::Feed => Target::feed_alone(&start),
        }
    }

    /// The process id of the broker, if this program started it.
    pub fn broker_pid(&self) -> Option<u32> {
        self.rabbit.as_ref().and_then(RabbitMq::pid)
    }

    /// Starts a load process for the clients of one server, with a source address of its own: each address has ports
    /// for some 28,000 connections, and the ports of ended connections are not free at once.
    ///
    /// # Errors
    /// When it does not start.
    pub fn load(&mut self, to: SocketAddr, path: &str, dialect: Dialect, watch: Watch) -> Result<(Worker, Clients)> {
        let [high, low] = self.next_source.to_be_bytes();
        self.next_source = self.next_source.wrapping_add(1);
        let clients = Clients {
            server: to,
            path: path.to_owned(),
            dialect,
            source: Ipv4Addr::new(127, 77, high, low),
            first: 0,
            count: self.common.clients,
            window: WINDOW,
            watch,
        };
        Ok((Worker::start(self.common.load_core())?, clients))
    }

    /// Connects the clients of one server. Also returns how long that took, in seconds.
    ///
    /// # Errors
    /// When not all can connect.
    pub fn clients(
        &mut self,
        to: SocketAddr,
        path: &str,
        dialect: Dialect,
        watch: Watch,
    ) -> Result<(Vec<Worker>, f64)> {
        let (worker, clients) = self.load(to, path, dialect, watch)?;
        let mut workers = vec![worker];
        let seconds = order_all(&mut workers, |_| Order::Connect(clients.clone()))?;
        Ok((workers, seconds))
    }

    /// A server with all its clients, subscribed.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn served(&mut self, watch: Watch) -> Result<(Target, Vec<Worker>)> {
        let target = self.server()?;
        let (mut workers, _) = self.clients(target.address, &target.path, target.dialect, watch)?;
        order_all(&mut workers, |_| Order::Subscribe)?;
        Ok((target, workers))
    }

    /// Two servers with all their clients, subscribed. Updates that are published through the first one reach the clients of
    /// both.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn twins(&mut self, watch: Watch) -> Result<Twins> {
        let (amqp, exchange, start) = (self.broker()?, unique("twins"), self.start()?);
        let mut twin = || -> Result<(Target, Worker)> {
            let target = Target::gateway(&start, &amqp, &exchange)?;
            let (mut worker, clients) = self.load(target.address, &target.path, target.dialect, watch)?;
            let workers = std::slice::from_mut(&mut worker);
            order_all(workers, |_| Order::Connect(clients.clone()))?;
            order_all(workers, |_| Order::Subscribe)?;
            Ok((target, worker))
        };
        let ((server, clients), (other, others)) = (twin()?, twin()?);
        Ok(Twins { servers: [server, other], clients: [clients, others] })
    }

    /// When updates were sent.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// The floor, with the same number of clients as the server.
    ///
    /// # Errors
    /// When one of them fails.
    pub fn floor(&mut self, watch: Watch) -> Result<(Floor, Vec<Worker>)> {
        let mut floor = Floor::start(self.common.server_core())?;
        let address = floor.address();
        let mut workers = Vec::new();
        floor.accept(self.common.clients, watch, || {
            workers = self.clients(address, "", Dialect::Raw, watch)?.0;
            Ok(())
        })?;
        Ok((floor, workers))
    }

    /// Measures one phase.
    ///
    /// # Errors
    /// When something fails.
    pub fn measure(
        &self,
        source: &mut dyn Source,
        workers: &mut [Worker],
        phase: &Phase,
        pace: Pace,
    ) -> Result<Sample> {
        measure(source, workers, &self.stamps, phase, pace)
    }

    /// Measures `count` updates of bug 1: at this rate, or, without a rate, each when the one before has arrived
    /// everywhere.
    ///
    /// # Errors
    /// When something fails.
    pub fn apart(
        &mut self,
        source: &mut dyn Source,
        workers: &mut [Worker],
        count: u32,
        rate: Option<u32>,
    ) -> Result<Sample> {
        if let Some(rate) = rate {
            let phase = self.phase(count, 1, 1);
            return self.measure(source, workers, &phase, Pace::per_second(rate));
        }
        let phase = self.phase(1, 1, 1);
        let mut sum = self.measure(source, workers, &phase, Pace::per_second(1))?;
        for _ in 1..count {
            let phase = self.phase(1, 1, 1);
            sum.add(&self.measure(source, workers, &phase, Pace::per_second(1))?);
        }
        Ok(sum)
    }
}

/// The `bugfeed` that was built together with this program.
fn beside() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("bugfeed");
    if !path.exists() {
        bail!(
            "no bugfeed at {}: build it in the same profile (cargo build --profile dist), or name one with --server",
            path.display()
        );
    }
    Ok(path)
}
