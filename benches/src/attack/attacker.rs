//! The attacking process: all connections of one attack, in one loop over their sockets.
//!
//! Goes in: an [`Order`] to begin and one to stop, a JSON line each, on standard input. Comes out: what was done, on standard
//! output. It is bounded in connections, and ends by itself after the time that the order names.

use std::collections::VecDeque;
use std::io::BufRead as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use mio::{Events, Interest, Poll, Token, Waker};
use serde::{Deserialize, Serialize};

use super::Strength;
use super::catalogue::{Attack, Field, Group, Port, Then};
use super::conn::{Conn, Outcome};
use crate::load::{Answer, say};

/// An order to an attacker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Attack.
    Go {
        /// How.
        attack: String,
        /// Where, and how hard.
        field: Field,
        /// The port for clients.
        clients: SocketAddr,
        /// The admin port.
        admin: SocketAddr,
        /// It ends after so many milliseconds at the latest.
        most_ms: u64,
    },
    /// Close all connections, and say what was done.
    Stop,
}

/// Connections that are begun in one turn, so that those that stand have their turns as well.
const OPENED_AT_ONCE: usize = 64;
/// Connections in one attack, in all.
const MOST_OPENED: u64 = 500_000;
const BUFFER: usize = 256 * 1024;
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);
const WAKE: Token = Token(usize::MAX);
/// Source addresses that take turns: each has some 28,000 ports, which are not free at once.
const SOURCES: u64 = 200;

/// Runs as an attacker until it is told to stop, or standard input ends.
///
/// # Errors
/// When an order cannot be carried out.
pub fn run() -> Result<()> {
    crate::procfs::raise_file_limit(6000)?;
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str::<Order>(&line)?));
            if sender.send(order).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(sender);
        // If this fails, the loop has ended and needs no waking.
        let _ = waker.wake();
    });
    let Ok(order) = orders.recv() else { return Ok(()) };
    let Order::Go { attack, field, clients, admin, most_ms } = order? else { bail!("there is nothing to stop") };
    let groups = Attack::named(&attack).context("no such attack")?.groups(&field);
    let mut attacker = Attacker::new(poll, groups, [clients, admin]);
    match attacker.until(&orders, Instant::now() + Duration::from_millis(most_ms)) {
        // Whoever started this may be gone.
        Ok(()) => say(&Answer::Attacked(attacker.tools.strength)).or(Ok(())),
        Err(error) => say(&Answer::Failed(format!("{error:#}"))),
    }
}

struct Attacker {
    poll: Poll,
    groups: Vec<Group>,
    /// The port for clients, and the admin port.
    to: [SocketAddr; 2],
    conns: Vec<Option<Conn>>,
    /// Places of connections that are to be opened: the place, and its group.
    closed: VecDeque<(usize, usize)>,
    /// Connections whose sockets take more.
    eager: VecDeque<usize>,
    dripped: Instant,
    tools: Tools,
}

/// What all connections use.
struct Tools {
    buffer: Vec<u8>,
    strength: Strength,
}

impl Attacker {
    fn new(poll: Poll, groups: Vec<Group>, to: [SocketAddr; 2]) -> Attacker {
        let of_group = |(number, group): (usize, &Group)| std::iter::repeat_n(number, group.count as usize);
        let closed: VecDeque<(usize, usize)> = groups.iter().enumerate().flat_map(of_group).enumerate().collect();
        Attacker {
            poll,
            groups,
            to,
            conns: closed.iter().map(|_| None).collect(),
            closed,
            eager: VecDeque::new(),
            dripped: Instant::now(),
            tools: Tools { buffer: vec![0; BUFFER], strength: Strength::default() },
        }
    }

