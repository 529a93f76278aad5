//! The floor: a process that only calls write(2), with the same frames to as many sockets at the same pace. A server is
//! compared with it, because it shows what the kernel alone costs on this machine at this time.
//!
//! The floor encodes the frames and looks up the receivers beforehand; when idle, a timer wakes it. As with a server,
//! the processor time of the whole process is counted.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock::{Stamps, exact_sleeps, now_ns, sleep_until};
use crate::load::say;
use crate::measure::Source;
use crate::plan::{Phase, Watch};
use crate::publish::Pace;

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// This many clients will connect; the plan says what each of them watches.
    Accept { count: u32, watch: Watch },
    /// Encode this phase's frames, one every so many nanoseconds.
    Prepare { phase: Phase, every_ns: u64 },
    /// Write the frames, the first one at this moment.
    Go { start_ns: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Listening(SocketAddr),
    Done,
}

/// One update: where its frame lies, and who gets it.
#[derive(Debug)]
struct Write {
    frame: Range<usize>,
    to: Rc<[u32]>,
}

/// Runs as the floor's process until standard input ends.
///
/// # Errors
/// When a client fails.
pub fn run() -> Result<()> {
    exact_sleeps();
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(4096)?;
    let listener = TcpListener::from(listener);
    say(&Answer::Listening(listener.local_addr()?))?;
    let mut clients: Vec<TcpStream> = Vec::new();
    let mut watchers: HashMap<u32, Rc<[u32]>> = HashMap::new();
    let (mut frames, mut writes, mut every_ns) = (Vec::new(), Vec::new(), 0);
    for line in std::io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Order::Accept { count, watch } => {
                // The clients connect after this answer.
                say(&Answer::Done)?;
                clients = accept(&listener, count)?;
                watchers = watchers_of(count, watch);
            }
            Order::Prepare { phase, every_ns: every } => {
                every_ns = every;
                (frames, writes) = prepare(&phase, &watchers);
            }
            Order::Go { start_ns } => {
                sleep_until(start_ns);
                for (number, write) in writes.iter().enumerate() {
                    if every_ns > 0 {
                        sleep_until(start_ns + number as u64 * every_ns);
                    }
                    for &client in &*write.to {
                        clients[client as usize].write_all(&frames[write.frame.clone()])?;
                    }
                }
            }
        }
        say(&Answer::Done)?;
    }
    Ok(())
}

fn accept(listener: &TcpListener, count: u32) -> Result<Vec<TcpStream>> {
    let mut clients: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    for _ in 0..count {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut number = [0; 4];
        stream.read_exact(&mut number)?;
        let place = clients.get_mut(u32::from_be_bytes(number) as usize).context("a client with another number")?;
        *place = Some(stream);
    }
    clients.into_iter().collect::<Option<_>>().context("two clients with the same number")
}

fn watchers_of(count: u32, watch: Watch) -> HashMap<u32, Rc<[u32]>> {
    let mut watchers: HashMap<u32, Vec<u32>> = HashMap::new();
    for client in 0..count {
        for bug in watch.of(client) {
            watchers.entry(bug).or_default().push(client);
        }
    }
    watchers.into_iter().map(|(bug, clients)| (bug, clients.into())).collect()
}

fn prepare(phase: &Phase, watchers: &HashMap<u32, Rc<[u32]>>) -> (Vec<u8>, Vec<Write>) {
    let mut frames = Vec::new();
    let write = |index| {
        let begin = frames.len();
        bugfeed_core::frame::push_update(&mut frames, phase.change(index));
        let to = watchers.get(&phase.bug(index)).cloned().unwrap_or_else(|| Rc::from([]));
        Write { frame: begin..frames.len(), to }
    };
    let writes = phase.indices().map(write).collect();
    (frames, writes)
}

/// The floor's process, as its parent sees it. The process ends when its standard input ends.
#[derive(Debug)]
pub struct Floor {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Floor {
    /// Starts it, on this processor if one is named.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(core: Option<usize>) -> Result<Floor> {
        let core = core.map(|core| format!("--core={core}"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["floor-server"].into_iter().chain(core.as_deref())).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the floor's process")?;
        let orders = child.stdin.take().context("the floor has no input")?;
        let answers = BufReader::new(child.stdout.take().context("the floor has no output")?);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut floor = Floor { child, orders, answers, address };
        match floor.answer()? {
            Answer::Listening(address) => floor.address = address,
            Answer::Done => bail!("the floor answers out of turn"),
        }
        Ok(floor)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts this many clients, while `connect` connects them.
    ///
    /// # Errors
    /// When a client does not connect.
    pub fn accept(&mut self, count: u32, watch: Watch, connect: impl FnOnce() -> Result<()>) -> Result<()> {
        self.order(&Order::Accept { count, watch })?;
        connect()?;
        self.done()
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        let line = serde_json::to_string(order)? + "\n";
        self.orders.write_all(line.as_bytes()).context("the floor's process is gone")?;
        match order {
            Order::Accept { .. } => self.done(),
            _ => Ok(()),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("the floor's process ended: {}", self.child.wait()?);
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn done(&mut self) -> Result<()> {
        match self.answer()? {
            Answer::Done => Ok(()),
            other => bail!("the floor answers out of turn: {other:?}"),
        }
    }
}

impl Source for Floor {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn prepare(&mut self, phase: &Phase, pace: Pace, _stamps: &Stamps) -> Result<()> {
        self.order(&Order::Prepare { phase: *phase, every_ns: pace.every_ns() })?;
        self.done()
    }

    fn go(&mut self, phase: &Phase, pace: Pace, stamps: &Stamps) -> Result<()> {
        let start_ns = now_ns() + 20_000_000;
        stamps.put_all(phase, |index| start_ns + u64::from(index - phase.first) * pace.every_ns())?;
        self.order(&Order::Go { start_ns })?;
        self.done()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The process has nothing to save, and may be waiting for a client that never connects.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
