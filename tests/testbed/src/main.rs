//! One RabbitMQ, one MariaDB and one PostgreSQL for a whole run of tests. In: `run -- COMMAND…`, or `up`. Out: the
//! command's exit code, with the servers' URLs in its environment; or the URLs themselves. Nothing that it or its
//! command started survives it.

use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bugfeed_testbed::signal::{self, Signal};
use bugfeed_testbed::{MariaDb, Postgres, RabbitMq, shared, tool};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal as listen};

const HELP: &str = "\
testbed: throwaway RabbitMQ, MariaDB and PostgreSQL servers on free loopback ports

  testbed run -- COMMAND…   start them, run COMMAND with their URLs in its environment, stop them
  testbed up                start them, print `export` lines, and wait for Ctrl-C

A server whose variable is set already (BUGFEED_TEST_AMQP, BUGFEED_TEST_MYSQL, BUGFEED_TEST_POSTGRES) is not started.
Packages: rabbitmq-server, mariadb-server, postgresql.";

/// How long a command may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(15);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["run", "--", command @ ..] | ["run", command @ ..] if !command.is_empty() => run(command).await,
        ["up"] => up().await,
        ["--help" | "-h" | "help"] => {
            say(HELP);
            return ExitCode::SUCCESS;
        }
        _ => {
            say(HELP);
            return ExitCode::from(2);
        }
    };
    // Processes that a killed test left behind (such as a browser whose driver died) have become children of this
    // process.
    let orphans = signal::descendants(std::process::id());
    for pid in &orphans {
        signal::send(*pid, Signal::KILL);
    }
    signal::wait_gone(&orphans, GRACE);
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("testbed: {error:?}"));
            ExitCode::FAILURE
        }
    }
}

/// The servers that this program started; dropping this value stops them.
#[derive(Default)]
struct Servers {
    rabbitmq: Option<RabbitMq>,
    mariadb: Option<MariaDb>,
    postgres: Option<Postgres>,
}

impl Servers {
    /// Starts the servers whose variable is not set, all at the same time.
    async fn start() -> Result<Self> {
        let missing = |name: &str| std::env::var_os(name).is_none_or(|value| value.is_empty());
        let began = Instant::now();
        let rabbitmq = start_if(missing(shared::AMQP), "rabbitmq-server", RabbitMq::installed(), RabbitMq::start);
        let mariadb = start_if(missing(shared::MYSQL), "mariadb-server", MariaDb::installed(), MariaDb::start);
        let postgres = start_if(missing(shared::POSTGRES), "postgresql", Postgres::installed(), Postgres::start);
        let (rabbitmq, mariadb, postgres) = tokio::try_join!(rabbitmq, mariadb, postgres)?;
        let servers = Self { rabbitmq, mariadb, postgres };
        let names: Vec<&str> = servers.variables().iter().map(|(name, _)| *name).collect();
        say(&format!("testbed: started {} in {:.1} s", names.join(" "), began.elapsed().as_secs_f32()));
        Ok(servers)
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        variables.extend(self.rabbitmq.as_ref().map(|server| (shared::AMQP, server.url())));
        variables.extend(self.mariadb.as_ref().map(|server| (shared::MYSQL, server.url(""))));
        variables.extend(self.postgres.as_ref().map(|server| (shared::POSTGRES, server.url(""))));
        variables
    }
}

async fn start_if<T>(
    wanted: bool,
    package: &str,
    installed: bool,
    start: impl AsyncFnOnce() -> Result<T>,
) -> Result<Option<T>> {
    if !wanted {
        return Ok(None);
    }
    if !installed {
        bail!("{package} is not installed: install the Debian package {package}, or let tests/run do it");
    }
    start().await.with_context(|| format!("cannot start {package}")).map(Some)
}

/// The signals that ask this process to end; each gives the exit code that a shell would give.
struct Interrupts {
    int: tokio::signal::unix::Signal,
    term: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> Result<Self> {
        Ok(Self {
            int: listen(SignalKind::interrupt())?,
            term: listen(SignalKind::terminate())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.int.recv() => 130,
            _ = self.term.recv() => 143,
            _ = self.hup.recv() => 129,
        }
    }
}

async fn run(command: &[&str]) -> Result<u8> {
    let mut interrupts = Interrupts::new()?;
    // Orphans of killed tests become children of this process, so that it can end them.
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    let temp = tempfile::Builder::new().prefix("bugfeed-run-").tempdir()?;
    allow_other_users(temp.path())?;
    let servers = tokio::select! {
        servers = Servers::start() => servers?,
        code = interrupts.next() => return Ok(code),
    };
    // If this process is killed, the kernel sends SIGTERM to the command. The signal depends on the thread that started
    // the command; this is the main thread, which lives as long as the process.
    let mut child = Command::new(tool("setpriv")?)
        .args(["--pdeathsig", "TERM", "--"])
        .args(command)
        .envs(servers.variables())
        // Files of tests that could not clean up are removed with this folder.
        .env("TMPDIR", temp.path())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", command.join(" ")))?;
    tokio::select! {
        status = child.wait() => Ok(exit_code(status?)),
        code = interrupts.next() => {
            end(&mut child, &mut interrupts).await;
            Ok(code)
        }
    }
}

/// When the tests run as root, PostgreSQL runs as another user, which must be able to reach its folder inside this one.
fn allow_other_users(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))?)
}

/// Ends a command with SIGTERM, and with SIGKILL when it takes too long or another signal comes.
async fn end(child: &mut Child, interrupts: &mut Interrupts) {
    if let Some(pid) = child.id() {
        signal::send(pid, Signal::TERM);
    }
    tokio::select! {
        _ = child.wait() => {}
        _ = interrupts.next() => {}
        () = tokio::time::sleep(GRACE) => {}
    }
    let _gone_already = child.kill().await;
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(1)
}

async fn up() -> Result<u8> {
    let mut interrupts = Interrupts::new()?;
    let servers = tokio::select! {
        servers = Servers::start() => servers?,
        _ = interrupts.next() => return Ok(0),
    };
    for (name, url) in servers.variables() {
        print(&format!("export {name}='{url}'"));
    }
    say("testbed: Ctrl-C stops them");
    interrupts.next().await;
    Ok(0)
}

#[expect(clippy::print_stdout, reason = "lines for the shell")]
fn print(line: &str) {
    println!("{line}");
}

#[expect(clippy::print_stderr, reason = "a command-line tool")]
fn say(line: &str) {
    eprintln!("{line}");
}