    /// Attacks until an order comes or time is up.
    fn until(&mut self, orders: &Receiver<Result<Order>>, end: Instant) -> Result<()> {
        let began = Instant::now();
        let mut events = Events::with_capacity(1024);
        while Instant::now() < end {
            match orders.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(Order::Stop)) | Err(TryRecvError::Disconnected) => break,
                Ok(other) => bail!("out of turn: {other:?}"),
            }
            self.turn(&mut events)?;
        }
        self.tools.strength.seconds = began.elapsed().as_secs_f64();
        self.conns.clear();
        Ok(())
    }

    fn turn(&mut self, events: &mut Events) -> Result<()> {
        let opens = !self.closed.is_empty() && self.tools.strength.opened < MOST_OPENED;
        let timeout = if opens || !self.eager.is_empty() { 0 } else { 20 };
        match self.poll.poll(events, Some(Duration::from_millis(timeout))) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => other.context("epoll")?,
        }
        for event in &*events {
            let slot = event.token().0;
            if event.is_readable() {
                self.step(slot, Conn::read_with);
            }
            if event.is_read_closed() || event.is_error() {
                // Those who do not read are told nothing else.
                self.step(slot, |_, _, _| Outcome::Ended);
            }
            if event.is_writable() {
                self.step(slot, Conn::send_with);
            }
        }
        for _ in 0..self.eager.len() {
            let Some(slot) = self.eager.pop_front() else { break };
            self.step(slot, |conn, group, tools| {
                conn.eager = false;
                conn.send_with(group, tools)
            });
        }
        if opens {
            self.open()?;
        }
        self.drip();
        Ok(())
    }

    /// Does something with a connection, and with what came of it.
    fn step(&mut self, slot: usize, act: impl FnOnce(&mut Conn, &Group, &mut Tools) -> Outcome) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else { return };
        let number = conn.group;
        let group = &self.groups[number];
        match act(conn, group, &mut self.tools) {
            Outcome::Waits => return,
            Outcome::Goes => {
                if !std::mem::replace(&mut conn.eager, true) {
                    self.eager.push_back(slot);
                }
                return;
            }
            Outcome::ReadsOn => {
                // The event comes once more. Should this fail, the server closes the connection some time.
                let _ = self.poll.registry().reregister(&mut conn.stream, Token(slot), BOTH);
                return;
            }
            Outcome::Ended => self.tools.strength.ended += 1,
            Outcome::Refused => self.tools.strength.refused += 1,
            Outcome::Leaves => self.tools.strength.left += 1,
        }
        self.conns[slot] = None;
        if group.again {
            self.closed.push_back((slot, number));
        }
    }

    fn open(&mut self) -> Result<()> {
        for _ in 0..OPENED_AT_ONCE.min(self.closed.len()) {
            let Some((slot, number)) = self.closed.pop_front() else { break };
            let group = &self.groups[number];
            let to = self.to[usize::from(group.port == Port::Admin)];
            let count = self.tools.strength.opened;
            let [.., process] = std::process::id().to_be_bytes();
            let last = u8::try_from(count % SOURCES)? + 1;
            let mut conn = Conn::open(to, Ipv4Addr::new(127, 78, process, last), number, group, count)?;
            self.poll.registry().register(&mut conn.stream, Token(slot), BOTH)?;
            self.tools.strength.opened += 1;
            self.conns[slot] = Some(conn);
        }
        Ok(())
    }

    /// Lets those send a byte whose turn it is.
    fn drip(&mut self) {
        let every = self.groups.iter().filter_map(|group| match group.then {
            Then::Drip(_, every) => Some(every),
            _ => None,
        });
        let Some(every) = every.min() else { return };
        if self.dripped.elapsed() < every {
            return;
        }
        self.dripped = Instant::now();
        for slot in 0..self.conns.len() {
            self.step(slot, |conn, group, tools| match group.then {
                Then::Drip(byte, _) => conn.drip(byte, &mut tools.strength),
                _ => Outcome::Waits,
            });
        }
    }
}

impl Conn {
    fn send_with(&mut self, group: &Group, tools: &mut Tools) -> Outcome {
        self.send(group, &mut tools.strength)
    }

    fn read_with(&mut self, group: &Group, tools: &mut Tools) -> Outcome {
        self.read(group, &mut tools.buffer, &mut tools.strength)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// Attacks a server that answers once and hangs up, until that has happened three times.
    fn attacked(groups: Vec<Group>, answer: &'static [u8]) -> (Strength, Vec<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let (stop, orders) = mpsc::channel();
        let server = std::thread::spawn(move || {
            let took = (0..3).map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut got = vec![0; 64];
                let read = stream.read(&mut got).unwrap();
                got.truncate(read);
                stream.write_all(answer).unwrap();
                got
            });
            let took = took.collect();
            stop.send(Ok(Order::Stop)).unwrap();
            took
        });
        let mut attacker = Attacker::new(Poll::new().unwrap(), groups, [to, to]);
        attacker.until(&orders, Instant::now() + Duration::from_secs(20)).unwrap();
        (attacker.tools.strength, server.join().unwrap())
    }

    fn group(then: Then) -> Group {
        Group {
            count: 1,
            port: Port::Clients,
            opening: vec![b"one".to_vec(), b"two".to_vec()],
            handshake: false,
            first: Vec::new(),
            then,
            reads: true,
            again: true,
        }
    }

    #[test]
    fn connections_are_opened_again_and_openings_take_turns() {
        let (strength, took) = attacked(vec![group(Then::Leave)], b"no");
        assert_eq!(took, [b"one", b"two", b"one"]);
        assert!(strength.opened >= 3 && strength.left + strength.ended >= 2, "{strength:?}");
    }

    #[test]
    fn who_wants_a_websocket_and_gets_none_was_refused() {
        let group = Group { handshake: true, ..group(Then::Nothing) };
        let (strength, _) = attacked(vec![group], b"HTTP/1.1 503 full\r\n\r\n");
        assert!(strength.refused >= 2, "{strength:?}");
        assert_eq!(strength.left, 0);
    }
}
