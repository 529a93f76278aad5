//! The processes of bugfeed on the whole way: a shim, and a gateway.
//!
//! Goes in: binaries and options. Comes out: running, ready processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bugfeed_testbed::{Proc, Run, free_port};

use crate::target::{get, wait};

/// The two programs, built from one source.
#[derive(Clone, Debug)]
pub(super) struct Build {
    /// What tables call it.
    pub(super) name: &'static str,
    /// The program `bugfeed`.
    pub(super) server: PathBuf,
    /// The program `bugfeed-shim`.
    pub(super) shim: PathBuf,
}

impl Build {
    /// This `bugfeed`, and the `bugfeed-shim` beside it.
    ///
    /// # Errors
    /// When one of them is not there.
    pub(super) fn at(name: &'static str, server: &Path) -> Result<Build> {
        let build = Build { name, server: server.to_owned(), shim: server.with_file_name("bugfeed-shim") };
        for path in [&build.server, &build.shim] {
            if !path.exists() {
                bail!(
                    "no {}: build both programs in one profile (cargo build --profile dist --workspace --bins)",
                    path.display()
                );
            }
        }
        Ok(build)
    }
}

/// A running shim.
pub(super) struct Shim {
    /// Its process.
    pub(super) proc: Proc,
    admin: SocketAddr,
}

impl Shim {
    /// Starts a shim; returns when it is ready. `table` and `ledger` are URLs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) fn start(
        build: &Build,
        (table, ledger): (&str, &str),
        (amqp, exchange): (&str, &str),
        more: &[String],
    ) -> Result<Shim> {
        let admin = local()?;
        let run = Run::new(&build.shim)
            .args(["run", "--source", table, "--ledger", ledger, "--amqp", amqp, "--exchange", exchange])
            .args(["--admin-listen", &admin.to_string()])
            .args(more);
        let mut proc = run.spawn()?;
        wait(&mut proc, || is_ready(admin))?;
        Ok(Shim { proc, admin })
    }

    /// How many changes the broker has confirmed since the start.
    ///
    /// # Errors
    /// When the shim does not say.
    pub(super) fn published(&self) -> Result<u64> {
        let page = get(self.admin, "/metrics")?;
        let count = page.lines().find_map(|line| line.strip_prefix("bugfeed_shim_changes_published_total "));
        Ok(count.context("no count of published changes")?.trim().parse()?)
    }

    /// Waits until so many changes are confirmed.
    ///
    /// # Errors
    /// When that takes longer than the limit.
    pub(super) fn wait_published(&self, count: u64, limit: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let published = self.published()?;
            if published >= count {
                return Ok(());
            }
            if began.elapsed() > limit {
                bail!("{published} of {count} changes were confirmed in {} s\n{}", limit.as_secs(), self.proc.output());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A running gateway.
pub(super) struct Gateway {
    /// Its process.
    pub(super) proc: Proc,
    /// Where clients connect.
    pub(super) address: SocketAddr,
}

impl Gateway {
    /// Starts a gateway of this exchange; returns when it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub(super) fn start(build: &Build, amqp: &str, exchange: &str, clients: u32) -> Result<Gateway> {
        let (address, admin) = (local()?, local()?);
        let run = Run::new(&build.server)
            .args(["gateway", "--amqp", amqp, "--feed", &format!("default={exchange}")])
            .args(["--listen", &address.to_string(), "--admin-listen", &admin.to_string()])
            .arg(format!("--max-connections={}", clients + 1000));
        let mut proc = run.spawn()?;
        wait(&mut proc, || is_ready(admin))?;
        Ok(Gateway { proc, address })
    }
}

fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)))
}

fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 200"))
}
