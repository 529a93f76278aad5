//! The server that is measured: started by this program, or running already.
//!
//! Goes in: what to start, and how it is fed. Comes out: its address, its process id, and a way to publish to it.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bugfeed_testbed::{Proc, Run, free_port};

use crate::clock::Stamps;
use crate::dialect::Dialect;
use crate::measure::Source;
use crate::plan::Phase;
use crate::publish::amqp::AmqpPublisher;
use crate::publish::lines::LinePublisher;
use crate::publish::stream::StreamPublisher;
use crate::publish::{Pace, Publish, publish};

/// How changes get into a bugfeed that is started here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Via {
    /// The gateway, fed by RabbitMQ: the real way
    Amqp,
    /// The feed alone, fed over a plain socket: what the broker and its client library cost is not in it
    #[value(alias = "hub")]
    Feed,
}

/// How to start a bugfeed.
#[derive(Clone, Debug)]
pub struct Start {
    /// The binary.
    pub server: PathBuf,
    /// Further options of `bugfeed gateway`.
    pub args: Vec<String>,
    /// The processor it runs on; any, if `None`.
    pub core: Option<usize>,
}

/// A server that somebody else started.
#[derive(Clone, Debug, clap::Args)]
pub struct Running {
    /// Its process
    #[arg(long)]
    pub pid: u32,
    /// Where clients connect
    #[arg(long)]
    pub connect: SocketAddr,
    /// The path of its WebSocket
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Where updates are published
    #[arg(long)]
    pub publish: SocketAddr,
    /// How it is spoken to
    #[arg(long, value_enum)]
    pub dialect: Dialect,
}

/// A server, and a way to publish to it.
pub struct Target {
    pid: u32,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its admin port, if it has one.
    pub admin: Option<SocketAddr>,
    /// The path of its WebSocket.
    pub path: String,
    /// The server's protocol.
    pub dialect: Dialect,
    publisher: Publisher,
    /// At full speed, the server is stopped (SIGSTOP) while the broker's queue is filled, so that the cost of
    /// publishing is over before the measurement begins.
    stop_to_fill: bool,
    /// At full speed, the server generates the messages itself.
    generates: bool,
    proc: Option<Proc>,
}

enum Publisher {
    Feed(LinePublisher),
    Other(Box<dyn Publish>),
}

impl Publisher {
    fn any(&mut self) -> &mut dyn Publish {
        match self {
            Publisher::Feed(lines) => lines,
            Publisher::Other(other) => &mut **other,
        }
    }
}

const START_LIMIT: Duration = Duration::from_secs(30);

impl Target {
    /// Starts a gateway with this broker, and a publisher of its feed.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn gateway(start: &Start, amqp: &str, exchange: &str) -> Result<Target> {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let feed = format!("default={exchange}");
        let words = ["gateway", "--amqp", amqp, "--feed", &feed, "--admin-listen", &admin.to_string()]
            .map(OsString::from)
            .to_vec();
        let (mut proc, address) = run(start, &start.server.clone().into_os_string(), words)?;
        wait(&mut proc, || get(admin, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 200")))?;
        let publisher = Publisher::Other(Box::new(AmqpPublisher::connect(amqp, exchange)?));
        Ok(Target { admin: Some(admin), ..Target::new(proc, address, publisher, true) })
    }

    /// Uses a server of another kind, which runs already.
    ///
    /// # Errors
    /// When it takes no updates.
    pub fn running(running: &Running) -> Result<Target> {
        let publisher = StreamPublisher::connect(running.dialect, running.publish)?;
        Ok(Target {
            pid: running.pid,
            address: running.connect,
            admin: None,
            path: running.path.clone(),
            dialect: running.dialect,
            publisher: Publisher::Other(Box::new(publisher)),
            stop_to_fill: false,
            generates: false,
            proc: None,
        })
    }

    /// Starts a feed without a broker (see [`crate::feed_server`]).
    ///
    /// # Errors
    /// When it does not start.
    pub fn feed_alone(start: &Start) -> Result<Target> {
        let feed = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let words = vec!["feed-server".into(), "--feed-listen".into(), feed.to_string().into(), "--".into()];
        let (mut proc, address) = run(start, &std::env::current_exe()?.into_os_string(), words)?;
        // The listener serves one connection at a time, so this test connection ends before the publisher's begins.
        wait(&mut proc, || TcpStream::connect(feed).is_ok())?;
        let publisher = Publisher::Feed(LinePublisher::connect(feed)?);
        Ok(Target::new(proc, address, publisher, false))
    }

    fn new(proc: Proc, address: SocketAddr, publisher: Publisher, stop_to_fill: bool) -> Target {
        let (pid, path, dialect) = (proc.pid(), "/".to_owned(), Dialect::Classic);
        let admin = None;
        Target { pid, address, admin, path, dialect, publisher, stop_to_fill, generates: false, proc: Some(proc) }
    }

    fn signal(&mut self, stop: bool) {
        if let Some(proc) = &mut self.proc {
            if stop { proc.sigstop() } else { proc.sigcont() }
        }
    }

    /// Asks it to end (SIGTERM). Returns how long that took; `None` if it had to be killed after `limit`.
    ///
    /// # Errors
    /// When it was started by somebody else.
    pub fn end(&mut self, limit: Duration) -> Result<Option<Duration>> {
        let proc = self.proc.as_mut().context("this server was not started here")?;
        let began = Instant::now();
        proc.sigterm();
        while proc.exited()?.is_none() {
            if began.elapsed() > limit {
                proc.kill9();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(began.elapsed()))
    }

    /// Sets whether, at full speed, the server generates the messages itself, so that neither reading nor decoding them
    /// is measured.
    pub fn generates(&mut self, yes: bool) {
        self.generates = yes;
    }

    /// The server's output, to show when something went wrong.
    pub fn output(&self) -> String {
        self.proc.as_ref().map(Proc::output).unwrap_or_default()
    }
}

fn run(start: &Start, program: &OsString, mut words: Vec<OsString>) -> Result<(Proc, SocketAddr)> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    words.extend(["--listen".into(), address.to_string().into()]);
    words.extend(start.args.iter().map(OsString::from));
    let run = match start.core {
        Some(core) => Run::new("taskset").args(["-c", &core.to_string()]).arg(program),
        None => Run::new(program),
    };
    let proc = run.args(words).spawn().with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
    Ok((proc, address))
}

pub(crate) fn wait(proc: &mut Proc, mut ready: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !ready() {
        if let Some(status) = proc.exited()? {
            bail!("the server ended: {status}\n{}", proc.output());
        }
        if began.elapsed() > START_LIMIT {
            bail!("the server does not become ready\n{}", proc.output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

impl Source for Target {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn prepare(&mut self, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()> {
        if pace == Pace::Full && self.stop_to_fill {
            self.signal(true);
            publish(self.publisher.any(), phase, pace, stamps)?;
        }
        Ok(())
    }

    fn go(&mut self, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()> {
        if pace == Pace::Full && self.stop_to_fill {
            self.signal(false);
            return Ok(());
        }
        if let (Pace::Full, true, Publisher::Feed(lines)) = (pace, self.generates, &mut self.publisher) {
            return lines.generate(phase);
        }
        publish(self.publisher.any(), phase, pace, stamps)
    }
}
